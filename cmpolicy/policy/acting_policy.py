"""What a policy does outside training: it acts in environments, is saved and loaded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cmpolicy.array_types import FloatArray
from cmpolicy.policy.action_bounds import ActionBound
from cmpolicy.policy.action_chunks import ChunkQueue, Window
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.policy.hub import Shared
from cmpolicy.policy.observations import dimensions, observation_array
from cmpolicy.policy.policy_file import read_policy, write_policy

DETERMINISTIC = 32  # samples whose mode `predict` takes where the policy itself takes none
MAX_NUMBERS = 2**22  # in one intermediate result of `act`


class ActingPolicy(Shared, nn.Module):
    """A policy that samples when it is called, and gives a `mode` of samples.

    Attributes:
        obs_dim, action_dim: numbers of entries.
        mode_of: it acts by the mode of so many samples, or by one.
    """

    config: PolicyConfig
    bound: ActionBound
    obs_dim: int
    action_dim: int
    mode_of: int
    queue: ChunkQueue
    obs_mean: Tensor
    mode: Callable[..., Tensor]

    @classmethod
    def from_spaces(cls, observation_space: Any, action_space: Any, **options: Any) -> Self:
        """Make a policy for an environment's Gymnasium spaces, vectors (Box) both.

        Raises:
            ValueError: for other spaces; of a dictionary it names the wrapper.
        """
        return cls(**dimensions(observation_space, action_space), **options)

    @property
    def window(self) -> Window:
        """The observations that it sees and the actions that it gives."""
        return self.config.window

    def _rows(self, observations: Tensor) -> Tensor:
        """(..., obs_dim) → (B, obs_dim); ValueError for any other size of the last axis."""
        if observations.ndim == 0 or observations.shape[-1] != self.obs_dim:
            raise ValueError(
                f"observations must have shape (..., {self.obs_dim}), "
                f"got {tuple(observations.shape)}"
            )
        return observations if observations.ndim == 2 else observations.reshape(-1, self.obs_dim)

    @torch.inference_mode()
    def act(
        self,
        observation: npt.ArrayLike | Tensor,
        *,
        episode_start: npt.ArrayLike | None = None,
        mode_of: int | None = None,
        levels: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ) -> FloatArray:
        """Actions for an environment: (..., obs_dim) → (..., action_dim), always NumPy's float32.

        What is not given is the policy's own, which its file keeps: a policy saved by a run acts
        as the run evaluated it. Large batches are computed in parts. A policy with a horizon or a
        history remembers what it planned and saw in each of these environments.

        Args:
            episode_start: (...) bool, where an episode begins with this observation; `reset` says
                so of all.
            mode_of: take the mode of so many samples, which draws nothing; 1 for a plain sample.
            levels: noise levels of sampling.

        Raises:
            ValueError: for another shape, a dictionary, NaN or infinity, or mode_of < 1.
        """
        mode_of = self.mode_of if mode_of is None else mode_of
        if mode_of < 1:
            raise ValueError(f"mode_of must be at least 1, got {mode_of}")
        dtype = self.obs_mean.dtype
        array = observation_array(observation, np.float64 if dtype == torch.float64 else np.float32)
        plan = functools.partial(self._plan, mode_of, levels, generator)
        starts = None if episode_start is None else np.asarray(episode_start, np.bool_)
        return self.queue.act(plan, array, starts)

    def reset(self) -> None:
        """Begin new episodes wherever `act` acts."""
        self.queue.reset()

    def _plan(
        self,
        mode_of: int,
        levels: Sequence[float] | None,
        generator: torch.Generator | None,
        array: FloatArray,
    ) -> FloatArray:
        """`act` without a memory: of whole histories, whole chunks."""
        batch = self._rows(torch.from_numpy(array)).to(self.obs_mean)
        rows = max(1, MAX_NUMBERS // (mode_of**2 * self.action_dim + max(self.config.hidden)))

        def sample(part: Tensor) -> Tensor:
            if mode_of > 1:
                return self.mode(part, mode_of, levels=levels)
            return self(part, levels=levels, generator=generator)  # type: ignore[no-any-return]

        parts = [sample(batch[i : i + rows]) for i in range(0, max(1, len(batch)), rows)]
        actions = self.bound.as_numpy(torch.cat(parts) if len(parts) > 1 else parts[0])
        return actions.reshape(*array.shape[:-1], self.action_dim)

    def predict(
        self,
        observation: npt.ArrayLike | Tensor,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool | None = None,
    ) -> tuple[FloatArray, Any]:
        """Actions and `state`, which is handed on: the call of Stable-Baselines3's models.

        Args:
            deterministic: True for a mode, False for a sample; None for the policy's own rule.
        """
        mode = self.mode_of if self.mode_of > 1 else DETERMINISTIC
        mode_of = None if deterministic is None else mode if deterministic else 1
        return self.act(observation, episode_start=episode_start, mode_of=mode_of), state

    @property
    def arguments(self) -> dict[str, Any]:
        """What makes such a policy, for `save` and for checkpoints: JSON values."""
        return {
            "policy": type(self).__name__,
            "obs_dim": self.obs_dim // self.window.history,
            "action_dim": (one := self.action_dim // self.window.horizon),
            "action_low": self.bound.given_low[:one].tolist(),
            "action_high": self.bound.given_high[:one].tolist(),
            "mode_of": self.mode_of,
            **dataclasses.asdict(self.config),
        }

    def save(self, path: str | Path) -> None:
        """Write weights, normalisers and configuration into one safetensors file, with a checksum.

        Folders of `path` that do not exist are made.
        """
        write_policy(Path(path), self.state_dict(), self.arguments)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        *,
        network: nn.Module | None = None,
        encoder: nn.Module | None = None,
    ) -> Self:
        """Read the policy of a file, a run's directory or a checkpoint; executes nothing pickled.

        Args:
            network, encoder: modules of the weights' classes, where these are not registered.

        Raises:
            InputError: if there is none, or it is damaged.
        """
        from cmpolicy.policy.diffusion_policy import DiffusionPolicy

        kinds: dict[str, Any] = {cls.__name__: cls}
        if issubclass(DiffusionPolicy, cls):
            kinds["DiffusionPolicy"] = DiffusionPolicy
        given = {"network": network, "encoder": encoder}
        own = {key: module for key, module in given.items() if module is not None}
        policy: Self = read_policy(Path(path), kinds, cls.__name__, own).to(device)
        return policy
