"""Train a toy in the loop: data, learner, evaluation, results."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmpolicy.cli.resume import load_config
from cmpolicy.consistency.sampling import few_step_levels, multistep_path
from cmpolicy.consistency.solvers import trajectory
from cmpolicy.errors import InputError
from cmpolicy.generative.learner import GenerativeLearner
from cmpolicy.generative.models import EDMTeacher
from cmpolicy.toys.bandit import BanditTask
from cmpolicy.toys.config import ToyConfig
from cmpolicy.toys.dataset import Bandit, ToyDataset, find_toy
from cmpolicy.toys.distances import compare
from cmpolicy.toys.distributions import ConditionalToy, GaussianMixture, Toy
from cmpolicy.toys.figures import (
    Density,
    Paths,
    Scores,
    draw_histograms,
    draw_toy_panel,
    draw_toy_panel_2d,
)
from cmpolicy.toys.fourier_mlp import FourierMLP
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
STEPS = (1, 2, 4, 20)
TEACHER_STEPS = 18


def make_toy_task(config: ToyConfig, device: torch.device) -> BanditTask | ToyTask:
    """Build the task of a toy.

    Raises:
        InputError: for an unknown toy, or settings that do not fit each other.
    """
    toy = find_toy(config.toy)
    return BanditTask(config, toy, device) if isinstance(toy, Bandit) else ToyTask(config, device)


@dataclass(frozen=True)
class ToyScore:
    """Distances between samples and the truth, named as `compare` names them."""

    distances: dict[str, dict[str, float]]  # by sampler ("1 step"), the mean over conditions
    by_condition: dict[str, dict[str, float]]  # of one-step samples, at each condition
    samples: int

    @property
    def key(self) -> str:
        """Name of the distance that compares checkpoints: W1, or sliced W2 in two dimensions."""
        return "w1" if "w1" in self.distances["1 step"] else "sliced_w2"

    def __str__(self) -> str:
        parts = (f"{row[self.key]:.3f} ({sampler})" for sampler, row in self.distances.items())
        return f"{self.key.replace('_', ' ').replace('w', 'W')} {', '.join(parts)}"


class ToyTask:
    """A consistency model of a toy.

    Attributes:
        dataset: the training set, on the device.
        learner: teacher and student.

    Raises:
        InputError: for a name or a run that does not exist or does not fit.
    """

    def __init__(self, config: ToyConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.dataset = ToyDataset(config.toy, seed=config.seed, device=device)
        self.toy = self.dataset.toy
        teacher = self._load_teacher(config.teacher) if config.teacher else None
        self.learner = self._make_learner(config, teacher).to(device)
        assert self.learner.student is not None, "ToyConfig refuses losses without a student"
        self.student = self.learner.student
        self.parameterization = self.student.parameterization
        self.scores: dict[int, ToyScore] = {}
        log.info("toy: %s   loss: %s", config.toy, config.loss.name)
        if self.learner.teacher_steps:
            log.info("the first %d updates train an EDM teacher", self.learner.teacher_steps)

    def _make_learner(self, c: ToyConfig, teacher: EDMTeacher | None) -> GenerativeLearner:
        data, levels = self.dataset, (c.sigma_min, c.sigma_max)
        network = FourierMLP(data.dim, data.condition_dim, c.hidden)
        return GenerativeLearner(network, c.loss, c.steps, data.mean, data.std, *levels, teacher)

    def _load_teacher(self, path: str) -> EDMTeacher:
        """Load the trained teacher of another toy run."""
        run = RunDirectory.existing(path)
        theirs, mine = load_config(run, ToyConfig), self.config
        keys = ("toy", "seed", "hidden", "sigma_min", "sigma_max")
        if (
            theirs is None
            or any(getattr(theirs, key) != getattr(mine, key) for key in keys)
            or theirs.loss.parameterization != mine.loss.parameterization
        ):
            raise InputError(
                f"the teacher of {path} has another toy, seed, network, parameterization or noise "
                "levels; use its settings"
            )
        learner = self._make_learner(theirs, None)
        learner.load_training_state(run.load_checkpoint("last")["learner"])
        if learner.teacher is None or learner.step < learner.teacher_steps:
            raise InputError(f"{path} has no teacher, or has not finished training it")
        return learner.teacher

    def run_name(self) -> str:
        """Name toy and loss, as a path below output_dir."""
        return f"{self.config.toy}/{self.config.loss.name}"

    def _sample(self, n: int, sampler: str, seed: int, condition: Tensor | None = None) -> Tensor:
        """Sample in the units of the data, (n, d), at one condition (condition_dim,) or n of them.

        Args:
            sampler: ``"4 steps"``, or ``"teacher, Heun"``.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        noise = torch.randn(n, self.dataset.dim, generator=generator, device=self.device)
        c = None if condition is None else condition.to(self.device).expand(n, -1)
        with torch.inference_mode():
            if sampler.startswith("teacher"):
                assert self.learner.teacher is not None
                x0 = self.learner.teacher.sample(noise, c, TEACHER_STEPS)
            else:
                levels = few_step_levels(int(sampler.split(maxsplit=1)[0]), self.parameterization)
                x0 = self.student.sample(noise, levels, c, generator)
            return self.learner.decode(x0).cpu()

    def _samplers(self) -> list[str]:
        names = [f"{k} step{'s' if k > 1 else ''}" for k in STEPS]
        return [*names, "teacher, Heun"] if self.learner.teacher is not None else names

    def _truths(self) -> dict[str, tuple[Toy, Tensor | None]]:
        """Name the conditions, each with its distribution; one without a name for a plain toy."""
        if not isinstance(self.toy, ConditionalToy):
            return {"": (self.toy, None)}
        conditions = self.toy.conditions
        return {", ".join(f"{v:g}" for v in c.tolist()): (self.toy.given(c), c) for c in conditions}

    def _distances(self, sampler: str, seed: int) -> dict[str, dict[str, float]]:
        """Compare a sampler with the truth at each condition."""
        n, rows = self.config.eval.samples, {}
        for name, (toy, condition) in self._truths().items():
            samples = self._sample(n, sampler, seed, condition)
            rows[name] = compare(samples, _true_samples(toy, n, seed + 1))
            if toy.dim == 1:
                rows[name]["p_below_0"] = float((samples < 0).double().mean())
        return rows

    def _score(self, samplers: list[str], seed: int) -> ToyScore:
        rows = {sampler: self._distances(sampler, seed) for sampler in samplers}
        means = {sampler: _mean_row(list(row.values())) for sampler, row in rows.items()}
        by_condition = rows["1 step"] if isinstance(self.toy, ConditionalToy) else {}
        return ToyScore(means, by_condition, self.config.eval.samples)

    def evaluate(self, step: int) -> Evaluation:
        """Score one-step samples during training, with the same noise each time."""
        score = self._score(["1 step"], 10_000 * (self.config.seed + 1))
        row = score.distances["1 step"]
        return Evaluation(step, -row[score.key], {f"eval/{k}": v for k, v in row.items()})

    def final_score(self) -> ToyScore:
        """Score all samplers, with noise that did not choose the best checkpoint."""
        step = self.learner.step
        if step not in self.scores:
            seed = 10_000 * (self.config.seed + 1) + 5_000
            self.scores[step] = self._score(self._samplers(), seed)
        return self.scores[step]

    def description(self) -> dict[str, Any]:
        """Describe data and method for results.json."""
        return {
            "task": self.config.toy,
            "loss": asdict(self.config.loss),
            "seed": self.config.seed,
            "dataset": {
                "size": len(self.dataset.x),
                "mean": self.dataset.mean.tolist(),
                "std": self.dataset.std,
            },
        }

    def log_caveats(self) -> None:
        """Log nothing."""

    def save_model(self, run: RunDirectory, step: int) -> None:
        """Write nothing: the checkpoint holds the model."""

    def draw(self, run: RunDirectory, evaluations: list[Evaluation]) -> Path:
        """Write panel.png at the end of training."""
        path = run.path / "panel.png"
        if self.learner.step < self.config.steps:
            return path
        title = f"{self.config.loss.name} on {self.config.toy}, seed {self.config.seed}"
        scores = self.final_score().distances
        draw_panel = self._draw_line if self.dataset.dim == 1 else self._draw_plane
        draw_panel(path, title, scores)
        return path

    def _draw_line(self, path: Path, title: str, scores: Scores) -> None:
        """Draw paths and histograms; of a conditional toy one column of histograms a condition."""
        n, mean, std = self.config.eval.samples, float(self.dataset.mean[0]), self.dataset.std
        truths = {
            name: Density.on_grid(toy.density, mean - 2.6 * std, mean + 2.6 * std)
            for name, (toy, _) in self._truths().items()
        }
        samples = {
            s: {name: self._sample(n, s, 0, c) for name, (_, c) in self._truths().items()}
            for s in scores
        }
        if isinstance(self.toy, ConditionalToy):
            draw_histograms(path, samples, truths, title=title)
            return
        draw_toy_panel(
            path, self._paths(), samples["1 step"][""], truths[""], scores,
            title=title, sigma_data=std, center=mean,
        )  # fmt: skip

    def _draw_plane(self, path: Path, title: str, scores: Scores) -> None:
        """Draw clouds of points; conditions are those of the true points."""
        n = min(self.config.eval.samples, 8_000)
        drawn = self.toy.sample(n, torch.Generator().manual_seed(0))
        truth, conditions = drawn if isinstance(drawn, tuple) else (drawn, None)
        clouds = {s: self._sample(n, s, 0, conditions) for s in scores}
        draw_toy_panel_2d(path, truth, clouds, scores, title=title)

    def _paths(self) -> dict[str, Paths]:
        """Follow points along the teacher's Euler and Heun steps, and the student's."""
        generator = torch.Generator(self.device).manual_seed(0)
        noise = torch.randn(2_000, 1, generator=generator, device=self.device)
        teacher, student, p = self.learner.teacher, self.student, self.parameterization
        found: dict[str, Paths] = {}
        with torch.inference_mode():
            if teacher is not None:
                levels = teacher.levels(TEACHER_STEPS)
                for solver in ("euler", "heun"):
                    points = trajectory(teacher.bind(None), noise, levels, solver)
                    name = f"teacher, {solver.title()}, {TEACHER_STEPS} steps"
                    found[name] = self._as_paths(levels, points)
            for k in (4, 1) if teacher is not None else (20, 4, 2, 1):
                levels = few_step_levels(k, p)
                points = multistep_path(student.bind(None), noise, levels, p.boundary, generator)
                name = f"consistency, {k} step{'s' if k > 1 else ''}"
                found[name] = self._as_paths([*levels, 0.0], points)
        return found

    def _as_paths(self, levels: list[float], points: list[Tensor]) -> Paths:
        """Convert levels and points of the models to the units of the data."""
        scale = float(self.learner.scale)
        positions = torch.stack([self.learner.decode(x)[:, 0] for x in points]).cpu()
        return Paths(torch.tensor(levels).double().numpy() / scale, positions.double().numpy())


def _true_samples(toy: Toy, n: int, seed: int) -> Tensor:
    """Return exact quantiles in one dimension, otherwise n samples."""
    if toy.dim == 1 and isinstance(toy, GaussianMixture):
        return toy.quantiles(n)
    return toy.sample(n, torch.Generator().manual_seed(seed))


def _mean_row(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
