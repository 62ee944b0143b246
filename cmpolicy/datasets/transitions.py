"""Offline transitions on one device, which every agent trains on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmpolicy.datasets.alignment import Episode, Steps, align_arrays, align_episodes, returns_of
from cmpolicy.datasets.return_weights import ReturnWeights, draw_shares
from cmpolicy.errors import InputError

MEASURED_PICTURES = 2_000
LARGE = 1 << 30  # bytes of pictures, from which they stay in a file
CONSTANT = 1e-6  # spread of an entry that never moves, in units of its size: float32 rounding


class TransitionBatch(NamedTuple):
    """`B` transitions, all float32 on one device."""

    observations: Tensor  # (B, obs_dim)
    actions: Tensor  # (B, action_dim)
    rewards: Tensor  # (B,)
    next_observations: Tensor  # (B, obs_dim)
    terminals: Tensor  # (B,), 0 or 1: 1 masks the bootstrap
    returns: Tensor  # (B,): of a dataset `with_returns` these three reach to the episode's end;
    final_observations: Tensor  # (B, obs_dim): else they are the three columns above
    final_terminals: Tensor  # (B,), 1 − γ^(k−1) (1 − terminal) after k steps
    imitated_observations: Tensor  # (B, obs_dim): where good episodes count for more, other
    imitated_actions: Tensor  # (B, action_dim): transitions than those above; else the same

    @classmethod
    def of(cls, recorded: Iterable[Tensor]) -> TransitionBatch:
        """The first five columns, which are imitated as they are and look no further."""
        columns = list(recorded)
        return cls(*columns, *columns[2:5], *columns[:2])

    @property
    def recorded(self) -> tuple[Tensor, ...]:
        """The columns that are no other columns."""
        return self[:5]


class ReturnsToEnd(NamedTuple):
    """What each of N transitions leads to at the end of its episode."""

    returns: Tensor  # (N,), Σ_i γ^i r_{t+i}
    last: Tensor  # (N,) int64, the episode's last transition
    terminals: Tensor  # (N,), 1 − γ^(k−1) (1 − terminal) of that transition, k steps from here


@dataclass(frozen=True)
class DatasetInfo:
    """Where a dataset came from and what its episodes returned; goes into every result.

    `transitions` counts what can be trained on; `episodes`, `mean_return` and `std_return` are
    those of the data as recorded, before a step was dropped or a reward transformed.
    """

    dataset_id: str = "custom"
    source: str = "numpy"  # d4rl, minari, ogbench, regenerated, d4rl_package, sample, file, numpy
    path: str | None = None
    env_id: str | None = None  # the environment recorded with the data, and how it was made:
    env_kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    env_wrappers: list[dict[str, Any]] = field(default_factory=list, repr=False)
    max_episode_steps: int | None = None  # of that environment
    observation_keys: list[str] | None = None  # of dictionaries, in the order of the vector
    picture_shape: list[int] | None = None  # of what observations begin with
    comparable: bool = False  # with published scores on `dataset_id`
    transitions: int = 0
    episodes: int = 0
    mean_return: float = float("nan")
    std_return: float = float("nan")
    ref_min_score: float | None = None
    ref_max_score: float | None = None


class TransitionDataset:
    """Transitions as float32 tensors on one device, sampled there.

    Attributes:
        transitions: all of them as one batch; its first five columns are attributes as well.
            `terminals` are 1 only where the environment ended the episode: a timeout or truncation
            ends a trajectory without masking the bootstrap. OGBench's recordings go on after them.
        episode_ends: (N,) bool, True at the last transition of each episode.
        info: where the data came from.
        weights: by which transitions are imitated; None where all are imitated alike.
        to_end: what follows to the end of the episode; None where batches look one step ahead.
        frames: pictures that observations are the numbers of, (M, obs_dim), uint8 and perhaps in a
            file; None where observations are as they are. Batches hold the pictures.
    """

    def __init__(
        self,
        transitions: TransitionBatch,
        episode_ends: Tensor,
        info: DatasetInfo,
        weights: ReturnWeights | None = None,
        to_end: ReturnsToEnd | None = None,
        frames: Tensor | None = None,
    ) -> None:
        self.transitions = TransitionBatch.of(transitions.recorded)
        self.observations, self.actions, self.rewards = self.transitions[:3]
        self.next_observations, self.terminals = self.transitions[3:5]
        self.episode_ends = episode_ends
        self.info = info
        self.weights = weights
        self.to_end = to_end
        self.frames = frames

    def changed(self, **changes: Any) -> TransitionDataset:
        """Make one of the same steps, of which some attributes are others."""
        names = ("transitions", "episode_ends", "info", "weights", "to_end", "frames")
        return TransitionDataset(**{name: getattr(self, name) for name in names} | changes)

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminals: Any,
        timeouts: Any = None,
        next_observations: Any = None,
        *,
        max_episode_steps: int | None = None,
        info: DatasetInfo | None = None,
    ) -> TransitionDataset:
        """Read consecutive steps given as flat arrays.

        As in `d4rl.qlearning_dataset`, a step whose next observation is unknown is dropped:
        without `next_observations` that is each that ended by timeout, and the last. Two rules
        differ from D4RL's, so that no step is lost that can be used: a terminal step always
        stays, since its next observation is masked, and so does a timeout's where
        `next_observations` has what followed it. There an episode also ends wherever
        `next_observations[i]` is not `observations[i + 1]`, as in a buffer that several
        environments filled.

        Args:
            observations, next_observations: (N, obs_dim).
            actions: (N, action_dim).
            rewards: (N,) or (N, 1).
            terminals, timeouts: (N,) or (N, 1), bool or 0/1.
            max_episode_steps: where there are no `timeouts`, the length at which episodes were
                cut, counted from each first step (D4RL's loop counts from 1 after a terminal).
            info: what is known of the origin; counts and returns are filled in.

        Raises:
            InputError: wrong shapes, dtypes or lengths, NaN or inf, or no transition left.
        """
        flat = (observations, actions, rewards, terminals, timeouts, next_observations)
        return cls.from_steps(align_arrays(*flat, max_episode_steps), info or DatasetInfo())

    @classmethod
    def from_episodes(
        cls, episodes: Iterable[Episode], *, info: DatasetInfo | None = None
    ) -> TransitionDataset:
        """Read episodes of `T+1` observations and `T` actions: a transition for every step.

        Raises:
            InputError: no step at all, lengths or shapes that do not fit, NaN or inf.
        """
        return cls.from_steps(align_episodes(episodes), info or DatasetInfo())

    @classmethod
    def from_steps(cls, steps: Steps, info: DatasetInfo) -> TransitionDataset:
        """Keep the steps that are transitions; counts and returns of all steps go into `info`."""
        known = steps.known
        if known.sum() < 2:
            raise InputError(
                f"{int(known.sum())} of {len(known)} rows are transitions: in the others the next "
                "observation is not known; expected at least 2"
            )
        returns = returns_of(steps.rewards, steps.ends)
        info = dataclasses.replace(
            info,
            transitions=int(known.sum()),
            episodes=len(returns),
            mean_return=float(returns.mean()),
            std_return=float(returns.std()),
        )
        episode = np.cumsum(np.append(False, steps.ends[:-1]))[known]
        ends = np.append(np.diff(episode) > 0, True)
        rows = np.flatnonzero(known)
        columns = (
            torch.from_numpy(column.take(rows, axis=0).astype(np.float32, copy=False))
            for column in steps[:5]
        )
        return cls(TransitionBatch.of(columns), torch.from_numpy(ends), info)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def obs_dim(self) -> int:
        return self.observations.shape[1] if self.frames is None else self.frames.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    @property
    def stops(self) -> Tensor:
        """Where returns end, (N,) bool: with the episode, and at a terminal inside one."""
        return self.episode_ends | (self.terminals > 0)

    @property
    def device(self) -> torch.device:
        return self.rewards.device

    @cached_property
    def observation_mean(self) -> Tensor:
        """Mean of the observations, computed in float64, (obs_dim,) float32."""
        return self.observations.mean(0, dtype=torch.float64).float()

    @cached_property
    def observation_std(self) -> Tensor:
        """Standard deviation of the observations, computed in float64, (obs_dim,) float32.

        That of an entry that is constant but for rounding is its size, or 1 if that is 0.
        """
        std = self.observations.double().std(0, correction=0)
        size = self.observations.abs().amax(0).double()
        constant = std <= CONSTANT * size
        return torch.where(constant, torch.where(size > 0, size, 1.0), std).float()

    def episode_returns(self) -> Tensor:
        """Undiscounted sum of each episode's rewards over its transitions, (episodes,) float64."""
        rewards, ends = self.rewards.cpu().numpy(), self.episode_ends.cpu().numpy()
        return torch.from_numpy(returns_of(rewards, ends))

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> TransitionBatch:
        """Draw with replacement; `generator` lives on the device, which nobody waits for."""
        index = self.draw_index(batch_size, generator)
        return self.at(index, self.draw_imitated(index, generator))

    def draw_index(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the transitions of a batch, (batch_size,) int64."""
        return torch.randint(len(self), (batch_size,), generator=generator, device=self.device)

    def draw_imitated(self, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw the transitions that are imitated beside those of an index: the same, or others."""
        if self.weights is None:
            return index
        return draw_shares(self.weights.shares, len(index), generator)

    def at(self, index: Tensor, imitated: Tensor | None = None) -> TransitionBatch:
        """Gather transitions by an index of any shape, (…), and by another those imitated."""

        def rows(column: Tensor, index: Tensor) -> Tensor:
            return column.index_select(0, index.flatten()).view(*index.shape, *column.shape[1:])

        recorded = [rows(column, index) for column in self.transitions.recorded]
        for column in (0, 3) if self.frames is not None else ():
            recorded[column] = self.seen(recorded[column])
        batch = TransitionBatch.of(recorded)
        if self.to_end is not None:
            last = rows(self.to_end.last, index)
            batch = batch._replace(
                returns=rows(self.to_end.returns, index),
                final_observations=self.seen(rows(self.next_observations, last)),
                final_terminals=rows(self.to_end.terminals, index),
            )
        if imitated is None or imitated is index:
            return batch
        return batch._replace(
            imitated_observations=self.seen(rows(self.observations, imitated)),
            imitated_actions=rows(self.actions, imitated),
        )

    def seen(self, observations: Tensor) -> Tensor:
        """Look up the pictures that observations are the numbers of: (…, n) → (…, n · obs_dim)."""
        if self.frames is None:
            return observations
        numbers = observations.long().to(self.frames.device).flatten()
        pictures = self.frames.index_select(0, numbers).to(observations.device)
        return pictures.float().view(*observations.shape[:-1], -1)

    @property
    def measured(self) -> Tensor:
        """Observations to measure statistics by, (n, obs_dim): of pictures at most 2,000."""
        every = 1 if self.frames is None else -(-len(self) // MEASURED_PICTURES)
        return self.seen(self.observations[::every])

    def to(self, device: torch.device | str) -> TransitionDataset:
        moved = TransitionBatch.of(column.to(device) for column in self.transitions.recorded)
        weights = self.weights and self.weights.to(device)
        to_end = self.to_end and ReturnsToEnd(*(column.to(device) for column in self.to_end))
        ends, frames = self.episode_ends.to(device), self.frames
        if frames is not None and frames.nbytes < LARGE:
            frames = frames.to(device)
        changes = {"weights": weights, "to_end": to_end, "frames": frames}
        return self.changed(transitions=moved, episode_ends=ends, **changes)

    def replace(self, *, rewards: Tensor) -> TransitionDataset:
        """Exchange the rewards, (N,); `info` keeps the recorded returns.

        Raises:
            InputError: `rewards` has another shape.
        """
        if rewards.shape != self.rewards.shape:
            raise InputError(
                f"rewards has shape {tuple(rewards.shape)}, expected {tuple(self.rewards.shape)}"
            )
        replaced = self.transitions._replace(rewards=rewards.to(self.rewards))
        return self.changed(transitions=replaced, to_end=None)

    def weighted_by_return(self, temperature: float) -> TransitionDataset:
        """Imitate transitions of good episodes more often, see `ReturnWeights`."""
        weights = ReturnWeights.of(self.episode_returns(), self.episode_ends, temperature)
        return self.changed(weights=weights)

    def at_return_temperature(self, temperature: float) -> TransitionDataset:
        return self.changed(weights=self.weights and self.weights.at(temperature))
