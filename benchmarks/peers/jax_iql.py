"""IQL by its authors (Kostrikov et al. 2021, github.com/ikostrikov/implicit_q_learning)."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import flax
import jax
import jax.numpy as jnp
from absent_modules import importable
from jax_agent import Batch, JaxAgent, Layers, Tree, layers_of

MODULES = ("actor", "common", "critic", "learner", "policy", "value_net")


class MultivariateNormalDiag(NamedTuple):
    """TensorFlow Probability's, as far as their actor asks for it: its density."""

    loc: jax.Array
    scale_diag: jax.Array

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Of (…, D) values, (…)."""
        scaled = (value - self.loc) / self.scale_diag
        each = -0.5 * scaled**2 - jnp.log(self.scale_diag) - 0.5 * math.log(2 * math.pi)
        return each.sum(-1)


class IQL(JaxAgent):
    """Their learner with the numbers of configs/mujoco_config.py; it acts by the mean.

    A state is (actor, critic, value, target critic). The actor's rate falls to 0 by a cosine, as
    theirs does.
    """

    batch_size = 256
    returns_span = 1000.0
    action_limit = 1 - 1e-5

    def __init__(self, clone: Path) -> None:
        self.settings = {"discount": 0.99, "tau": 0.005, "expectile": 0.7, "temperature": 3.0}
        vars(jax)["tree_multimap"] = jax.tree.map  # the name that their JAX had for it
        # jit of their sampling, which is not used here, names an argument that it does not have
        with importable(clone, *MODULES), patch.object(jax, "jit", lambda f, **_: f):
            vars(sys.modules["tensorflow_probability.substrates.jax"])["distributions"] = (
                SimpleNamespace(
                    MultivariateNormalDiag=MultivariateNormalDiag,
                    Distribution=MultivariateNormalDiag,
                )
            )
            self.theirs = importlib.import_module("learner")
            self.common = importlib.import_module("common")

    def create(
        self, seed: jax.Array, observations: jax.Array, actions: jax.Array, updates: int
    ) -> Tree:
        before = flax.config.flax_return_frozendict
        flax.config.update("flax_return_frozendict", True)  # as their Flax did
        try:
            made = self.theirs.Learner(seed, observations, actions, max_steps=updates)
        finally:
            flax.config.update("flax_return_frozendict", before)
        return made.actor, made.critic, made.value, made.target_critic

    def update(
        self,
        state: Tree,
        batch: Batch,
        key: jax.Array,
        settings: Mapping[str, Any],
        actor_too: bool,
    ) -> Tree:
        named = self.common.Batch(
            observations=batch["observations"],
            actions=batch["actions"],
            rewards=batch["rewards"],
            masks=1 - batch["terminals"],
            next_observations=batch["next_observations"],
        )
        numbers = (settings[name] for name in ("discount", "tau", "expectile", "temperature"))
        _, *after, _ = self.theirs._update_jit(key, *state, named, *numbers)
        return tuple(after)

    def actor(self, state: Tree) -> Layers:
        return layers_of(state[0].params)
