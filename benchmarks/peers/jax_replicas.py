"""Replicas of one published JAX agent, trained side by side: of several sets, settings and seeds.

One program makes the updates of all of them, drawing of batches included, on data that stay on the
device. Observations and actions of fewer entries than the largest are filled up with zeros. A
replica makes the updates that it would make alone: weights of absent entries begin at 0 and have
no gradient, no noise is added to absent actions, and a setting that weighs against a mean over an
action's entries shrinks as that mean does (so does the loss, which Adam does not see).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_agent import JaxAgent, Tree
from padding import Sizes, padded, padded_parameter
from peer_transitions import FloatArray, Transitions
from tanh_actor import TanhActor

AVERAGED = 0.05  # of the training: the horizon of the averaged actor
AVERAGE_EVERY = 100  # updates


@dataclass(frozen=True)
class Replica:
    """One run: a set by its name, a seed, and settings in place of the published ones."""

    set: str
    seed: int
    settings: Mapping[str, float] = field(default_factory=dict)


class Replicas:
    """Trains replicas of an agent together.

    Args:
        agent: what is trained.
        sets: by name.
        replicas: what each is trained on, and how.
        updates: of the whole training, where schedules end.
        batch_size: by default the published one.

    Raises:
        ValueError: for settings that the agent does not have.
    """

    def __init__(
        self,
        agent: JaxAgent,
        sets: Mapping[str, Transitions],
        replicas: Sequence[Replica],
        updates: int,
        batch_size: int | None = None,
    ) -> None:
        self.agent, self.replicas, self.updates = agent, replicas, updates
        self.batch_size = batch_size or agent.batch_size
        self.sizes = {name: sizes_of(data) for name, data in sets.items()}
        self.whole = Sizes(*np.max(list(self.sizes.values()), axis=0).tolist())
        self.scales = {name: observation_scale(agent, data) for name, data in sets.items()}
        rows = {name: self.rows(data, *self.scales[name]) for name, data in sets.items()}
        counts = [len(part) for part in rows.values()]
        spans = dict(zip(rows, zip(np.cumsum([0, *counts[:-1]]), counts, strict=True), strict=True))
        self.table = jnp.asarray(np.concatenate(list(rows.values())))
        self.spans = jnp.asarray([spans[replica.set] for replica in replicas])
        self.settings = stacked([self.settings_of(replica) for replica in replicas])
        self.keys = stacked([jax.random.PRNGKey(1000 + replica.seed) for replica in replicas])
        self.states = stacked([self.state_of(replica) for replica in replicas])
        self.averages = jax.vmap(agent.actor)(self.states)
        self.done = 0

    def rows(self, data: Transitions, mean: FloatArray, std: FloatArray) -> FloatArray:
        """The columns of a set beside each other, as the agent takes them; `batch` parts them."""
        limit = self.agent.action_limit
        observations = [(o - mean) / std for o in (data.observations, data.next_observations)]
        actions = [np.clip(a, -limit, limit) for a in (data.actions, data.next_actions)]
        rewards = data.rewards * reward_scale(self.agent, data)
        columns = [padded(part, self.whole.observation) for part in observations]
        columns += [padded(part, self.whole.action) for part in actions]
        columns += [rewards[:, None], data.terminals[:, None]]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def batch(self, rows: jax.Array) -> dict[str, jax.Array]:
        """Rows of the table by the names of their columns."""
        obs, action = self.whole
        places = np.cumsum([obs, obs, action, action, 1])
        names = ("observations", "next_observations", "actions", "next_actions")
        *parts, rewards, terminals = jnp.split(rows, places, axis=1)
        named = dict(zip(names, parts, strict=True))
        return {**named, "rewards": rewards[:, 0], "terminals": terminals[:, 0]}

    def settings_of(self, replica: Replica) -> dict[str, Any]:
        """Of a replica, so that absent actions count for nothing."""
        unknown = sorted(set(replica.settings) - set(self.agent.settings))
        if unknown:
            raise ValueError(f"unknown settings {unknown}, expected some of {self.agent.settings}")
        there = np.arange(self.whole.action) < self.sizes[replica.set].action
        weights = {"noise": there, **dict.fromkeys(self.agent.beside_mean, there.mean())}
        chosen = {**self.agent.settings, **replica.settings}
        return {name: np.float32(x * weights.get(name, 1)) for name, x in chosen.items()}

    def state_of(self, replica: Replica) -> Tree:
        """As the agent begins on the set's own sizes, filled up with zeros."""
        own = self.sizes[replica.set]
        with jax.default_device(jax.devices("cpu")[0]):  # many small operations
            begun = self.begin(replica.seed, own)
        leaves = (
            padded_parameter(np.asarray(leaf), like.shape, own, self.whole)
            for leaf, like in zip(jax.tree.leaves(begun), self.shapes, strict=True)
        )
        return jax.tree.unflatten(self.structure, leaves)

    @cached_property
    def begin(self) -> Callable[[int, Sizes], Tree]:
        """Seed and sizes → an untrained state."""

        def create(seed: Any, sizes: Sizes) -> Tree:
            observations, actions = (jnp.zeros((1, size)) for size in sizes)
            return self.agent.create(seed, observations, actions, self.updates)

        return jax.jit(create, static_argnums=1)

    @cached_property
    def structure(self) -> Any:
        """Of every replica's state; it holds the networks for the largest sizes."""
        return jax.tree.structure(self.outline)

    @cached_property
    def shapes(self) -> list[Any]:
        """Of the arrays of every replica's state."""
        return jax.tree.leaves(self.outline)

    @cached_property
    def outline(self) -> Tree:
        """A state without its numbers."""
        return jax.eval_shape(lambda seed: self.begin(seed, self.whole), 0)

    def train(self, updates: int) -> None:
        """So many more updates of every replica.

        Raises:
            ValueError: unless they are a multiple of `AVERAGE_EVERY`.
        """
        turns, rest = divmod(updates, AVERAGE_EVERY)
        if rest:
            raise ValueError(f"{updates} updates, expected a multiple of {AVERAGE_EVERY}")
        self.states, self.averages, self.keys = self.program(turns)(*self.arguments)
        self.done += updates

    @property
    def arguments(self) -> tuple[Tree, ...]:
        """Of a program."""
        carried = self.states, self.averages, self.keys
        return carried, self.spans, self.settings, self.table

    @lru_cache(maxsize=4)  # noqa: B019 - there is one for the length of a process
    def program(self, turns: int) -> Callable[..., Tree]:
        """What makes so many turns of `AVERAGE_EVERY` updates, compiled."""
        whole = jax.vmap(partial(self.turns, turns), in_axes=(0, 0, 0, None))
        return jax.jit(whole).lower(*self.arguments).compile()

    def turns(self, count: int, carried: Tree, span: Any, settings: Any, table: Any) -> Tree:
        """Of one replica: turns of updates, after each a step of the averaged actor."""
        every = self.agent.actor_every
        weight = 1 - math.exp(-AVERAGE_EVERY / (AVERAGED * self.updates))

        def updates(carry: Tree, rows: jax.Array) -> tuple[Tree, None]:
            state, key = carry
            for position in range(every):
                key, own = jax.random.split(key)
                batch = self.batch(table[rows[position]])
                state = self.agent.update(state, batch, own, settings, position == 0)
            return (state, key), None

        def turn(carry: Tree, _: None) -> tuple[Tree, None]:
            state, average, key = carry
            key, own = jax.random.split(key)
            shape = (AVERAGE_EVERY // every, every, self.batch_size)
            rows = span[0] + jax.random.randint(own, shape, 0, span[1])
            (state, key), _ = jax.lax.scan(updates, (state, key), rows)
            now = self.agent.actor(state)
            average = jax.tree.map(lambda mean, new: mean + weight * (new - mean), average, now)
            return (state, average, key), None

        return jax.lax.scan(turn, carried, None, count)[0]

    def actors(self, *, averaged: bool) -> Iterator[TanhActor]:
        """The actor of each replica, for observations and actions of its set's own sizes."""
        layers = self.averages if averaged else jax.vmap(self.agent.actor)(self.states)
        every = [(np.asarray(weights), np.asarray(biases)) for weights, biases in layers]
        for place, replica in enumerate(self.replicas):
            own = self.sizes[replica.set]
            found = [(weights[place], biases[place]) for weights, biases in every]
            found[0] = (found[0][0][: own.observation], found[0][1])
            found[-1] = (found[-1][0][:, : own.action], found[-1][1][: own.action])
            yield TanhActor(*self.scales[replica.set], found)


def sizes_of(data: Transitions) -> Sizes:
    """Of a set's observations and actions."""
    return Sizes(data.observations.shape[1], data.actions.shape[1])


def observation_scale(agent: JaxAgent, data: Transitions) -> tuple[FloatArray, FloatArray]:
    """Mean and divisor of observations; 0 and 1 where the agent takes them as they are."""
    seen = data.observations
    if agent.observation_floor is None:
        return np.zeros_like(seen[0]), np.ones_like(seen[0])
    mean, std = seen.mean(0, dtype=np.float64), seen.std(0, dtype=np.float64)
    return mean.astype(np.float32), (std + agent.observation_floor).astype(np.float32)


def reward_scale(agent: JaxAgent, data: Transitions) -> float:
    """By which rewards are multiplied."""
    if agent.returns_span is None:
        return 1.0
    begins = np.concatenate([[0], np.flatnonzero(data.ends)[:-1] + 1])
    returns = np.add.reduceat(data.rewards.astype(np.float64), begins)
    return float(agent.returns_span / (returns.max() - returns.min()))


def stacked(states: Sequence[Tree]) -> Tree:
    """Several of one structure as one, with a dimension more in front."""
    return jax.tree.map(lambda *each: jnp.stack([jnp.asarray(x) for x in each]), *states)
