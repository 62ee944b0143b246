"""Zero-shot editing with a consistency function: Song et al. 2023, Algorithm 4 and App. D.

Images are x₀ of the model, (B, C, H, W); what a model calls x₀ is the data scaled by one number
and shifted by another, which changes nothing here. All functions are differentiable, run in the
dtype of the image, and take one generator for all images or one for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cmpolicy.consistency.parameterization import LevelFunction
from cmpolicy.consistency.randomness import Generators, normal_like
from cmpolicy.consistency.sampling import check_levels
from cmpolicy.errors import InputError

LUMINANCE = (0.2989, 0.5870, 0.1140)  # of red, green and blue: ITU-R BT.601


@dataclass(frozen=True)
class Editor:
    """A consistency function and what an edit with it needs.

    Attributes:
        f: (x_σ (B, …), σ (B,)) → x₀ (B, …).
        levels: strictly decreasing noise levels; the first one says how much is made anew.
        boundary: ε, the level at which f is the identity.
        low, high: the range of x₀ that what f gives is clamped to.
        generator: of the noise; one for all images, or one for each.
    """

    f: LevelFunction
    levels: Sequence[float]
    boundary: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    generator: Generators = None

    def __post_init__(self) -> None:
        check_levels(self.levels, self.boundary)

    def noise(self, x: Tensor) -> Tensor:
        """z ~ N(0, 1) like x."""
        return normal_like(x, self.generator)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """f(x_σ, σ), clamped."""
        return self.f(x, x.new_full((len(x),), sigma)).clamp(self.low, self.high)


class PixelTransform(Protocol):
    """An invertible linear map A of images."""

    def forward(self, x: Tensor, /) -> Tensor: ...  # A x

    def inverse(self, y: Tensor, /) -> Tensor: ...  # A⁻¹ y


class Identity:
    """A = 1: pixels are known or not."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, y: Tensor) -> Tensor:
        return y


class ColourBasis:
    """An orthogonal basis of colours, the first of which is luminance: (B, 3, H, W) as it is."""

    def __init__(self, like: Tensor) -> None:
        self.basis = orthogonal_from(like.new_tensor(LUMINANCE))

    def forward(self, x: Tensor) -> Tensor:
        coordinates: Tensor = torch.einsum("bchw,cd->bdhw", x, self.basis)
        return coordinates

    def inverse(self, y: Tensor) -> Tensor:
        image: Tensor = torch.einsum("bdhw,cd->bchw", y, self.basis)
        return image


class PatchBasis:
    """An orthogonal basis of every patch of `size` × `size` pixels, the first vector constant.

    (B, C, H, W) ↔ (B, C, H/size, W/size, size²), the first of which is `size` times the mean.
    """

    def __init__(self, size: int, like: Tensor) -> None:
        self.size = size
        self.basis = orthogonal_from(like.new_ones(size * size))

    def forward(self, x: Tensor) -> Tensor:
        p = self.size
        b, c, h, w = x.shape
        patches = x.view(b, c, h // p, p, w // p, p).transpose(3, 4).flatten(4)
        coordinates: Tensor = patches @ self.basis
        return coordinates

    def inverse(self, y: Tensor) -> Tensor:
        p = self.size
        b, c, rows, columns, _ = y.shape
        patches = (y @ self.basis.T).view(b, c, rows, columns, p, p)
        return patches.transpose(3, 4).reshape(b, c, rows * p, columns * p)


def orthogonal_from(vector: Tensor) -> Tensor:
    """An orthogonal matrix (d, d) whose first column is parallel to `vector` (d,)."""
    dim = len(vector)
    columns = torch.eye(dim, dtype=torch.float64)
    columns[:, 0] = vector.double()
    basis, triangle = torch.linalg.qr(columns)
    signed: Tensor = basis * triangle.diagonal().sign()
    return signed.to(vector)


def edit_zero_shot(
    editor: Editor, reference: Tensor, known: Tensor, transform: PixelTransform
) -> Tensor:
    """Song et al. 2023, Algorithm 4: what is known of A y stays, the rest is made to fit.

    x ← A⁻¹(A y ⊙ Ω + A x ⊙ (1 − Ω)) after every call of f, where `known` is Ω.

    Args:
        reference: y, (B, C, H, W); only the known part of it is looked at.
        known: Ω, bool, broadcasts against A y.

    Returns:
        (B, C, H, W), with A x equal to A y where known.
    """
    y = transform.forward(reference)
    x = transform.inverse(torch.where(known, y, 0.0))
    for i, sigma in enumerate(editor.levels):
        scale = sigma if i == 0 else math.sqrt(sigma**2 - editor.boundary**2)
        x = editor.denoise(x + scale * editor.noise(x), sigma)
        x = transform.inverse(torch.where(known, y, transform.forward(x)))
    return x


def inpaint(editor: Editor, image: Tensor, known: Tensor) -> Tensor:
    """Fill the pixels that are not known; the others come back as they are, bit for bit.

    Args:
        image: (B, C, H, W).
        known: bool, broadcasts against it.
    """
    return edit_zero_shot(editor, image, known, Identity())


def colorize(editor: Editor, image: Tensor) -> Tensor:
    """Colours for a grey image (B, 3, H, W), or new ones for a coloured one: its luminance stays.

    Raises:
        InputError: if it has not three channels.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise InputError(
            f"images of shape {tuple(image.shape)} cannot be coloured, expected three channels"
        )
    luminance = torch.tensor([True, False, False], device=image.device).view(3, 1, 1)
    return edit_zero_shot(editor, image, luminance, ColourBasis(image))


def super_resolve(editor: Editor, image: Tensor, factor: int) -> Tensor:
    """Detail for an image (B, C, H/factor, W/factor): (B, C, H, W) with its pixels as patch means.

    Raises:
        InputError: for a factor below 1.
    """
    if factor < 1:
        raise InputError(f"a super-resolution by the factor {factor}, expected at least 1")
    enlarged = image.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    mean = torch.arange(factor * factor, device=image.device) == 0
    return edit_zero_shot(editor, enlarged, mean, PatchBasis(factor, image))


def denoise(editor: Editor, noisy: Tensor) -> Tensor:
    """An image with Gaussian noise of standard deviation `levels[0]`, without it: (B, C, H, W).

    More levels add noise again and take it away, which sharpens what one step leaves blurred.
    """
    x = editor.denoise(noisy, editor.levels[0])
    return resample(editor, x, editor.levels[1:])


def stroke_guided(editor: Editor, strokes: Tensor) -> Tensor:
    """An image that follows coarse strokes (B, C, H, W): SDEdit, Meng et al. 2022.

    `levels[0]` is small where the strokes count for much, and large where they only hint.
    """
    return resample(editor, strokes, editor.levels)


def resample(editor: Editor, x: Tensor, levels: Sequence[float]) -> Tensor:
    """x ← f(x + √(σ² − ε²) z, σ) at each of `levels`: Song et al. 2023, Algorithm 1."""
    for sigma in levels:
        x = editor.denoise(x + math.sqrt(sigma**2 - editor.boundary**2) * editor.noise(x), sigma)
    return x


def interpolate_noise(editor: Editor, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Samples between those of two noises: Song et al. 2023, App. D.

    One step from spherical interpolations z = sin((1 − α)ψ)/sin ψ · z₁ + sin(αψ)/sin ψ · z₂,
    ψ the angle between the two.

    Args:
        first, second: z₁ and z₂ ~ N(0, 1), (C, H, W).
        weights: α, (K,); 0 gives the sample of z₁, 1 that of z₂.

    Returns:
        (K, C, H, W)
    """
    cosine = torch.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    psi = torch.acos(cosine.clamp(-1, 1))
    alpha = weights.view(-1, 1, 1, 1)
    if torch.sin(psi) < 1e-4:  # parallel: the sphere is flat
        z = (1 - alpha) * first + alpha * second
    else:
        z = (torch.sin((1 - alpha) * psi) * first + torch.sin(alpha * psi) * second) / psi.sin()
    return editor.denoise(editor.levels[0] * z, editor.levels[0])


def interpolate_images(editor: Editor, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Images between two images: mixed under one noise, then denoised; Ho et al. 2020, §5.

    Args:
        first, second: (C, H, W).
        weights: (K,); 0 and 1 give the two images as far as `levels[0]` leaves them.

    Returns:
        (K, C, H, W)
    """
    alpha = weights.view(-1, 1, 1, 1)
    sigma = editor.levels[0]
    scale = math.sqrt(sigma**2 - editor.boundary**2)
    x = (1 - alpha) * first + alpha * second + scale * editor.noise(first[None])
    return editor.denoise(x, sigma)
