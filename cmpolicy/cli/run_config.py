"""What every training run is configured with, and checks of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from cmpolicy.acceleration.mode import check_acceleration
from cmpolicy.acceleration.precision import check_precision
from cmpolicy.training.loggers import check_loggers


def check_positive(config: object, *names: str) -> None:
    """Raise ValueError unless the named fields are at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def check_seed(seed: int) -> None:
    """Raise ValueError unless generators and environments take `seed`."""
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be between 0 and {2**31 - 1}, got {seed}")


def check_noise_range(sigma_min: float, sigma_max: float) -> None:
    """Raise ValueError unless they are the ends of noise levels."""
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")


def check_checkpoint(name: str) -> None:
    """Raise ValueError unless a run keeps a checkpoint of that name."""
    if name not in ("last", "best"):
        raise ValueError(f"checkpoint must be last or best, got {name!r}")


@dataclass
class RunConfig:
    """What every training run has.

    Attributes:
        steps: updates in the whole run.
        batch_size: of one update.
        seed: of weights, data order and noise; evaluation uses others derived from it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads; null for torch's own choice. These networks are small: a second
            thread gains little, and waits long where another process wants its core.
        precision: of products of matrices: ``fp32``, ``tf32`` (CUDA), ``bf16``, or ``auto``, the
            first of AUTO_PRECISION that the device is quick in. Master weights, losses, targets and
            noise levels are float32 in all of them.
        accelerate: how agents are updated: ``graph`` (CUDA graphs of several updates), ``compile``,
            ``compiled_graph`` (both), ``off``, or ``auto``, see `cmpolicy.acceleration.mode`.
        log_every, checkpoint_every: updates between two logs, two checkpoints.
        logger: where the log goes: ``csv``, ``tensorboard``, ``wandb``.
        output_dir: where runs go.
        run_dir: this run's directory; null for one named after task, agent, seed and time.
        resume: a run to go on with.
        progress: show a progress bar; without a terminal, a line an evaluation.
    """

    AUTO_PRECISION: ClassVar[tuple[str, ...]] = ("tf32", "bf16", "fp32")
    OWN_KEY: ClassVar[str]  # which only this kind of run has

    steps: int = 100_000
    batch_size: int = 256
    seed: int = 0
    device: str = "auto"
    threads: int | None = 1
    precision: str = "auto"
    accelerate: str = "auto"
    log_every: int = 500
    checkpoint_every: int = 5_000
    logger: list[str] = field(default_factory=lambda: ["csv", "tensorboard"])
    output_dir: str = "runs"
    run_dir: str | None = None
    resume: str | None = None
    progress: bool = True

    @classmethod
    def schema_of(cls, stored: Any) -> Self:
        """What the stored configuration of a run of this kind is merged into."""
        return cls()

    @property
    def updates(self) -> int:
        """All updates of the run."""
        return self.steps

    def __post_init__(self) -> None:
        if self.steps < 0 or self.updates < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        check_positive(self, "batch_size", "log_every", "checkpoint_every")
        if self.threads is not None:
            check_positive(self, "threads")
        check_seed(self.seed)
        check_loggers(self.logger)
        check_precision(self.precision)
        check_acceleration(self.accelerate)
