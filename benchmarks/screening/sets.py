"""Offline sets as padded tensors, so that agents on different robots train as one batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

OBS_DIM, ACTION_DIM = 17, 6  # of the largest robot; others are padded with zeros
LATENT_STD, TANH_AT_BOUND = 0.5, 0.97  # as in cmpolicy.policy.action_bounds


@dataclass
class Recorded:
    """One file's transitions, as `TransitionDataset` reads them."""

    robot: str
    version: str
    observations: np.ndarray[Any, Any]
    actions: np.ndarray[Any, Any]
    rewards: np.ndarray[Any, Any]
    next_observations: np.ndarray[Any, Any]
    terminals: np.ndarray[Any, Any]
    ends: np.ndarray[Any, Any]
    episode_returns: np.ndarray[Any, Any]  # of whole episodes, one a transition


def read(path: Path) -> Recorded:
    """Read a D4RL-layout file; a step whose next observation is unknown is dropped."""
    with h5py.File(path) as file:
        obs, actions, rewards, terminals, timeouts = (
            file[key][()] for key in ("observations", "actions", "rewards", "terminals", "timeouts")
        )
        robot, _, version = str(file.attrs["env_id"]).lower().partition("-")
    ends = terminals | timeouts
    ends[-1] = True
    episode = np.concatenate([[0], np.cumsum(ends)[:-1]])
    returns = np.bincount(episode, weights=rewards.astype(np.float64))[episode]
    rows = np.flatnonzero(~ends | terminals)
    kept_ends = np.append(np.diff(episode[rows]) > 0, True)
    following = np.concatenate([obs[1:], obs[-1:]])
    return Recorded(
        robot,
        version,
        *(column[rows] for column in (obs, actions, rewards, following, terminals)),
        kept_ends,
        returns[rows],
    )


class PaddedSets:
    """Several sets on one device, padded to one length and one size; S sets of N rows.

    Attributes:
        observations, next_observations: (S, N, OBS_DIM), standardised.
        actions: (S, N, ACTION_DIM); rewards, terminals: (S, N).
        to_end: (S, N) int64, steps to the end of the episode, at least 1.
        rows: (S,) int64, how many of the N there are.
        mask: (S, ACTION_DIM), 1 for the entries that the robot has.
        latent_mean, latent_scale: (S, ACTION_DIM), of atanh(0.97 a).
    """

    def __init__(self, files: dict[str, Path], device: str) -> None:
        self.names, self.device = sorted(files), device
        self.recorded = {name: read(files[name]) for name in self.names}
        self.length = max(len(r.rewards) for r in self.recorded.values())
        self.rows = torch.tensor([len(self.recorded[n].rewards) for n in self.names], device=device)
        self.actions = self.padded("actions", ACTION_DIM)
        self.rewards, self.terminals = self.padded("rewards"), self.padded("terminals")
        self.to_end = torch.stack([self.steps_to_end(name) for name in self.names]).to(device)
        self.mask = torch.zeros(len(self.names), ACTION_DIM, device=device)
        self.obs_mask = torch.zeros(len(self.names), OBS_DIM, device=device)
        self.latent_mean, self.latent_scale = self.mask.clone(), torch.ones_like(self.mask)
        raw = self.padded("observations", OBS_DIM)
        self.mean, self.std = torch.zeros_like(self.obs_mask), torch.ones_like(self.obs_mask)
        for i, name in enumerate(self.names):
            entries, dims = self.recorded[name].actions.shape[1], raw.shape[2]
            dims = self.recorded[name].observations.shape[1]
            self.mask[i, :entries], self.obs_mask[i, :dims] = 1, 1
            rows = raw[i, : self.rows[i], :dims]
            self.mean[i, :dims], self.std[i, :dims] = rows.mean(0), rows.std(0).clamp_min(1e-3)
            latent = self.actions[i, : self.rows[i], :entries].clamp(-1, 1) * TANH_AT_BOUND
            latent = latent.atanh()
            self.latent_mean[i, :entries] = latent.mean(0)
            self.latent_scale[i, :entries] = latent.std(0).clamp_min(1e-3) / LATENT_STD
        self.observations = self.standardized(raw)
        self.next_observations = self.standardized(self.padded("next_observations", OBS_DIM))

    def standardized(self, observations: Tensor) -> Tensor:
        """(S, N, OBS_DIM) in units of the set; what the robot has not stays zero."""
        return (observations - self.mean[:, None]) / self.std[:, None] * self.obs_mask[:, None]

    def padded(self, column: str, dim: int | None = None) -> Tensor:
        """A column of all sets, (S, N) or (S, N, dim) float32."""
        shape = (len(self.names), self.length, *(() if dim is None else (dim,)))
        out = np.zeros(shape, np.float32)
        for i, name in enumerate(self.names):
            values = getattr(self.recorded[name], column)
            if dim is None:
                out[i, : len(values)] = values
            else:
                out[i, : len(values), : values.shape[1]] = values
        return torch.from_numpy(out).to(self.device)

    def steps_to_end(self, name: str) -> Tensor:
        """(N,) int64."""
        ends = self.recorded[name].ends
        index = np.arange(len(ends))
        last = np.minimum.accumulate(np.where(ends, index, len(ends))[::-1])[::-1]
        out = np.zeros(self.length, np.int64)
        out[: len(ends)] = last - index + 1
        return torch.from_numpy(out)

    def returns(self, name: str, discount: float) -> Tensor:
        """Discounted returns to the end of the episode, (N,) float32."""
        recorded, total = self.recorded[name], 0.0
        out = np.zeros(self.length)
        for t in range(len(recorded.rewards) - 1, -1, -1):
            total = recorded.rewards[t] + (0.0 if recorded.ends[t] else discount * total)
            out[t] = total
        return torch.from_numpy(out).float().to(self.device)

    def shares(self, name: str, temperature: float) -> Tensor:
        """Cumulative shares of rows drawn ∝ exp(G/α), (N,) float64, 2 beyond the last row."""
        returns = self.recorded[name].episode_returns
        weights = np.ones(len(returns))
        if temperature > 0:
            low, high = returns.min(), returns.max()
            weights = np.exp((returns - high) / (high - low) / temperature)
        cumulative = np.cumsum(weights)
        out = np.full(self.length, 2.0)
        out[: len(returns)] = cumulative / cumulative[-1]
        return torch.from_numpy(out).to(self.device)
