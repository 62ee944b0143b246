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
    """Training images.

    Attributes:
        name: one of `cmpolicy.images.dataset.IMAGE_DATASETS`.
        root: directory or file of the images; null looks in the cache, then downloads.
        flip: mirrors half of the images; null for the dataset's own default.
        size: crops and resizes images to `size` × `size` pixels; null keeps their size.
    """

    name: str = "digits"
    root: str | None = None
    flip: bool | None = None
    size: int | None = None


@dataclass
class UNetConfig:
    """Size of the U-Net.

    Attributes:
        channels: at the first resolution.
        multipliers: of the channels, one per resolution; each resolution halves the previous one.
        blocks: residual blocks per resolution on the way down; one more on the way up.
        attention: resolutions with self-attention, in pixels divided by `patch`.
        patch: side of the patches of pixels that become one point; 2 quarters the cost.
        resample: ``pool`` (2×2 means, nearest neighbour), or ``fir`` (filter [1, 3, 3, 1]: NCSN++).
        dropout: probability, in the residual blocks.
    """

    channels: int = 64
    multipliers: list[int] = field(default_factory=lambda: [1, 2])
    blocks: int = 1
    attention: list[int] = field(default_factory=list)
    patch: int = 1
    resample: str = "pool"
    dropout: float = 0.0

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
    """Evaluation of samples against training images.

    Attributes:
        every: updates between two evaluations.
        samples: number of samples in an evaluation during training.
        final_samples: number of samples of the last and of the best checkpoint.
    """

    every: int = 1_000
    samples: int = 500
    final_samples: int = 1_000

    def __post_init__(self) -> None:
        check_positive(self, "every", "samples", "final_samples")


@dataclass
class ImageConfig(RunConfig):
    """Images: `python -m cmpolicy.train --config-name image data=NAME image_loss=LOSS`.

    Attributes:
        data: the training images; files in configs/data/ also set a network that suits them.
        network: size of the U-Net.
        conditional: trains on class labels if the images have any.
        label_dropout: fraction of hidden labels, so that sampling needs no label.
        loss: see `LossConfig`; files in configs/image_loss/.
        teacher: run directory of a trained teacher; null trains one if the loss needs it.
        sigma_min, sigma_max: range of noise levels, for data with σ_d = 0.5.
        batch_size: of one update, over all processes.
        accumulate: pieces that each process splits its batch into, to save memory.
        precision: ``bf16`` computes everything but the normalisations in bfloat16.
    """

    AUTO_PRECISION: ClassVar[tuple[str, ...]] = ("bf16", "fp32")
    OWN_KEY: ClassVar[str] = "data"

    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    network: UNetConfig = field(default_factory=UNetConfig)
    conditional: bool = True
    label_dropout: float = 0.0
    loss: LossConfig = field(default_factory=LossConfig)
    teacher: str | None = None
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    accumulate: int = 1
    eval: ImageEvalConfig = field(default_factory=ImageEvalConfig)
    steps: int = 4_000
    batch_size: int = 128
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
    """Sampling: `python -m cmpolicy.sample run=RUN`.

    Attributes:
        run: run directory of an image run.
        checkpoint: ``last`` or ``best``.
        model: ``student`` or ``teacher``; null for the student if there is one.
        ema: decay of the averaged weights; null for those that training evaluated.
        num_samples: number of samples.
        seed: of the first sample; sample i has seed `seed` + i and depends on nothing else.
        label: class of all samples; null cycles through all classes.
        unconditional: samples without labels.
        batch_size: number of samples computed at once.
        steps: Heun steps of a teacher, network calls of a student, or length of the grid of `ts`.
        ts: indices into a Karras grid of `steps` levels, 0 the noisiest, as OpenAI counts them.
        levels: decreasing noise levels of a student, for data with σ_d = 0.5.
        solver: of a teacher, ``heun`` or ``euler``.
        churn, churn_min, churn_max, churn_noise: of a teacher: Karras et al. 2022, Algorithm 2.
        out: path of the .npz; null for one in the run directory.
        columns, sheet_samples: of the PNG sheet; by default it is about square.
        precision: as in training; with ``fp32`` a sample does not depend on its batch.
        device, threads: as in training.
        progress: shows a progress bar.
    """

    run: str = MISSING
    checkpoint: str = "last"
    model: str | None = None
    ema: float | None = None
    num_samples: int = 100
    seed: int = 0
    label: int | None = None
    unconditional: bool = False
    batch_size: int = 100
    steps: int | None = None
    ts: list[int] | None = None
    levels: list[float] | None = None
    solver: str = "heun"
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0
    out: str | None = None
    columns: int | None = None
    sheet_samples: int = 100
    precision: str = "fp32"
    device: str = "auto"
    threads: int | None = 1
    progress: bool = True

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
    """Editing: `python -m cmpolicy.edit run=RUN`.

    Attributes:
        run: run directory of an image run with a student.
        checkpoint, ema: as in sampling.
        task: one of `cmpolicy.images.editing_tasks.TASKS`, or ``all`` that fit the images.
        picture: an image file; null takes images of the dataset.
        degrade: degrades the image first; false if it is already grey, small, noisy or drawn.
        pictures: number of dataset images.
        split: of the dataset, ``test`` or ``train``.
        mask: image file of the same size for inpainting, white where to paint; null for the centre.
        factor: of super-resolution; null for 4, or 2 below 16 pixels a side.
        noise: standard deviation of the noise to remove, for pixels between −1 and 1.
        start: noise level at which strokes and interpolations start, for data with σ_d = 0.5.
        steps: network calls.
        label: class of all images; null for each image's own.
        seed: of the noise of the first image; image i has seed `seed` + i.
        out: path of the PNG; null for one in the run directory.
        device, threads: as in training.
    """

    run: str = MISSING
    checkpoint: str = "last"
    ema: float | None = None
    task: str = "all"
    picture: str | None = None
    degrade: bool = True
    pictures: int = 10
    split: str = "test"
    mask: str | None = None
    factor: int | None = None
    noise: float = 0.5
    start: float = 1.0
    steps: int = 20
    label: int | None = None
    seed: int = 0
    out: str | None = None
    device: str = "auto"
    threads: int | None = 1

    def __post_init__(self) -> None:
        given = [k for k in ("threads", "factor") if getattr(self, k) is not None]
        check_positive(self, "pictures", "steps", *given)
        check_seed(self.seed)
        check_checkpoint(self.checkpoint)
        if self.noise <= 0 or self.start <= 0:
            raise ValueError(f"noise and start must be above 0, got {self.noise}, {self.start}")


@dataclass
class ComparedImages:
    """Images to compare samples with; null for the run's training images.

    Attributes:
        name, root, size: as in training.
    """

    name: str | None = None
    root: str | None = None
    size: int | None = None


@dataclass
class ImageMetricsConfig:
    """Keys of `python -m cmpolicy.evaluate` that images use.

    Attributes:
        run, checkpoint, device: as in sampling; the run may be of an agent.
        seed: of the first episode or sample.
        steps: network calls per action or sample; null for training's, or 1, 2, 5 and a teacher's.
        npz: file of samples, as `cmpolicy.sample` writes it, instead of a run.
        data: the images to compare with.
        extractor: one of `cmpolicy.images.extractors.EXTRACTORS`; only ``inception`` gives the FID.
        weights: file of the extractor's weights; null for those of an installed package.
        reference: file with mu and sigma, instead of `data`.
        save_reference: path to write such a file to.
        num_samples, batch_size: of each sampler; computed at once.
    """

    run: str | None = None
    checkpoint: str = "last"
    seed: int = 1_000
    steps: int | None = None
    device: str = "auto"
    npz: str | None = None
    data: ComparedImages = field(default_factory=ComparedImages)
    extractor: str = "classifier"
    weights: str | None = None
    reference: str | None = None
    save_reference: str | None = None
    num_samples: int = 5_000
    batch_size: int = 250

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
