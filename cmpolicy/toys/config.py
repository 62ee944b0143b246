"""Define every key of a toy run: type, default and range."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hydra.core.config_store import ConfigStore

from cmpolicy.cli.run_config import RunConfig, check_noise_range, check_positive
from cmpolicy.consistency.losses import LOSSES
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.plugins import find_all

IN_FILES = set(LOSSES)  # those of the library have a file in configs/loss/


@dataclass
class ToyEvalConfig:
    """Evaluation of samples against the truth."""

    every: int = 1_000  # updates between two evaluations
    samples: int = 20_000  # number of samples in each

    def __post_init__(self) -> None:
        check_positive(self, "every", "samples")


@dataclass
class ToyConfig(RunConfig):
    """Toys: `python -m cmpolicy.train --config-name toy toy=NAME loss=LOSS`."""

    AUTO_PRECISION: ClassVar[tuple[str, ...]] = ("fp32",)
    OWN_KEY: ClassVar[str] = "toy"

    toy: str = "three_gmm"  # one of `cmpolicy.toys.dataset.TOYS`
    loss: LossConfig = field(default_factory=LossConfig)  # files in configs/loss/
    hidden: list[int] = field(default_factory=lambda: [128, 128, 128])  # widths of the layers
    sigma_min: float = 0.002  # range of noise levels, for data with σ_d = 0.5
    sigma_max: float = 10.0
    teacher: str | None = None  # run of a trained teacher; null trains one if the loss needs it
    eta: float = 1.0  # weight of the Q-guidance, on a bandit
    eval: ToyEvalConfig = field(default_factory=ToyEvalConfig)
    steps: int = 10_000
    batch_size: int = 512
    log_every: int = 100
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden or min(self.hidden) < 1 or self.eta < 0:
            raise ValueError(f"need positive hidden and eta ≥ 0, got {self.hidden}, {self.eta}")
        check_noise_range(self.sigma_min, self.sigma_max)
        if self.precision not in ("auto", "fp32"):
            raise ValueError(f"toys train in fp32, got precision={self.precision}")
        if self.loss.only_teacher:
            raise ValueError(f"loss.name={self.loss.name} trains no student, which toys need")
        if self.loss.perceptual:
            raise ValueError("loss.perceptual compares images, and toys have none")


store = ConfigStore.instance()
store.store(name="toy_schema", node=ToyConfig)
store.store(group="loss", name="loss_schema", node=LossConfig)
for name in find_all("loss", LOSSES).keys() - IN_FILES:  # of plug-ins
    store.store(group="loss", name=name, node=LossConfig(name))
