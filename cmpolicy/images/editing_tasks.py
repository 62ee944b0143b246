"""What can be done to pictures with a trained model: each task gives what went in and came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from cmpolicy.consistency.randomness import Generators, normal_like
from cmpolicy.consistency.sampling import few_step_levels
from cmpolicy.consistency.schedules import karras_sigmas
from cmpolicy.errors import InputError
from cmpolicy.images import editing
from cmpolicy.images.config import EditConfig
from cmpolicy.images.model import ImageModel

Blocks = dict[str, Tensor]  # name → uint8 (N, C, H, W)
INBETWEENS, INTERPOLATIONS = 10, 3
STROKE_COLOURS = 6


@dataclass(frozen=True)
class EditingSession:
    """A model and the pictures to edit.

    Attributes:
        model: opened, with a student.
        config: what to do.
        pictures: uint8 (N, C, H, W); of a super-resolution maybe smaller than the model's.
        labels: (N,) int64, −1 for none; None for a model without classes.
        hole: (H, W) bool, true where inpainting paints.
    """

    model: ImageModel
    config: EditConfig
    pictures: Tensor
    labels: Tensor | None
    hole: Tensor

    def editor(self, levels: Sequence[float]) -> editing.Editor:
        """Of all pictures, each with noise of its own, whatever lies beside it."""
        return self.editor_of(levels, self.labels, self.generators())

    def editor_of(
        self, levels: Sequence[float], labels: Tensor | None, generator: Generators
    ) -> editing.Editor:
        """Of pictures with other labels."""
        device = self.model.device
        given = None if labels is None else labels.to(device)
        f = self.model.function(given, "student", self.config.ema)
        ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        low, high = self.model.encode(ends).flatten().tolist()
        boundary = self.model.parameterization.boundary
        return editing.Editor(f, levels, boundary, low, high, generator)

    def generators(self) -> list[torch.Generator]:
        """One a picture."""
        seeds = range(self.config.seed, self.config.seed + len(self.pictures))
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def all_levels(self) -> list[float]:
        """From σ_max down: nothing stays but what is known."""
        return few_step_levels(self.config.steps, self.model.parameterization)

    def levels_from(self, sigma: float) -> list[float]:
        """From a level down, on a Karras grid."""
        p = self.model.parameterization
        if not p.sigma_min < sigma <= p.sigma_max:
            raise InputError(
                f"editing cannot begin at the noise level {sigma:g}, expected one above "
                f"{p.sigma_min:g} and up to {p.sigma_max:g}"
            )
        return karras_sigmas(self.config.steps + 1, p.sigma_min, sigma).tolist()[:-1]


def inpaint_pictures(session: EditingSession) -> Blocks:
    """Fill a hole."""
    hole = session.hole
    x = session.model.encode(session.pictures)
    y = editing.inpaint(session.editor(session.all_levels()), x, ~hole.to(x.device))
    return {
        "to inpaint": torch.where(hole, torch.tensor(128).byte(), session.pictures),
        "inpainted": session.model.decode(y),
    }


def colorize_pictures(session: EditingSession) -> Blocks:
    """Colour what is grey."""
    if session.pictures.shape[1] != 3:
        raise InputError("grey images cannot be coloured; train on images with three channels")
    weights = torch.tensor(editing.LUMINANCE).view(3, 1, 1)
    grey = (session.pictures * weights).sum(1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
    y = editing.colorize(session.editor(session.all_levels()), session.model.encode(grey))
    return {"to colorize": grey, "colorized": session.model.decode(y)}


def super_resolve_pictures(session: EditingSession) -> Blocks:
    """Add detail to patches of which only the means are known."""
    factor = scale_factor(session.config, session.model.dataset.shape)
    small = session.model.encode(session.pictures)
    if session.config.degrade:
        small = F.avg_pool2d(small, factor)
    y = editing.super_resolve(session.editor(session.all_levels()), small, factor)
    large = session.model.decode(small).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return {f"to enlarge, {factor}×": large, "enlarged": session.model.decode(y)}


def denoise_pictures(session: EditingSession) -> Blocks:
    """Take Gaussian noise away."""
    sigma = session.config.noise * float(session.model.learner.scale)
    noisy = session.model.encode(session.pictures)
    if session.config.degrade:
        noisy = noisy + sigma * normal_like(noisy, session.generators())
    one, more = (
        editing.denoise(session.editor(levels), noisy)
        for levels in ([sigma], session.levels_from(sigma))
    )
    return {
        f"noise of {session.config.noise:g} to take away": session.model.decode(noisy),
        "denoised in one step": session.model.decode(one),
        f"denoised in {session.config.steps} steps": session.model.decode(more),
    }


def stroke_pictures(session: EditingSession) -> Blocks:
    """Make a picture of coarse strokes."""
    strokes = session.pictures
    if session.config.degrade:
        strokes = torch.stack([as_strokes(picture) for picture in strokes])
    editor = session.editor(session.levels_from(session.config.start))
    y = editing.stroke_guided(editor, session.model.encode(strokes))
    return {
        "strokes": strokes,
        f"followed from σ = {session.config.start:g}": session.model.decode(y),
    }


def interpolate_pictures(session: EditingSession) -> Blocks:
    """From sample to sample, and from picture to picture."""
    config, model = session.config, session.model
    weights = torch.linspace(0, 1, INBETWEENS, device=model.device)
    nearest = (weights > 0.5).long().cpu()  # the label of the nearer end
    x, labels = model.encode(session.pictures), session.labels
    noise = normal_like(x[:1].expand(2, -1, -1, -1), [seeded(config.seed), seeded(config.seed + 1)])
    one = None if labels is None else labels[:1].expand(INBETWEENS)
    editor = session.editor_of([model.parameterization.sigma_max], one, None)
    found = {"between two samples": editing.interpolate_noise(editor, noise[0], noise[1], weights)}
    for i in range(min(len(x) - 1, INTERPOLATIONS)):
        pair = None if labels is None else labels[i + nearest]
        editor = session.editor_of([config.start], pair, seeded(config.seed))
        name = f"between pictures {i + 1} and {i + 2}, from σ = {config.start:g}"
        found[name] = editing.interpolate_images(editor, x[i], x[i + 1], weights)
    return {name: model.decode(y) for name, y in found.items()}


EditingTask = Callable[[EditingSession], Blocks]
TASKS: dict[str, EditingTask] = {
    "inpaint": inpaint_pictures,
    "colorize": colorize_pictures,
    "superres": super_resolve_pictures,
    "denoise": denoise_pictures,
    "stroke": stroke_pictures,
    "interpolate": interpolate_pictures,
}


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def scale_factor(config: EditConfig, shape: Sequence[int]) -> int:
    """Of a super-resolution to (C, H, W).

    Raises:
        InputError: if it does not divide the sides.
    """
    factor = config.factor or (4 if min(shape[1:]) >= 16 else 2)
    if shape[1] % factor or shape[2] % factor:
        raise InputError(
            f"{shape[2]} × {shape[1]} pixels cannot be {factor} times as large as others; give "
            "another factor"
        )
    return factor


def as_strokes(picture: Tensor) -> Tensor:
    """What a picture might have been painted from, (C, H, W) uint8: few colours, no detail."""
    image = Image.fromarray(picture.permute(1, 2, 0).expand(-1, -1, 3).numpy())
    size = max(3, min(image.size) // 8 // 2 * 2 + 1)
    coarse = image.filter(ImageFilter.MedianFilter(size)).quantize(STROKE_COLOURS).convert("RGB")
    return torch.from_numpy(np.array(coarse)).permute(2, 0, 1)[: len(picture)]
