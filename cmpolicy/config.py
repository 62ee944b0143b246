"""Every key of the configuration, its type, its default and its range.

Hydra composes `configs/` against these dataclasses, so a wrong key or type is refused; agents keep
theirs beside their code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from cmpolicy.agents import AGENTS
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.image_config import EditConfig, ImageConfig, ImageMetricsConfig, SampleConfig
from cmpolicy.run_config import (
    RunConfig,
    check_checkpoint,
    check_levels,
    check_positive,
    check_seed,
)

PACKAGE = Path(__file__).resolve().parent
# In a wheel the configurations are inside the package, in a checkout beside it. The path is
# absolute because Hydra resolves a relative one against the calling script.
IN_PACKAGE = PACKAGE / "configs"
CONFIG_PATH = str(IN_PACKAGE if IN_PACKAGE.is_dir() else PACKAGE.parent / "configs")


@dataclass
class EnvConfig:
    """A task: where its data is, and where a policy for it is evaluated.

    Attributes:
        name: what the run and the results call it.
        id: Gymnasium id of the evaluation environment; null for the one that belongs to the data.
        d4rl_id, d4rl_env_id: the D4RL dataset, and the environment that its data goes with.
        max_episode_steps: where D4RL cuts the episodes of that environment, if not where Gymnasium
            does; null for Gymnasium's.
        minari_id: the Minari dataset.
        reward: a name in `cmpolicy.datasets.rewards`.
        eta: η of `agent=ac`, the one number of its that a suite may have for itself.
        ding_jin: published per-task settings of Consistency-AC, read by `agent=ac_ding_jin`.
    """

    name: str = MISSING
    id: str | None = None
    d4rl_id: str | None = None
    d4rl_env_id: str | None = None
    max_episode_steps: int | None = None
    minari_id: str | None = None
    reward: str = "none"
    eta: float = 0.001
    ding_jin: dict[str, Any] = field(default_factory=dict)


@dataclass
class DatasetConfig:
    """Where the transitions come from.

    Attributes:
        source: ``auto`` (see the README for the order), or the one source to use.
        path: a D4RL-layout HDF5 file, a Minari dataset's directory or id.
    """

    source: str = "auto"
    path: str | None = None


@dataclass
class EvalConfig:
    """Evaluation in the environment.

    Attributes:
        every: updates between two evaluations.
        episodes: of each evaluation during training.
        final_episodes: of the evaluation of the last and the best checkpoint at the end.
    """

    every: int = 10_000
    episodes: int = 10
    final_episodes: int = 20

    def __post_init__(self) -> None:
        check_positive(self, "every", "episodes", "final_episodes")


@dataclass
class OnlineConfig:
    """Training that goes on in the environment.

    Attributes:
        steps: of the environment, after the `steps` updates on the data alone, which may be 0.
        updates_per_step: updates after each of them.
        return_temperature: in place of the agent's from then on, where that is not 0: an agent's
            own episodes differ by less than those in the data.
    """

    steps: int = 0
    updates_per_step: int = 1
    return_temperature: float = 0.02

    def __post_init__(self) -> None:
        check_positive(self, "updates_per_step")
        if self.steps < 0 or self.return_temperature <= 0:
            raise ValueError(
                "need online.steps ≥ 0 and online.return_temperature > 0, got "
                f"{self.steps} and {self.return_temperature}"
            )


@dataclass
class RLConfig(RunConfig):
    """Offline reinforcement learning: `python -m cmpolicy.train env=NAME`.

    With `online.steps` the agent goes on in the environment afterwards.

    Attributes:
        seeds: several, trained at once on one device, each as with that `seed` alone: a list, or
            how many from 0 on; null for `seed`.
    """

    seeds: Any = None
    env: EnvConfig = field(default_factory=EnvConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    agent: Any = MISSING
    eval: EvalConfig = field(default_factory=EvalConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)

    @property
    def updates(self) -> int:
        """On the data alone, and online."""
        return self.steps + self.online.steps * self.online.updates_per_step

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds is None:
            return
        if self.seed:
            raise ValueError(f"give seed or seeds, got seed={self.seed} and seeds={self.seeds}")
        if type(self.seeds) is int and self.seeds > 0:
            self.seeds = list(range(self.seeds))
        whole = isinstance(self.seeds, list) and all(type(seed) is int for seed in self.seeds)
        if not whole or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds must be a number above 0 or a list of different ones, got {self.seeds}"
            )
        for seed in self.seeds:
            check_seed(seed)
        if self.online.steps:
            raise ValueError(
                f"seeds train on data alone, got online.steps={self.online.steps}; give seed"
            )

    def each_seed(self) -> list[RLConfig]:
        """The configurations that would train each of `seeds` alone."""
        return [replace(self, seed=seed, seeds=None) for seed in self.seeds]


@dataclass
class ToyEvalConfig:
    """Comparison of a toy's samples with the truth.

    Attributes:
        every: updates between two comparisons.
        samples: of each.
    """

    every: int = 1_000
    samples: int = 20_000

    def __post_init__(self) -> None:
        check_positive(self, "every", "samples")


@dataclass
class ToyConfig(RunConfig):
    """Toys: `python -m cmpolicy.train --config-name toy toy=NAME loss=LOSS`.

    Attributes:
        toy: a name in `cmpolicy.datasets.toys.TOYS`.
        loss: see `LossConfig`; a file in configs/loss/.
        hidden: widths of the network.
        sigma_min, sigma_max: ends of the noise levels, where the data has σ_d = 0.5.
        teacher: a toy run whose teacher is distilled, in place of training one first.
        eta: weight of the Q-guidance, on a bandit.
    """

    AUTO_PRECISION: ClassVar[tuple[str, ...]] = ("fp32",)

    toy: str = "three_gmm"
    loss: LossConfig = field(default_factory=LossConfig)
    hidden: list[int] = field(default_factory=lambda: [128, 128, 128])
    sigma_min: float = 0.002
    sigma_max: float = 10.0
    teacher: str | None = None
    eta: float = 1.0
    eval: ToyEvalConfig = field(default_factory=ToyEvalConfig)
    steps: int = 10_000
    batch_size: int = 512
    log_every: int = 100
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden or min(self.hidden) < 1 or self.eta < 0:
            raise ValueError(f"need positive hidden and eta ≥ 0, got {self.hidden}, {self.eta}")
        check_levels(self.sigma_min, self.sigma_max)
        if self.precision not in ("auto", "fp32"):
            raise ValueError(f"toys train in fp32, got precision={self.precision}")
        if self.loss.only_teacher:
            raise ValueError(f"loss.name={self.loss.name} trains no student, which toys are about")
        if self.loss.perceptual:
            raise ValueError("loss.perceptual compares pictures, and a toy has none")


@dataclass
class EvaluateConfig(ImageMetricsConfig):
    """`python -m cmpolicy.evaluate run=RUN`, or `npz=FILE data.name=NAME` for pictures at hand.

    Attributes:
        run: a run directory of an agent or of images.
        checkpoint: ``last`` or ``best``.
        episodes: how many.
        seed: the first episode's, or sample's.
        steps: network calls an action, null for what the policy was trained with; or a sample,
            null for 1, 2, 5, and the teacher's.
        best_of: actions drawn an observation, of which the critic picks the best; null for the
            agent's own way.
        mode_of: actions drawn an observation, of which the mode is taken, 1 for a plain sample;
            null for the agent's own.
        video: write the first episode as video.mp4.
        device: as in training.
    """

    run: str | None = None
    checkpoint: str = "last"
    episodes: int = 20
    seed: int = 1_000
    steps: int | None = None
    best_of: int | None = None
    mode_of: int | None = None
    video: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [
            name for name in ("best_of", "mode_of", "steps") if getattr(self, name) is not None
        ]
        check_positive(self, "episodes", *given)
        check_seed(self.seed)
        check_checkpoint(self.checkpoint)


@dataclass
class ExportConfig:
    """`python -m cmpolicy.export run=RUN`.

    Attributes:
        run: a run directory, or a file that `ConsistencyPolicy.save` wrote.
        checkpoint: ``last`` or ``best``, of a run directory.
        steps: network calls an action; null for what the policy was trained with.
        mode_of: samples whose mode is taken, always of the same noise; null for as many as the run
            was evaluated with, 1 for a plain sample.
        noise: of a plain sample: ``input``, so that actions can be reproduced, or ``inside``,
            drawn in the graph.
        formats: ``onnx`` and ``torch``, or one of them.
        output_dir: where the files go; null for the directory `export` in the run.
    """

    run: str = MISSING
    checkpoint: str = "last"
    steps: int | None = None
    mode_of: int | None = None
    noise: str | None = None
    formats: list[str] = field(default_factory=lambda: ["onnx", "torch"])
    output_dir: str | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_positive(self, "steps")
        if self.mode_of is not None:
            check_positive(self, "mode_of")
        check_checkpoint(self.checkpoint)
        if self.noise not in (None, "input", "inside"):
            raise ValueError(f"noise must be input or inside, got {self.noise!r}")
        if self.noise is not None and (self.mode_of or 1) > 1:
            raise ValueError(f"the mode of {self.mode_of} samples takes no noise; leave noise out")
        if not self.formats or not set(self.formats) <= {"onnx", "torch"}:
            raise ValueError(f"formats must be of onnx and torch, got {list(self.formats)}")


def register_schemas() -> None:
    """Make the dataclasses known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="rl_schema", node=RLConfig)
    store.store(name="toy_schema", node=ToyConfig)
    store.store(name="image_schema", node=ImageConfig)
    store.store(group="loss", name="loss_schema", node=LossConfig)
    store.store(group="image_loss", name="loss_schema", node=LossConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="sample_schema", node=SampleConfig)
    store.store(name="edit_schema", node=EditConfig)
    store.store(name="export_schema", node=ExportConfig)
    for name, agent in AGENTS.items():
        store.store(group="agent", name=f"{name}_schema", node=agent.Config)
