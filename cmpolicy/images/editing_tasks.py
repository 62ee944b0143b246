"""Apply each editing task to images with a trained model; return input and output by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cmpolicy.consistency.randomness import Generators, normal_like
from cmpolicy.consistency.sampling import few_step_levels
from cmpolicy.consistency.schedules import karras_sigmas
from cmpolicy.errors import InputError, needs_extra
from cmpolicy.images import editing
from cmpolicy.images.config import EditConfig
from cmpolicy.images.model import ImageModel

Blocks = dict[str, Tensor]  # name → uint8 (N, C, H, W)
INBETWEENS, INTERPOLATIONS = 10, 3
STROKE_COLOURS = 6


@dataclass(frozen=True)
class EditingSession:
    """A model and the images to edit."""

    model: ImageModel  # with a student
    config: EditConfig
    pictures: Tensor  # uint8 (N, C, H, W), maybe smaller than the model's for a super-resolution
    labels: Tensor | None  # (N,) int64, −1 for none; None for a model without classes
    hole: Tensor  # (H, W) bool, true where inpainting paints

    def editor(self, levels: Sequence[float]) -> editing.Editor:
        """Build the editor of all images; each has noise of its own, whatever its batch."""
        return self.editor_of(levels, self.labels, self.generators())

    def editor_of(
        self, levels: Sequence[float], labels: Tensor | None, generator: Generators
    ) -> editing.Editor:
        """Build the editor of images with other labels."""
        on_device = None if labels is None else labels.to(self.model.device)
        f = self.model.function(on_device, "student", self.config.ema)
        ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        low, high = self.model.encode(ends).flatten().tolist()
        boundary = self.model.parameterization.boundary
        return editing.Editor(f, levels, boundary, low, high, generator)

    def generators(self) -> list[torch.Generator]:
        """Seed one generator per image."""
        return [seeded(self.config.seed + i) for i in range(len(self.pictures))]

    def all_levels(self) -> list[float]:
        """Return levels from σ_max down, at which only the known part is kept."""
        return few_step_levels(self.config.steps, self.model.parameterization)

    def levels_from(self, sigma: float) -> list[float]:
        """Return levels from `sigma` down, on a Karras grid."""
        p = self.model.parameterization
        if not p.sigma_min < sigma <= p.sigma_max:
            raise InputError(
                f"editing cannot start at the noise level {sigma:g}, expected one above "
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
    """Colour grey images."""
    if session.pictures.shape[1] != 3:
        raise InputError("grey images cannot be coloured; train on images with three channels")
    weights = torch.tensor(editing.LUMINANCE).view(3, 1, 1)
    grey = (session.pictures * weights).sum(1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
    y = editing.colorize(session.editor(session.all_levels()), session.model.encode(grey))
    return {"to colorize": grey, "colorized": session.model.decode(y)}


def super_resolve_pictures(session: EditingSession) -> Blocks:
    """Enlarge images, which give the patch means of the result."""
    factor = scale_factor(session.config, session.model.dataset.shape)
    small = session.model.encode(session.pictures)
    if session.config.degrade:
        small = F.avg_pool2d(small, factor)
    y = editing.super_resolve(session.editor(session.all_levels()), small, factor)
    large = session.model.decode(small).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return {f"to enlarge, {factor}×": large, "enlarged": session.model.decode(y)}


def denoise_pictures(session: EditingSession) -> Blocks:
    """Remove Gaussian noise."""
    sigma = session.config.noise * float(session.model.learner.scale)
    noisy = session.model.encode(session.pictures)
    if session.config.degrade:
        noisy = noisy + sigma * normal_like(noisy, session.generators())
    one, more = (
        editing.denoise(session.editor(levels), noisy)
        for levels in ([sigma], session.levels_from(sigma))
    )
    return {
        f"noise of {session.config.noise:g}": session.model.decode(noisy),
        "denoised in one step": session.model.decode(one),
        f"denoised in {session.config.steps} steps": session.model.decode(more),
    }


def stroke_pictures(session: EditingSession) -> Blocks:
    """Generate images from coarse strokes."""
    strokes = session.pictures
    if session.config.degrade:
        strokes = torch.stack([as_strokes(picture) for picture in strokes])
    editor = session.editor(session.levels_from(session.config.start))
    y = editing.stroke_guided(editor, session.model.encode(strokes))
    return {
        "strokes": strokes,
        f"generated from σ = {session.config.start:g}": session.model.decode(y),
    }


def interpolate_pictures(session: EditingSession) -> Blocks:
    """Interpolate between two samples, and between the first images."""
    config, model = session.config, session.model
    weights = torch.linspace(0, 1, INBETWEENS, device=model.device)
    nearest = (weights > 0.5).long().cpu()  # use the label of the nearer end
    x, labels = model.encode(session.pictures), session.labels
    noise = normal_like(x[:1].expand(2, -1, -1, -1), [seeded(config.seed), seeded(config.seed + 1)])
    one = None if labels is None else labels[:1].expand(INBETWEENS)
    editor = session.editor_of([model.parameterization.sigma_max], one, None)
    found = {"between two samples": editing.interpolate_noise(editor, noise[0], noise[1], weights)}
    for i in range(min(len(x) - 1, INTERPOLATIONS)):
        pair = None if labels is None else labels[i + nearest]
        editor = session.editor_of([config.start], pair, seeded(config.seed))
        name = f"between images {i + 1} and {i + 2}, from σ = {config.start:g}"
        found[name] = editing.interpolate_images(editor, x[i], x[i + 1], weights)
    return {name: model.decode(y) for name, y in found.items()}


TASKS: dict[str, Callable[[EditingSession], Blocks]] = {
    "inpaint": inpaint_pictures,
    "colorize": colorize_pictures,
    "superres": super_resolve_pictures,
    "denoise": denoise_pictures,
    "stroke": stroke_pictures,
    "interpolate": interpolate_pictures,
}


def seeded(seed: int) -> torch.Generator:
    """Return a new generator with this seed."""
    return torch.Generator().manual_seed(seed)


def scale_factor(config: EditConfig, shape: Sequence[int]) -> int:
    """Return the factor of a super-resolution to (C, H, W).

    Raises:
        InputError: if it does not divide H and W.
    """
    factor = config.factor or (4 if min(shape[1:]) >= 16 else 2)
    if shape[1] % factor or shape[2] % factor:
        raise InputError(
            f"factor={factor} does not divide the model's {shape[2]} × {shape[1]} pixels; give "
            "another factor"
        )
    return factor


def as_strokes(picture: Tensor) -> Tensor:
    """Reduce an image (C, H, W) uint8 to coarse strokes: few colours, no detail."""
    with needs_extra("images"):
        from PIL import Image, ImageFilter

    image = Image.fromarray(picture.permute(1, 2, 0).expand(-1, -1, 3).numpy())
    size = max(3, min(image.size) // 8 // 2 * 2 + 1)
    coarse = image.filter(ImageFilter.MedianFilter(size)).quantize(STROKE_COLOURS).convert("RGB")
    return torch.from_numpy(np.array(coarse)).permute(2, 0, 1)[: len(picture)]
