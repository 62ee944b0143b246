"""The EDM teacher and the consistency student: a network, its moving average, a way to sample."""

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
from cmpolicy.networks.embeddings import FourierEmbedding


class LevelWeight(nn.Module):
    """w(σ), a learned log-weight of noise levels that starts at 0: Lu & Song 2024, §4.2."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = FourierEmbedding()
        self.linear = nn.Linear(self.embedding.dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, sigma: Tensor) -> Tensor:
        """(B,) → (B,)"""
        return self.linear(self.embedding(sigma.log() / 4)).squeeze(1)  # type: ignore[no-any-return]


class LevelModel(nn.Module):
    """A network F as a function of (x_σ, σ), and the moving average of its weights, which samples.

    Args:
        network: F(x, c_noise, condition).
        parameterization: what makes a function of F.
        ema_decay: of the average, an update.
        other_ema_decays: of further averages, which only `averaged` gives.
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
        self.ema_decay = ema_decay
        self.other_ema_decays = tuple(other_ema_decays)

    def averaged(self, ema_decay: float | None = None) -> nn.Module:
        """The average of that decay; the one that samples if not said.

        Raises:
            InputError: if none of that decay is kept.
        """
        averages = {self.ema_decay: self.average_network}
        averages |= dict(zip(self.other_ema_decays, self.other_averages, strict=True))
        if ema_decay is not None and ema_decay not in averages:
            kept = ", ".join(f"{decay:g}" for decay in averages)
            raise InputError(f"no average of decay {ema_decay:g} is kept; there are: {kept}")
        return averages[self.ema_decay if ema_decay is None else ema_decay]

    def given(self, condition: Tensor | None, network: nn.Module | None = None) -> LevelFunction:
        """(x_σ (B, …), σ (B,)) → x₀, bound to `condition` (B, …), of the average if not said."""
        chosen = self.average_network if network is None else network
        return lambda x, sigma: self.parameterization(chosen, x, sigma, condition)

    @property
    def trained_networks(self) -> list[nn.Module]:
        """Those that a loss calls: all but the averages."""
        return [self.network]

    def update_average(self, step: int) -> None:
        """Move the averages; their decays rise at first, so that they forget their start."""
        ema_update(self.average_network, self.network, rising_decay(self.ema_decay, step))
        for decay, average in zip(self.other_ema_decays, self.other_averages, strict=True):
            ema_update(average, self.network, rising_decay(decay, step))


class EDMTeacher(LevelModel):
    """A denoiser D(x, σ): Karras et al. 2022.

    Args:
        denoising: what trains it; EDM's loss with its own settings if not said.
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
        """The denoising loss of each sample, (B, …) → (B,): towards x₀, or towards `target`."""
        d = self.given(condition, self.network)
        progress = torch.ones((), device=x0.device)
        p = self.parameterization
        return self.denoising(d, d, x0, p, progress, randomness, teacher=target)

    def levels(self, steps: int) -> list[float]:
        """σ_max … σ_min on a Karras grid of `steps` levels, then 0: Karras et al. 2022, eq. 5."""
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
        """z (B, …) → x₀ by the average network; `churn` and its limits as in `solve`."""
        return solve(self.given(condition), noise, self.levels(steps), solver, **churn)


class ConsistencyStudent(LevelModel):
    """A consistency function f(x, σ) and its loss.

    Args:
        consistency_loss: what trains it; a moving target is kept if it asks for one.
        adaptive_weight: weigh noise levels by a learned w(σ).
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: Parameterization,
        ema_decay: float,
        other_ema_decays: Sequence[float],
        consistency_loss: Loss,
        *,
        adaptive_weight: bool = False,
    ) -> None:
        super().__init__(network, parameterization, ema_decay, other_ema_decays)
        self.consistency_loss = consistency_loss
        self.log_weight = LevelWeight() if adaptive_weight else None
        self.target_network: nn.Module | None = None
        if consistency_loss.needs_target_ema:
            self.target_network = copy.deepcopy(network).requires_grad_(False)

    @property
    def trained_networks(self) -> list[nn.Module]:
        """Those that a loss calls: the online network, and the moving target where there is one."""
        target = self.target_network
        return [self.network] if target is None else [self.network, target]

    def start_from(self, teacher: LevelModel) -> None:
        """Begin with a teacher's averaged weights: Song et al. 2023, Alg. 2; Geng et al. 2024."""
        weights = teacher.average_network.state_dict()
        for network in (self.network, self.average_network, *self.other_averages):
            network.load_state_dict(weights)
        if self.target_network is not None:
            self.target_network.load_state_dict(weights)

    def loss(
        self,
        x0: Tensor,
        condition: Tensor | None = None,
        progress: Tensor | float = 1.0,
        teacher: LevelFunction | None = None,
        randomness: Randomness = None,
    ) -> Tensor:
        """The consistency loss of each sample, (B, …) → (B,): distillation if a teacher is given.

        Args:
            progress: k/K over the student's whole training.
            teacher: a denoiser bound to the same condition.
        """
        return self.consistency_loss(
            self.given(condition, self.network),
            self.given(condition, self.target_network or self.network),
            x0,
            self.parameterization,
            torch.as_tensor(progress, dtype=x0.dtype, device=x0.device),
            randomness,
            teacher=teacher,
        )

    def update_target(self, progress: float) -> None:
        """Move f_θ⁻'s network, where there is one, towards the online network."""
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
        """z (B, …) → x₀ by the average network, one call of it a level."""
        f = self.given(condition)
        return multistep(f, noise, levels, self.parameterization.boundary, generator)


def teacher_parameterization(student: Parameterization) -> Parameterization:
    """The student's form with its boundary at σ = 0: a denoiser whose weights fit the student."""
    if student.boundary == 0:
        return student
    return EDMParameterization(student.sigma_data, student.sigma_min, student.sigma_max)
