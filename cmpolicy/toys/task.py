"""Toys for the loop: data, learner, comparison with the truth, results, put together."""

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
from cmpolicy.toys.config import ToyConfig
from cmpolicy.toys.dataset import ToyDataset
from cmpolicy.toys.distances import compare
from cmpolicy.toys.distributions import ConditionalToy, Toy
from cmpolicy.toys.figures import (
    Density,
    Paths,
    density_on_grid,
    draw_toy_comparison,
    draw_toy_panel,
    draw_toy_panel_2d,
)
from cmpolicy.toys.fourier_mlp import FourierMLP
from cmpolicy.training.loop import Evaluation
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
STEPS = (1, 2, 4, 20)
TEACHER_STEPS = 18
DRAWN_PATHS = 90


@dataclass(frozen=True)
class ToyScore:
    """How near samples are to the truth.

    Attributes:
        distances: by sampler ("1 step", "teacher, Heun"), then by name, as `compare` has them; of
            a conditional toy, their mean over its conditions.
        by_condition: for each condition the distances of one-step samples.
        samples: how many were compared.
    """

    distances: dict[str, dict[str, float]]
    by_condition: dict[str, dict[str, float]]
    samples: int

    @property
    def headline(self) -> float:
        """What checkpoints are compared by: W1 of one-step samples, sliced W2 in two dimensions."""
        one_step = self.distances["1 step"]
        return one_step.get("w1", one_step.get("sliced_w2", float("nan")))

    def __str__(self) -> str:
        name = "W1" if "w1" in self.distances["1 step"] else "sliced W2"
        key = name.lower().replace(" ", "_")
        parts = (f"{row[key]:.3f} ({sampler})" for sampler, row in self.distances.items())
        return f"{name} {', '.join(parts)}"


class ToyTask:
    """One consistency model on one toy.

    Attributes:
        dataset: the training set, on the device.
        learner: teacher and student.

    Raises:
        InputError: for anything that does not exist or fit.
    """

    def __init__(self, config: ToyConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.dataset = ToyDataset(config.toy, seed=config.seed, device=device)
        self.toy = self.dataset.toy
        network = FourierMLP(self.dataset.dim, self.dataset.condition_dim, config.hidden)
        self.learner = GenerativeLearner(
            network,
            config.loss,
            config.steps,
            self.dataset.mean,
            self.dataset.std,
            config.sigma_min,
            config.sigma_max,
            teacher=self.load_teacher(config.teacher) if config.teacher else None,
        ).to(device)
        assert self.learner.student is not None, "ToyConfig refuses what has none"
        self.student = self.learner.student
        self.parameterization = self.student.parameterization
        self.scores: dict[int, ToyScore] = {}
        log.info("toy: %s   loss: %s", config.toy, config.loss.name)
        if self.learner.teacher_steps:
            log.info("the first %d updates train an EDM teacher", self.learner.teacher_steps)

    def load_teacher(self, path: str) -> EDMTeacher:
        """The teacher that another toy run trained.

        Raises:
            InputError: if it has none that fits.
        """
        run = RunDirectory.existing(path)
        theirs, mine = load_config(run, ToyConfig), self.config
        keys = ("toy", "seed", "hidden", "sigma_min", "sigma_max")
        if (
            theirs is None
            or any(getattr(theirs, key) != getattr(mine, key) for key in keys)
            or theirs.loss.parameterization != mine.loss.parameterization
        ):
            raise InputError(
                f"the teacher of {path} is of another toy, seed, network, parameterization or "
                "noise levels; give these as they were there"
            )
        network = FourierMLP(self.dataset.dim, self.dataset.condition_dim, mine.hidden)
        learner = GenerativeLearner(
            network, theirs.loss, theirs.steps, self.dataset.mean, self.dataset.std,
            theirs.sigma_min, theirs.sigma_max,
        )  # fmt: skip
        learner.load_training_state(run.load_checkpoint("last")["learner"])
        if learner.teacher is None or learner.step < learner.teacher_steps:
            raise InputError(f"{path} has no teacher, or has not finished it")
        return learner.teacher

    def run_name(self) -> str:
        """Toy and loss, a path below output_dir."""
        return f"{self.config.toy}/{self.config.loss.name}"

    def draw_samples(
        self, n: int, sampler: str, seed: int, condition: Tensor | None = None
    ) -> Tensor:
        """n samples in the units of the data, (n, d), at one condition (condition_dim,) if any.

        Args:
            sampler: ``"4 steps"``, or ``"teacher, Heun"``.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        noise = torch.randn(n, self.dataset.dim, generator=generator, device=self.device)
        given = None if condition is None else condition.to(self.device).expand(n, -1)
        with torch.inference_mode():
            if sampler.startswith("teacher"):
                assert self.learner.teacher is not None
                solver = sampler.rsplit(maxsplit=1)[-1].lower()
                x0 = self.learner.teacher.sample(noise, given, TEACHER_STEPS, solver)
            else:
                levels = few_step_levels(int(sampler.split(maxsplit=1)[0]), self.parameterization)
                x0 = self.student.sample(noise, levels, given, generator)
            return self.learner.decode(x0).cpu()

    def samplers(self) -> list[str]:
        """Every way to sample that results report."""
        names = [f"{k} step{'s' if k > 1 else ''}" for k in STEPS]
        return [*names, "teacher, Heun"] if self.learner.teacher is not None else names

    def distances(
        self, sampler: str, seed: int, condition: Tensor | None = None
    ) -> dict[str, float]:
        """Of one sampler's samples from the truth, at one condition if any."""
        n = self.config.eval.samples
        toy = self.toy.given(condition) if isinstance(self.toy, ConditionalToy) else self.toy
        samples = self.draw_samples(n, sampler, seed, condition)
        row = compare(samples, true_samples(toy, n, seed + 1))
        if toy.dim == 1:
            row["p_below_0"] = float((samples < 0).double().mean())
        return row

    def score(self, samplers: list[str], seed: int) -> ToyScore:
        """Compare the samplers, at every condition of a conditional toy."""
        n = self.config.eval.samples
        if not isinstance(self.toy, ConditionalToy):
            return ToyScore({s: self.distances(s, seed) for s in samplers}, {}, n)
        rows = {
            s: {
                ", ".join(f"{v:g}" for v in c.tolist()): self.distances(s, seed, c)
                for c in self.toy.conditions
            }
            for s in samplers
        }
        means = {s: mean_row(list(by_condition.values())) for s, by_condition in rows.items()}
        return ToyScore(means, rows["1 step"], n)

    def evaluate(self, step: int) -> Evaluation:
        """During training: one-step samples, the same noise each time."""
        score = self.score(["1 step"], 10_000 * (self.config.seed + 1))
        scalars = {f"eval/{k}": v for k, v in score.distances["1 step"].items()}
        return Evaluation(step, -score.headline, scalars)

    def final_score(self) -> ToyScore:
        """At the end: all samplers, with noise that no checkpoint was chosen by."""
        step = self.learner.step
        if step not in self.scores:
            self.scores[step] = self.score(self.samplers(), 10_000 * (self.config.seed + 1) + 5_000)
        return self.scores[step]

    def description(self) -> dict[str, Any]:
        """What a result must say of its data and method."""
        return {
            "task": self.config.toy,
            "loss": asdict(self.config.loss),
            "seed": self.config.seed,
            "dataset": {
                "size": 0 if self.dataset.x is None else len(self.dataset.x),
                "mean": self.dataset.mean.tolist(),
                "std": self.dataset.std,
            },
        }

    def log_caveats(self) -> None:
        """Nothing beyond the scores."""

    def save_model(self, run: RunDirectory) -> None:
        """The checkpoint holds all there is of a toy."""

    def draw(self, run: RunDirectory, evaluations: list[Evaluation]) -> Path:
        """Write panel.png, at the end of the training."""
        path = run.path / "panel.png"
        if self.learner.step < self.config.steps:
            return path
        title = f"{self.config.loss.name} on {self.config.toy}, seed {self.config.seed}"
        scores = self.final_score().distances
        draw_panel = self.draw_line if self.dataset.dim == 1 else self.draw_plane
        draw_panel(path, title, scores)
        return path

    def draw_line(self, path: Path, title: str, scores: dict[str, dict[str, float]]) -> None:
        """In one dimension: paths and histograms; of a conditional toy one column a condition."""
        n, mean, std = self.config.eval.samples, float(self.dataset.mean[0]), self.dataset.std
        low, high = mean - 2.6 * std, mean + 2.6 * std
        if isinstance(self.toy, ConditionalToy):
            columns = {f"{c.tolist()}": c for c in self.toy.conditions}
            rows = {
                s: {k: self.draw_samples(n, s, 0, c) for k, c in columns.items()} for s in scores
            }
            truths = {
                k: density_on_grid(self.toy.given(c).density, low, high) for k, c in columns.items()
            }
            draw_toy_comparison(path, rows, truths, {}, title=title)
            return
        truth: Density = density_on_grid(self.toy.density, low, high)
        samples = self.draw_samples(n, "1 step", 0)
        draw_toy_panel(
            path, self.paths(), samples, truth, scores, title=title, sigma_data=std, center=mean
        )

    def draw_plane(self, path: Path, title: str, scores: dict[str, dict[str, float]]) -> None:
        """In two dimensions: clouds of points, conditions drawn as the data has them."""
        n = min(self.config.eval.samples, 8_000)
        if isinstance(self.toy, ConditionalToy):
            truth, conditions = self.toy.sample(n, torch.Generator().manual_seed(0))
        else:
            truth, conditions = self.toy.sample(n, torch.Generator().manual_seed(0)), None
        clouds = {s: self.draw_samples(n, s, 0, conditions) for s in scores}
        draw_toy_panel_2d(path, truth, clouds, scores, title=title)

    def paths(self) -> dict[str, Paths]:
        """How points travel: the teacher's Euler and Heun steps, then the student's."""
        generator = torch.Generator(self.device).manual_seed(0)
        noise = torch.randn(2_000, 1, generator=generator, device=self.device)
        teacher, student, p = self.learner.teacher, self.student, self.parameterization
        found: dict[str, Paths] = {}
        with torch.inference_mode():
            if teacher is not None:
                levels = teacher.levels(TEACHER_STEPS)
                for solver in ("euler", "heun"):
                    points = trajectory(teacher.given(None), noise, levels, solver)
                    found[f"teacher, {solver.title()}, {TEACHER_STEPS} steps"] = self.as_paths(
                        levels, points
                    )
            for k in (4, 1) if teacher is not None else (20, 4, 2, 1):
                levels = few_step_levels(k, p)
                points = multistep_path(student.given(None), noise, levels, p.boundary, generator)
                found[f"consistency, {k} step{'s' if k > 1 else ''}"] = self.as_paths(
                    [*levels, 0.0], points
                )
        return found

    def as_paths(self, levels: list[float], points: list[Tensor]) -> Paths:
        """Levels and points of the models, in the units of the data."""
        scale = float(self.learner.scale)
        positions = torch.stack([self.learner.decode(x)[:, 0] for x in points]).cpu()
        return Paths(torch.tensor(levels).double().numpy() / scale, positions.double().numpy())


def true_samples(toy: Toy, n: int, seed: int) -> Tensor:
    """What samples are compared with: exact quantiles in one dimension, else n samples."""
    if toy.dim == 1 and hasattr(toy, "quantiles"):
        quantiles: Tensor = toy.quantiles(n)
        return quantiles
    return toy.sample(n, torch.Generator().manual_seed(seed))


def mean_row(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each distance over the rows."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
