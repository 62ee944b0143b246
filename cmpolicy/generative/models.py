"""Define the EDM teacher and the consistency student: a network, its EMAs and its samplers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cmpolicy.consistency.diffusion import DenoisingScoreMatching
from cmpolicy.consistency.ema import ema_update, rising_decay
from cmpolicy.consistency.losses import Loss
from cmpolicy.consistency.parameterization import (
    EDMParameterization,
    LevelFunction,
    Parameterization,
)
from cmpolicy.consistency.randomness import Generators, Randomness
from cmpolicy.consistency.sampling import multistep
from cmpolicy.consistency.schedules import karras_sigmas
from cmpolicy.consistency.solvers import solve
from cmpolicy.errors import InputError


class LevelModel(nn.Module):
    """A network F as a function of (x_σ, σ), with an EMA of its weights for sampling.

    Args:
        network: F(x, c_noise, condition).
        parameterization: turns F into a consistency function or a denoiser.
        ema_decay: of the average, per update.
        other_ema_decays: of further averages, which `averaged` returns.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: Parameterization,
        ema_decay: float,
        other_ema_decays: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.average_network = copy.deepcopy(network).requires_grad_(False).eval()
        self.other_averages = nn.ModuleList(
            copy.deepcopy(self.average_network) for _ in other_ema_decays
        )
        self.parameterization = parameterization
        self.ema_decay, self.other_ema_decays = ema_decay, tuple(other_ema_decays)

    def averaged(self, ema_decay: float | None = None) -> nn.Module:
        """Return the average with this decay; by default the one that samples.

        Raises:
            InputError: if no average with this decay is kept.
        """
        averages = {self.ema_decay: self.average_network}
        averages |= dict(zip(self.other_ema_decays, self.other_averages, strict=True))
        decay = self.ema_decay if ema_decay is None else ema_decay
        if decay not in averages:
            kept = ", ".join(f"{kept:g}" for kept in averages)
            raise InputError(f"no average of decay {decay:g} is kept; choose one of {kept}")
        return averages[decay]

    def bind(self, condition: Tensor | None, network: nn.Module | None = None) -> LevelFunction:
        """Bind the condition (B, …): (x_σ (B, …), σ (B,)) → x₀, by default of the EMA network."""
        chosen = self.average_network if network is None else network
        return lambda x, sigma: self.parameterization(chosen, x, sigma, condition)

    @property
    def trained_networks(self) -> list[nn.Module]:
        """Networks that the loss calls, which share dropout masks."""
        return [self.network]

    def update_average(self, step: int) -> None:
        """Update the EMAs; their decays rise at first, so that they forget the initial weights."""
        ema_update(self.average_network, self.network, rising_decay(self.ema_decay, step))
        for decay, average in zip(self.other_ema_decays, self.other_averages, strict=True):
            ema_update(average, self.network, rising_decay(decay, step))


class EDMTeacher(LevelModel):
    """A denoiser D(x, σ): Karras et al. 2022.

    Args:
        denoising: the loss; by default EDM's with its own settings.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: Parameterization,
        ema_decay: float,
        other_ema_decays: Sequence[float] = (),
        denoising: Loss | None = None,
    ) -> None:
        super().__init__(network, parameterization, ema_decay, other_ema_decays)
        self.denoising = denoising or DenoisingScoreMatching()

    def loss(
        self,
        x0: Tensor,
        condition: Tensor | None = None,
        target: LevelFunction | None = None,
        randomness: Randomness = None,
    ) -> Tensor:
        """Compute the denoising loss (B, …) → (B,); `target` replaces x₀ as what to predict."""
        d = self.bind(condition, self.network)
        progress = torch.ones((), device=x0.device)
        p = self.parameterization
        return self.denoising(d, d, x0, p, progress, randomness, teacher=target)

    def levels(self, steps: int) -> list[float]:
        """Return a Karras grid of `steps` levels from σ_max to σ_min, then 0: EDM, eq. 5."""
        p = self.parameterization
        return [*karras_sigmas(steps, p.sigma_min, p.sigma_max).tolist(), 0.0]

    def sample(
        self,
        noise: Tensor,
        condition: Tensor | None = None,
        steps: int = 18,
        solver: str = "heun",
        **churn: Any,
    ) -> Tensor:
        """Solve the ODE from z (B, …) to x₀ with the EMA network; `churn…` as in `solve`."""
        return solve(self.bind(condition), noise, self.levels(steps), solver, **churn)


class ConsistencyStudent(LevelModel):
    """A consistency function f(x, σ) and its loss.

    Args:
        consistency_loss: trains it; a target network is kept if the loss needs one.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: Parameterization,
        ema_decay: float,
        other_ema_decays: Sequence[float],
        consistency_loss: Loss,
    ) -> None:
        super().__init__(network, parameterization, ema_decay, other_ema_decays)
        self.consistency_loss = consistency_loss
        self.target_network: nn.Module | None = None
        if consistency_loss.needs_target_ema:
            self.target_network = copy.deepcopy(network).requires_grad_(False)

    @property
    def trained_networks(self) -> list[nn.Module]:
        """The online network, and the target network if there is one."""
        target = self.target_network
        return [self.network] if target is None else [self.network, target]

    def start_from(self, teacher: LevelModel) -> None:
        """Copy a teacher's EMA weights: Song et al. 2023, Algorithm 2; Geng et al. 2024."""
        weights = teacher.average_network.state_dict()
        for network in (*self.trained_networks, self.average_network, *self.other_averages):
            network.load_state_dict(weights)

    def loss(
        self,
        x0: Tensor,
        condition: Tensor | None = None,
        progress: Tensor | float = 1.0,
        teacher: LevelFunction | None = None,
        randomness: Randomness = None,
    ) -> Tensor:
        """Compute the consistency loss of each sample, (B, …) → (B,).

        Args:
            progress: k/K over the student's whole training.
            teacher: a denoiser to distil, bound to the same condition.
        """
        return self.consistency_loss(
            self.bind(condition, self.network),
            self.bind(condition, self.target_network or self.network),
            x0,
            self.parameterization,
            torch.as_tensor(progress, dtype=x0.dtype, device=x0.device),
            randomness,
            teacher=teacher,
        )

    def update_target(self, progress: float) -> None:
        """Move the target network, if there is one, towards the online network."""
        if self.target_network is not None:
            decay = self.consistency_loss.target_decay(torch.tensor(progress))
            ema_update(self.target_network, self.network, float(decay))

    def sample(
        self,
        noise: Tensor,
        levels: Sequence[float],
        condition: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Sample x₀ from z (B, …) with the EMA network, one network call per level."""
        f = self.bind(condition)
        return multistep(f, noise, levels, self.parameterization.boundary, generator)


class FakeScore(nn.Module):
    """D_fake of DMD2, a denoiser of the student's samples, which starts as the teacher.

    It has no average, because it has to keep up with the student, and no dropout.
    """

    def __init__(self, network: nn.Module, parameterization: Parameterization) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.parameterization = parameterization

    @property
    def trained_networks(self) -> list[nn.Module]:
        """The network."""
        return [self.network]

    def start_from(self, teacher: LevelModel) -> None:
        """Copy a teacher's EMA weights."""
        self.network.load_state_dict(teacher.average_network.state_dict())

    def bind(self, condition: Tensor | None) -> LevelFunction:
        """Bind the condition (B, …): (x_σ (B, …), σ (B,)) → x₀."""
        return lambda x, sigma: self.parameterization(self.network, x, sigma, condition)

    def update_average(self, step: int) -> None:
        """Do nothing."""


def teacher_parameterization(student: Parameterization) -> Parameterization:
    """Return a denoiser's parameterization whose network weights also fit the student."""
    if student.boundary == 0:
        return student
    return EDMParameterization(student.sigma_data, student.sigma_min, student.sigma_max)
