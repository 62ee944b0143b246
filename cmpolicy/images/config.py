"""Every key of an image run and of sampling, its type, its default and its range."""

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
from cmpolicy.images.unet import UNetConfig


@dataclass
class ImageDataConfig:
    """Images to learn.

    Attributes:
        name: a name in `cmpolicy.images.dataset.IMAGE_DATASETS`.
        root: where its files lie; null looks in the cache, then downloads.
        flip: mirror half of the images; null for what is usual for the dataset.
        size: pixels of a side, to which images are resized and cropped; null leaves them.
    """

    name: str = "digits"
    root: str | None = None
    flip: bool | None = None
    size: int | None = None


@dataclass
class ImageEvalConfig:
    """Comparison of samples with images.

    Attributes:
        every: updates between two comparisons.
        samples: of each during training.
        final_samples: of the last and the best checkpoint at the end.
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
        data: the images; a file in configs/data/, which sets a fitting network as well.
        network: sizes of the U-Net.
        conditional: train on class labels, where the images have some.
        label_dropout: share of the labels that training hides, so that the model also samples
            without one.
        loss: see `LossConfig`; a file in configs/image_loss/.
        teacher: an image run whose teacher is distilled, or whose weights the student begins with,
            in place of training one first.
        sigma_min, sigma_max: ends of the noise levels, where the data has σ_d = 0.5.
        batch_size: of one update, over all processes.
        accumulate: pieces in which a process takes its part of a batch, to save memory.
        precision: in ``bf16`` all of a network is, but for its normalisations.
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
            raise ValueError("loss.stable_target is for few dimensions, not for images")
        if self.teacher is not None and self.loss.only_teacher:
            raise ValueError(f"loss.name={self.loss.name} trains a teacher and takes none")


@dataclass
class SampleConfig:
    """`python -m cmpolicy.sample run=RUN`.

    Attributes:
        run: a run of images.
        checkpoint: ``last`` or ``best``.
        model: ``student`` or ``teacher``; null for the student where there is one.
        ema: decay of the averaged weights; null for the one that training evaluated.
        num_samples: how many.
        seed: of the first sample; sample i has the seed `seed` + i and depends on nothing else.
        label: of all samples; null for all classes in turn.
        unconditional: sample without labels.
        batch_size: how many at once.
        steps: of the sampler: Heun's steps of a teacher, network calls of a student; with `ts`
            the length of the Karras grid that these are indices of.
        ts: indices into the Karras grid of `steps` levels, 0 the noisiest, as OpenAI counts.
        levels: noise levels of a student, decreasing, where the data has σ_d = 0.5.
        solver: of a teacher, ``heun`` or ``euler``.
        churn, churn_min, churn_max, churn_noise: of a teacher: Karras et al. 2022, Algorithm 2.
        out: the .npz; null for one below the run.
        columns: of the sheet; null for as many as make it about square.
        sheet_samples: samples on the sheet, at most.
        precision: as in training; in ``fp32`` a picture does not change with its neighbours.
        device: as in training.
        threads: as in training.
        progress: show a progress bar.
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
    """`python -m cmpolicy.edit run=RUN`.

    Attributes:
        run: a run of images with a student.
        checkpoint: ``last`` or ``best``.
        ema: decay of the averaged weights; null for the one that training evaluated.
        task: a name in `cmpolicy.images.editing_tasks.TASKS`, or ``all`` that fit the images.
        picture: a file; null for pictures of the data.
        degrade: spoil the picture first; false for one that is grey, small, noisy or drawn
            already.
        pictures: how many of the data, where no file is given.
        split: of the data, ``test`` or ``train``.
        mask: of inpainting, a file of the same size, white where to paint; null for the middle.
        factor: of super-resolution; null for 4, or 2 below 16 pixels a side.
        noise: of denoising, standard deviation where pixels lie between −1 and 1.
        start: noise level at which strokes and interpolations of pictures begin, where the data
            has σ_d = 0.5: near 0 nothing changes, at σ_max nothing stays.
        steps: network calls.
        label: class of all pictures; null for that of each picture.
        seed: of the noise of the first picture; each has its own.
        out: the PNG; null for one below the run.
        device: as in training.
        threads: as in training.
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
    """What pictures are compared with; null for what the run was trained on.

    Attributes:
        name, root, size: as in training.
    """

    name: str | None = None
    root: str | None = None
    size: int | None = None


@dataclass
class ImageMetricsConfig:
    """The part of `python -m cmpolicy.evaluate` that images have.

    Attributes:
        run: a run directory of an agent or of images.
        checkpoint: ``last`` or ``best``.
        seed: the first episode's, or sample's.
        steps: network calls an action, null for what the policy was trained with; or a sample,
            null for 1, 2, 5, and the teacher's.
        device: as in training.
        npz: pictures to compare in place of a run's, as `cmpolicy.sample` writes them.
        data: what to compare them with.
        extractor: a name in `cmpolicy.images.extractors.EXTRACTORS`; only the distance on
            ``inception`` is the FID.
        weights: a file with the extractor's weights; null for that of an installed package.
        reference: a file with mu and sigma to compare with, in place of the data.
        save_reference: where to write such a file.
        num_samples: of each sampler of a run.
        batch_size: how many at once.
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
        check_positive(self, "num_samples", "batch_size")
        if self.steps is not None:
            check_positive(self, "steps")
        check_seed(self.seed)
        check_checkpoint(self.checkpoint)


store = ConfigStore.instance()
store.store(name="image_schema", node=ImageConfig)
store.store(group="image_loss", name="loss_schema", node=LossConfig)
store.store(name="sample_schema", node=SampleConfig)
store.store(name="edit_schema", node=EditConfig)
