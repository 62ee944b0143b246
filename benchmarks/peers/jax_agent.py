"""What an agent that others published in JAX must offer, so that replicas of it can be trained.

| agent  | file          | repository                                | commit  | by      |
|--------|---------------|-------------------------------------------|---------|---------|
| rebrac | jax_rebrac.py | github.com/tinkoff-ai/ReBRAC              | 694385b | authors |
| iql    | jax_iql.py    | github.com/ikostrikov/implicit_q_learning | 09d7002 | authors |
| td3_bc | jax_td3_bc.py | github.com/nissymori/JAX-CORL             | d747dd8 | others  |

Nothing of theirs is copied or changed: networks, losses, optimisers and target updates are
imported from a clone. Batches and the loop around the updates are ours, see jax_replicas.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import jax

Tree = Any  # of arrays
Batch = Mapping[str, jax.Array]
Layers = list[tuple[jax.Array, jax.Array]]  # weights (in, out) and biases (out,)


class JaxAgent(ABC):
    """One update of a published agent as a pure function of its state.

    Attributes:
        settings: numbers that a replica may have others of, by name; `discount` is one.
        batch_size: the published one.
        actor_every: the actor and the targets move at every so many updates.
        observation_floor: added to the standard deviation by which centred observations are
            divided; None where observations are taken as they are.
        returns_span: rewards are scaled until the episodes' returns span this; None where they
            are taken as they are.
        action_limit: recorded actions are clipped to this.
        beside_mean: settings that weigh against a mean over an action's entries.
    """

    settings: Mapping[str, float]
    batch_size: int
    actor_every: int = 1
    observation_floor: float | None = None
    returns_span: float | None = None
    action_limit: float = 1.0
    beside_mean: tuple[str, ...] = ()

    @abstractmethod
    def create(
        self, seed: jax.Array, observations: jax.Array, actions: jax.Array, updates: int
    ) -> Tree:
        """An untrained state.

        Args:
            seed: an integer.
            observations: (1, obs_dim), for their shape.
            actions: (1, action_dim), likewise.
            updates: of the whole training, where schedules end.
        """

    @abstractmethod
    def update(
        self,
        state: Tree,
        batch: Batch,
        key: jax.Array,
        settings: Mapping[str, Any],
        actor_too: bool,
    ) -> Tree:
        """The state after one more update.

        Args:
            state: before it.
            batch: observations (B, obs_dim), actions (B, action_dim), rewards (B,),
                next_observations (B, obs_dim), next_actions (B, action_dim), terminals (B,).
            key: for noise.
            settings: all of `settings`; the scale of noise may be (action_dim,).
            actor_too: whether the actor and the targets move.
        """

    @abstractmethod
    def actor(self, state: Tree) -> Layers:
        """The layers of the actor that is deployed: ReLU between them and tanh behind the last."""


def layers_of(params: Mapping[str, Any]) -> Layers:
    """Weights and biases in the order of the layers; those of inner modules come first."""
    parts = [(name, part) for name, part in params.items() if isinstance(part, Mapping)]
    parts.sort(key=lambda item: ("kernel" in item[1], int(item[0].rpartition("_")[2])))
    found: Layers = []
    for _, part in parts:
        found += [(part["kernel"], part["bias"])] if "kernel" in part else layers_of(part)
    return found
