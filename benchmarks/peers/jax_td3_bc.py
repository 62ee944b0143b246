"""TD3+BC (Fujimoto & Gu 2021) of JAX-CORL, github.com/nissymori/JAX-CORL."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import jax
from absent_modules import importable
from jax_agent import Batch, JaxAgent, Layers, Tree, layers_of

LEARNING_RATE = 3e-4  # the paper's; the port has 0.001


class TD3BC(JaxAgent):
    """Their networks, critics with LayerNorm, and updates."""

    observation_floor = 1e-3
    action_limit = 1 - 1e-5
    beside_mean = ("alpha",)

    def __init__(self, clone: Path) -> None:
        with importable(clone / "algos", "td3bc"), patch.dict(os.environ):  # it sets XLA_FLAGS
            vars(sys.modules["omegaconf"])["OmegaConf"] = SimpleNamespace(from_cli=dict)
            self.theirs = importlib.import_module("td3bc")
        self.config = config = self.theirs.TD3BCConfig
        self.batch_size, self.actor_every = config.batch_size, config.policy_freq
        self.settings = {
            "discount": config.discount,
            "alpha": config.alpha,
            "noise": config.policy_noise_std,
        }

    def create(
        self, seed: jax.Array, observations: jax.Array, actions: jax.Array, updates: int
    ) -> Tree:
        chosen = SimpleNamespace(
            hidden_dims=self.config.hidden_dims, actor_lr=LEARNING_RATE, critic_lr=LEARNING_RATE
        )
        key = jax.random.PRNGKey(seed)
        return self.theirs.create_td3bc_train_state(key, observations, actions, chosen)

    def update(
        self,
        state: Tree,
        batch: Batch,
        key: jax.Array,
        settings: Mapping[str, Any],
        actor_too: bool,
    ) -> Tree:
        chosen = SimpleNamespace(
            discount=settings["discount"],
            alpha=settings["alpha"],
            policy_noise_std=settings["noise"],
            policy_noise_clip=self.config.policy_noise_clip,
        )
        named = self.theirs.Transition(
            observations=batch["observations"],
            actions=batch["actions"],
            rewards=batch["rewards"],
            next_observations=batch["next_observations"],
            dones=batch["terminals"],
        )
        state, _ = self.theirs.TD3BC.update_critic(state, named, key, chosen)
        if not actor_too:
            return state
        state, _ = self.theirs.TD3BC.update_actor(state, named, key, chosen)
        move, tau = self.theirs.target_update, self.config.tau
        return state._replace(
            target_critic=move(state.critic, state.target_critic, tau),
            target_actor=move(state.actor, state.target_actor, tau),
        )

    def actor(self, state: Tree) -> Layers:
        return layers_of(state.actor.params["params"])
