"""Sample a trained run: `python -m cmpolicy.sample run=RUN num_samples=100 steps=2`.

`ts=0,22,39 steps=40` takes levels of the Karras grid by index, as OpenAI's consistency models do;
`levels=80,2.5` gives them outright; `model=teacher steps=18` solves the probability-flow ODE.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

from cmpolicy.cli.command import resolve_device, run, starting

with starting():
    import torch
    from torch import Tensor
    from tqdm import tqdm

    from cmpolicy.consistency.sampling import check_levels, grid_levels
    from cmpolicy.errors import InputError
    from cmpolicy.generative.models import EDMTeacher
    from cmpolicy.images.config import SampleConfig
    from cmpolicy.images.files import write_grid, write_npz
    from cmpolicy.images.model import TEACHER_STEPS, ImageModel, Sampler, load_image_model

log = logging.getLogger("cmpolicy")
GRID = 40  # levels of the grid of `ts` where `steps` is not given, as in OpenAI's code


def sample(config: SampleConfig, overrides: list[str]) -> None:
    """Write an .npz of samples, and a PNG of the first of them."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = load_image_model(
        config.run, config.checkpoint, resolve_device(config.device), config.precision
    )
    sampler = sampler_of(config, model)
    seeds = range(config.seed, config.seed + config.num_samples)
    labels = labels_of(config, model, seeds)
    path = Path(config.out) if config.out is not None else default_path(config, sampler)
    if path.suffix != ".npz" or not path.parent.is_dir():
        raise InputError(f"out={path}: expected a name that ends in .npz in a directory that is")

    images = draw_samples(config, model, sampler, seeds, labels)
    try:
        write_npz(path, images, labels)
        sheet = path.with_suffix(".png")
        scale = max(1, 64 // model.dataset.shape[1])
        write_grid(sheet, images[: config.sheet_samples], config.columns, scale=scale)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another out=") from error
    print(f"sheet: {sheet}")
    print(f"samples: {path}")


def labels_of(config: SampleConfig, model: ImageModel, seeds: range) -> Tensor | None:
    """Class of each picture; None without classes, or for unconditional samples.

    Raises:
        InputError: for an unknown class, or a model that was always trained with labels.
    """
    if not config.unconditional:
        return model.labels(seeds, config.label)
    if config.label is not None:
        raise InputError("label is given with unconditional=true; leave one of them out")
    if model.conditional and not model.config.label_dropout:
        raise InputError(
            "the model has always seen labels; train with label_dropout=0.1, or conditional=false"
        )
    return None


def draw_samples(
    config: SampleConfig, model: ImageModel, sampler: Sampler, seeds: range, labels: Tensor | None
) -> Tensor:
    """Draw all pictures, uint8 (N, C, H, W), with a progress bar."""
    bar = tqdm(
        total=len(seeds), unit="image", desc="sampling", disable=not config.progress,
        file=sys.stderr, dynamic_ncols=True,
    )  # fmt: skip
    found = []
    with bar:
        for batch in model.sample_batches(sampler, seeds, labels, config.batch_size):
            found.append(batch)
            bar.update(len(batch))
    return torch.cat(found)


def sampler_of(config: SampleConfig, model: ImageModel) -> Sampler:
    """The sampler that a configuration describes.

    Raises:
        InputError: for settings that do not fit each other or the model.
    """
    part = model.part(config.model)
    part.averaged(config.ema)  # refuses a decay that is not there
    if isinstance(part, EDMTeacher):
        if config.ts is not None or config.levels is not None:
            raise InputError("ts and levels are for a student; a teacher takes steps")
        churn = {
            "churn": config.churn,
            "churn_min": config.churn_min,
            "churn_max": config.churn_max,
            "churn_noise": config.churn_noise,
        }
        levels = part.levels(config.steps or TEACHER_STEPS)
        return Sampler("teacher", levels, config.solver, churn, config.ema)
    if config.churn or config.solver != "heun":
        raise InputError("solver and churn are for a teacher; give model=teacher")
    return Sampler("student", student_levels(config, model), ema_decay=config.ema)


def student_levels(config: SampleConfig, model: ImageModel) -> list[float]:
    """The noise levels of a student.

    Raises:
        InputError: if they are given in two ways, or do not decrease.
    """
    p = model.parameterization
    if config.levels is not None:
        if config.ts is not None or config.steps is not None:
            raise InputError("give levels, or steps, or ts of steps, not several of them")
        levels = list(config.levels)
    elif config.ts is not None:
        grid = config.steps or GRID
        if not all(0 <= t < grid for t in config.ts):
            raise InputError(f"ts must be indices from 0 to {grid - 1}, got {list(config.ts)}")
        levels = grid_levels(config.ts, grid, p)
    else:
        return list(model.few_steps(config.steps or 1).levels)
    try:
        check_levels(levels, p.boundary)
    except ValueError as error:
        raise InputError(str(error)) from None
    return levels


def default_path(config: SampleConfig, sampler: Sampler) -> Path:
    """A path below the run, named after the settings."""
    how = f"steps{len(sampler.levels) - (sampler.model == 'teacher')}"
    if config.ts is not None or config.levels is not None:
        how = "levels" + "-".join(f"{level:.3g}" for level in sampler.levels)
    parts = [sampler.model, how, config.checkpoint, f"seed{config.seed}"]
    parts += [f"label{config.label}"] if config.label is not None else []
    parts += [f"ema{config.ema:g}"] if config.ema is not None else []
    return Path(config.run) / f"samples-{'-'.join(parts)}.npz"


def bracketed(argument: str) -> str:
    """``ts=0,22,39`` as ``ts=[0,22,39]``: Hydra takes bare commas for a sweep."""
    return re.sub(r"^(ts|levels)=([^\[].*)$", r"\1=[\2]", argument)


def main() -> None:
    """The command."""
    sys.argv[1:] = [bracketed(argument) for argument in sys.argv[1:]]
    run(sample, "sample")


if __name__ == "__main__":
    main()
