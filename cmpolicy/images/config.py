"""Define every key of an image run, of sampling, editing and metrics: type, default and range."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from cmpolicy.acceleration.precision import check_precision
from cmpolicy.cli.run_config import (
    RunConfig,
    check_checkpoint,
    check_noise_range,
    check_positive,
    check_seed,
)
from cmpolicy.consistency.solvers import SOLVERS
from cmpolicy.generative.loss_config import LossConfig

RESAMPLERS = ("pool", "fir")
GROUP_CHANNELS = 4  # channels per group of a normalisation, at least


@dataclass
class ImageDataConfig:
    """Training images."""

    name: str = "digits"  # one of `cmpolicy.images.dataset.IMAGE_DATASETS`
    root: str | None = None  # directory or file; null looks in the cache, then downloads
    flip: bool | None = None  # mirrors half of the images; null for the dataset's own default
    size: int | None = None  # crops and resizes to `size` × `size` pixels; null keeps the size


@dataclass
class UNetConfig:
    """Size of the U-Net."""

    channels: int = 64  # at the first resolution
    # of the channels, one per resolution; each resolution halves the previous one
    multipliers: list[int] = field(default_factory=lambda: [1, 2])
    blocks: int = 1  # residual blocks per resolution on the way down; one more on the way up
    # resolutions with self-attention, in pixels divided by `patch`
    attention: list[int] = field(default_factory=list)
    patch: int = 1  # side of the patches of pixels that become one point; 2 quarters the cost
    resample: str = "pool"  # 2×2 means, nearest neighbour; or fir, NCSN++'s filter [1, 3, 3, 1]
    dropout: float = 0.0  # probability, in the residual blocks

    def __post_init__(self) -> None:
        positive = (self.channels, self.blocks, self.patch, *self.multipliers)
        if not self.multipliers or min(positive) < 1 or self.channels % GROUP_CHANNELS:
            raise ValueError(
                "a network needs multipliers, blocks and patch of at least 1 and channels in "
                f"multiples of {GROUP_CHANNELS}, got {self}"
            )
        if self.resample not in RESAMPLERS or not 0 <= self.dropout < 1:
            raise ValueError(
                f"need resample in {', '.join(RESAMPLERS)} and 0 ≤ dropout < 1, got "
                f"{self.resample!r} and {self.dropout}"
            )


@dataclass
class ImageEvalConfig:
    """Evaluation of samples against training images."""

    every: int = 1_000  # updates between two evaluations
    samples: int = 500  # number of samples in an evaluation during training
    final_samples: int = 1_000  # number of samples of the last and of the best checkpoint

    def __post_init__(self) -> None:
        check_positive(self, "every", "samples", "final_samples")


@dataclass
class ImageConfig(RunConfig):
    """Images: `python -m cmpolicy.train --config-name image data=NAME image_loss=LOSS`."""

    AUTO_PRECISION: ClassVar[tuple[str, ...]] = ("bf16", "fp32")  # bf16 spares the normalisations
    OWN_KEY: ClassVar[str] = "data"

    # files in configs/data/ also set a network that suits the images
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    network: UNetConfig = field(default_factory=UNetConfig)
    conditional: bool = True  # trains on class labels if the images have any
    label_dropout: float = 0.0  # fraction of hidden labels, so that sampling needs no label
    loss: LossConfig = field(default_factory=LossConfig)  # files in configs/image_loss/
    teacher: str | None = None  # run of a trained teacher; null trains one if the loss needs it
    sigma_min: float = 0.002  # range of noise levels, for data with σ_d = 0.5
    sigma_max: float = 80.0  # the other end
    accumulate: int = 1  # pieces that each process splits its batch into, to save memory
    eval: ImageEvalConfig = field(default_factory=ImageEvalConfig)
    steps: int = 4_000
    batch_size: int = 128  # of one update, over all processes
    log_every: int = 100
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "accumulate")
        check_noise_range(self.sigma_min, self.sigma_max)
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must be between 0 and 1, got {self.label_dropout}")
        if self.loss.stable_target:
            raise ValueError("loss.stable_target works in few dimensions, not for images")
        if self.teacher is not None and self.loss.only_teacher:
            raise ValueError(f"loss.name={self.loss.name} trains a teacher; leave teacher= out")


@dataclass
class SampleConfig:
    """Sampling: `python -m cmpolicy.sample run=RUN`."""

    run: str = MISSING  # run directory of an image run
    checkpoint: str = "last"  # or best
    model: str | None = None  # student or teacher; null for the student if there is one
    ema: float | None = None  # decay of the averaged weights; null for those of training
    num_samples: int = 100  # in all
    seed: int = 0  # sample i has seed `seed` + i and depends on nothing else
    label: int | None = None  # class of all samples; null cycles through all classes
    unconditional: bool = False  # samples without labels
    batch_size: int = 100  # samples computed at once
    # Heun steps of a teacher, network calls of a student, or length of the grid of `ts`
    steps: int | None = None
    ts: list[int] | None = None  # indices into a Karras grid, 0 the noisiest, as OpenAI counts
    levels: list[float] | None = None  # decreasing levels of a student, for data with σ_d = 0.5
    solver: str = "heun"  # of a teacher, or euler
    churn: float = 0.0  # of a teacher, with its three settings: Karras et al. 2022, Algorithm 2
    churn_min: float = 0.0  # S_tmin there
    churn_max: float = math.inf  # S_tmax there
    churn_noise: float = 1.0  # S_noise there
    out: str | None = None  # path of the .npz; null for one in the run directory
    columns: int | None = None  # of the PNG sheet; null for a sheet that is about square
    sheet_samples: int = 100  # on the sheet, at most
    precision: str = "fp32"  # as in training; with fp32 a sample does not depend on its batch
    device: str = "auto"  # as in training
    threads: int | None = 1  # as in training
    progress: bool = True  # show a progress bar

    def __post_init__(self) -> None:
        given = [k for k in ("steps", "threads", "columns") if getattr(self, k) is not None]
        check_positive(self, "num_samples", "batch_size", "sheet_samples", *given)
        check_seed(self.seed)
        check_checkpoint(self.checkpoint)
        check_precision(self.precision)
        if self.solver not in SOLVERS or self.model not in (None, "student", "teacher"):
            raise ValueError(
                f"need solver in {', '.join(SOLVERS)} and model in student, teacher, got "
                f"{self.solver!r} and {self.model!r}"
            )


@dataclass
class EditConfig:
    """Editing: `python -m cmpolicy.edit run=RUN`."""

    run: str = MISSING  # run directory of an image run with a student
    checkpoint: str = "last"  # or best
    ema: float | None = None  # as in sampling
    task: str = "all"  # those that fit; or one of `cmpolicy.images.editing_tasks.TASKS`
    picture: str | None = None  # an image file; null takes images of the dataset
    degrade: bool = True  # false if the image is already grey, small, noisy or drawn
    pictures: int = 10  # number of dataset images
    split: str = "test"  # of the dataset, or train
    mask: str | None = None  # of the same size, white where to paint; null for the centre
    factor: int | None = None  # of super-resolution; null for 4, or 2 below 16 pixels a side
    noise: float = 0.5  # standard deviation to remove, for pixels between −1 and 1
    start: float = 1.0  # level at which strokes and interpolations start, for σ_d = 0.5
    steps: int = 20  # network calls
    label: int | None = None  # class of all images; null for each image's own
    seed: int = 0  # image i has noise of seed `seed` + i
    out: str | None = None  # path of the PNG; null for one in the run directory
    device: str = "auto"  # as in training
    threads: int | None = 1  # as in training

    def __post_init__(self) -> None:
        given = [k for k in ("threads", "factor") if getattr(self, k) is not None]
        check_positive(self, "pictures", "steps", *given)
        check_seed(self.seed)
        check_checkpoint(self.checkpoint)
        if self.noise <= 0 or self.start <= 0:
            raise ValueError(f"noise and start must be above 0, got {self.noise}, {self.start}")


@dataclass
class ComparedImages:
    """Images to compare samples with, as in training; null for the run's training images."""

    name: str | None = None  # a data set
    root: str | None = None  # directory or file of it
    size: int | None = None  # of its pictures, in pixels a side


@dataclass
class ImageMetricsConfig:
    """Keys of `python -m cmpolicy.evaluate` that images use."""

    run: str | None = None  # run directory of an agent or of images
    checkpoint: str = "last"  # or best
    seed: int = 1_000  # of the first episode or sample
    # network calls per action or sample; null for those of training, or 1, 2, 5 and the teacher's
    steps: int | None = None
    device: str = "auto"  # as in training
    npz: str | None = None  # samples, as `cmpolicy.sample` writes them, instead of a run
    data: ComparedImages = field(default_factory=ComparedImages)
    extractor: str = "classifier"  # one of EXTRACTORS; only inception gives the FID
    weights: str | None = None  # file of the extractor's weights; null for an installed package's
    reference: str | None = None  # file with mu and sigma, instead of `data`
    save_reference: str | None = None  # path to write such a file to
    num_samples: int = 5_000  # per sampler
    batch_size: int = 250  # samples computed at once

    def __post_init__(self) -> None:
        given = ["steps"] if self.steps is not None else []
        check_positive(self, "num_samples", "batch_size", *given)
        check_seed(self.seed)
        check_checkpoint(self.checkpoint)


store = ConfigStore.instance()
store.store(name="image_schema", node=ImageConfig)
store.store(group="image_loss", name="loss_schema", node=LossConfig)
store.store(name="sample_schema", node=SampleConfig)
store.store(name="edit_schema", node=EditConfig)
