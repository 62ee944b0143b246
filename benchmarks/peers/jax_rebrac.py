"""ReBRAC by its authors (Tarasov et al. 2023, github.com/tinkoff-ai/ReBRAC)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from absent_modules import importable
from jax_agent import Batch, JaxAgent, Layers, Tree, layers_of

# of actor and critic, for every set; the paper has a pair for each, the actor's from 0.001 to 0.1
PENALTIES = (0.05, 0.01)


class Metrics(NamedTuple):
    """Where their updates put figures to log: none are kept."""

    def update(self, _: Mapping[str, Any]) -> Metrics:
        return self


class ReBRAC(JaxAgent):
    """Their networks and updates with the defaults of their Config.

    A state is (actor, critic), each with its target.
    """

    def __init__(self, clone: Path) -> None:
        with importable(clone, "src"):
            self.theirs = importlib.import_module("src.algorithms.rebrac")
            self.networks = importlib.import_module("src.networks")
        self.config = config = self.theirs.Config
        self.batch_size, self.actor_every = config.batch_size, config.policy_freq
        self.settings = {
            "discount": config.gamma,
            "actor_penalty": PENALTIES[0],
            "critic_penalty": PENALTIES[1],
            "noise": config.policy_noise,
        }

    def create(
        self, seed: jax.Array, observations: jax.Array, actions: jax.Array, updates: int
    ) -> Tree:
        config = self.config
        _, actor_key, critic_key = jax.random.split(jax.random.PRNGKey(seed), 3)
        actor = self.networks.DetActor(
            action_dim=actions.shape[-1],
            hidden_dim=config.hidden_dim,
            layernorm=config.actor_ln,
            n_hiddens=config.actor_n_hiddens,
        )
        critic = self.networks.EnsembleCritic(
            hidden_dim=config.hidden_dim,
            num_critics=2,
            layernorm=config.critic_ln,
            n_hiddens=config.critic_n_hiddens,
        )
        actor_params = actor.init(actor_key, observations)
        critic_params = critic.init(critic_key, observations, actions)
        return (
            self.theirs.ActorTrainState.create(
                apply_fn=actor.apply,
                params=actor_params,
                target_params=actor_params,
                tx=optax.adam(config.actor_learning_rate),
            ),
            self.theirs.CriticTrainState.create(
                apply_fn=critic.apply,
                params=critic_params,
                target_params=critic_params,
                tx=optax.adam(config.critic_learning_rate),
            ),
        )

    def update(
        self,
        state: Tree,
        batch: Batch,
        key: jax.Array,
        settings: Mapping[str, Any],
        actor_too: bool,
    ) -> Tree:
        actor, critic = state
        named = {
            "states": batch["observations"],
            "actions": batch["actions"],
            "rewards": batch["rewards"],
            "next_states": batch["next_observations"],
            "next_actions": batch["next_actions"],
            "dones": batch["terminals"],
        }
        numbers = {
            "gamma": settings["discount"],
            "actor_bc_coef": settings["actor_penalty"],
            "critic_bc_coef": settings["critic_penalty"],
            "tau": self.config.tau,
            "policy_noise": settings["noise"],
            "noise_clip": self.config.noise_clip,
        }
        full = {"normalize_q": self.config.normalize_q} if actor_too else {}
        update = self.theirs.update_td3 if actor_too else self.theirs.update_td3_no_targets
        _, actor, critic, _ = update(
            key=key, actor=actor, critic=critic, batch=named, metrics=Metrics(), **numbers, **full
        )
        return actor, critic

    def actor(self, state: Tree) -> Layers:
        return layers_of(state[0].params["params"])
