"""Configuration of a ConsistencyPolicy."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, SupportsIndex

from torch import nn

from cmpolicy.consistency.losses import LOSSES, Loss
from cmpolicy.consistency.parameterization import PARAMETERIZATIONS, Parameterization
from cmpolicy.consistency.sampling import check_levels
from cmpolicy.networks.embeddings import EMBEDDINGS
from cmpolicy.networks.mlp import ACTIVATIONS
from cmpolicy.plugins import find, registering
from cmpolicy.policy.action_bounds import BOUNDS
from cmpolicy.policy.action_chunks import Window
from cmpolicy.policy.architecture import check_name, make_module

# iCT was tuned on images. On hopper one-step actions are best with its first ten levels
# (benchmarks/results/hopper_medium.md).
LOSS_DEFAULTS: dict[str, dict[str, Any]] = {"ict": {"s1": 10}}

# No use needs more; a damaged or hostile file must not take all time and memory.
MAX_SIGMA, MAX_STEPS, MAX_LAYERS, MAX_WIDTH = 1e6, 1000, 100, 100_000


@dataclass
class PolicyConfig:
    """Architecture, loss and sampling of a ConsistencyPolicy.

    Attributes:
        network, network_options: a name in `cmpolicy.policy.architecture.NETWORKS`, and what it
            is made with beside its sizes.
        encoder, encoder_options: the same of ENCODERS; None for observations as they are.
        hidden, activation, embedding: of the network ``mlp``, see `ConditionalMLP`.
        bound: ``tanh``, ``clamp`` or ``squash``, see `ActionBound`.
        parameterization: ``karras`` (Song et al. 2023), ``trigflow`` (Lu & Song 2024) or
            ``ding_jin``.
        loss: a name in `cmpolicy.consistency.losses.LOSSES`.
        loss_options: hyperparameters of that loss, over LOSS_DEFAULTS.
        sigma_min, sigma_max: ε and the level at which sampling begins; the data's σ_d is 0.5. At
            σ_max = 80, which is that of images, a loss of weight 1/Δσ hardly reaches the level
            from which one step samples.
        steps: network calls an action, on a Karras grid.
        levels: noise levels of sampling, decreasing, in place of `steps`.
        normalize_obs: standardise observations before they enter the network.
        horizon: actions that are given at once, a chunk.
        execute: of these are done before the next are asked for; all by default.
        history: observations that are seen, the last ones.

    Raises:
        ValueError: for an unknown name or a value out of range.
    """

    network: str = "mlp"
    network_options: dict[str, Any] = field(default_factory=dict)
    encoder: str | None = None
    encoder_options: dict[str, Any] = field(default_factory=dict)
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    activation: str = "silu"
    embedding: str = "fourier"
    bound: str = "tanh"
    parameterization: str = "karras"
    loss: str = "ict"
    loss_options: dict[str, Any] = field(default_factory=dict)
    sigma_min: float = 0.002
    sigma_max: float = 10.0
    steps: int = 1
    levels: list[float] | None = None
    normalize_obs: bool = True
    horizon: int = 1
    execute: int | None = None
    history: int = 1

    PARAMETERIZATIONS: ClassVar[dict[str, Callable[..., Parameterization]]] = {**PARAMETERIZATIONS}
    LOSSES: ClassVar[dict[str, Callable[..., Loss]]] = LOSSES

    def __post_init__(self) -> None:
        if self.LOSSES is LOSSES:
            find("loss", LOSSES, self.loss)
        for key, names in (
            ("bound", BOUNDS),
            ("activation", ACTIVATIONS),
            ("embedding", EMBEDDINGS),
            ("parameterization", self.PARAMETERIZATIONS),
            ("loss", self.LOSSES),
        ):
            value = getattr(self, key)
            if value not in names:
                raise ValueError(f"unknown {key} {value!r}, expected one of {', '.join(names)}")
        check_name("network", self.network)
        if self.encoder is not None:
            check_name("encoder", self.encoder)
        if not 0 < self.sigma_min < self.sigma_max <= MAX_SIGMA:
            raise ValueError(
                f"need 0 < sigma_min < sigma_max ≤ {MAX_SIGMA:g}, got {self.sigma_min} and "
                f"{self.sigma_max}"
            )
        self.sigma_min, self.sigma_max = float(self.sigma_min), float(self.sigma_max)
        self.steps = check_count("steps", self.steps, MAX_STEPS)
        self.horizon = check_count("horizon", self.horizon, MAX_STEPS)
        self.history = check_count("history", self.history, MAX_STEPS)
        if self.execute is not None:
            self.execute = check_count("execute", self.execute, self.horizon)
        check_count("the number of hidden layers", len(self.hidden), MAX_LAYERS)
        self.hidden = [check_count("each width in hidden", w, MAX_WIDTH) for w in self.hidden]
        if self.levels is not None:
            check_levels(self.levels, 0.0)
            check_count("the number of levels", len(self.levels), MAX_STEPS)
            if self.levels[0] > MAX_SIGMA:
                raise ValueError(f"levels must be at most {MAX_SIGMA:g}, got {self.levels[0]}")
            self.levels = [float(level) for level in self.levels]
        try:
            self.make_loss()
        except TypeError as error:
            raise ValueError(f"loss_options do not fit loss {self.loss!r}: {error}") from None

    @property
    def window(self) -> Window:
        """What the policy sees and gives."""
        return Window(self.horizon, self.execute or self.horizon, self.history)

    def make_network(self, action_dim: int, condition_dim: int) -> nn.Module:
        """Make the network that `network` and its options describe."""
        options = self.network_options
        if self.network == "mlp":
            own = {"hidden": self.hidden, "activation": self.activation}
            options = {**own, "embedding": self.embedding, **options}
        return make_module("network", self.network, action_dim, condition_dim, **options)

    def make_encoder(self, obs_dim: int) -> nn.Module:
        """Make the encoder that `encoder` and its options describe."""
        if self.encoder is None:
            return nn.Identity()
        return make_module("encoder", self.encoder, obs_dim, **self.encoder_options)

    def make_loss(self) -> Loss:
        """The consistency loss that `loss` and `loss_options` describe."""
        return self.LOSSES[self.loss](**{**LOSS_DEFAULTS.get(self.loss, {}), **self.loss_options})


register_loss = registering("loss", LOSSES)


def check_count(name: str, value: SupportsIndex, most: int) -> int:
    """A whole number from 1 to `most`, as Python's int.

    Raises:
        ValueError: for any other value.
    """
    if not isinstance(value, SupportsIndex) or not 1 <= operator.index(value) <= most:
        raise ValueError(f"{name} must be a whole number from 1 to {most}, got {value!r}")
    return operator.index(value)
