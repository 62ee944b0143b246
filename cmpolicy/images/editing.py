"""Edit images zero-shot with a consistency function: Song et al. 2023, Algorithm 4 and App. D.

Images are x₀ of the model, (B, C, H, W), which is the data scaled and shifted by one number each.
All functions are differentiable, run in the dtype of the image, and take one generator for all
images or one for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmpolicy.consistency.parameterization import LevelFunction
from cmpolicy.consistency.randomness import Generators, normal_like
from cmpolicy.consistency.sampling import check_levels
from cmpolicy.errors import InputError

LUMINANCE = (0.2989, 0.5870, 0.1140)  # of red, green and blue: ITU-R BT.601


@dataclass(frozen=True)
class Editor:
    """A consistency function and the settings of an edit."""

    f: LevelFunction  # (x_σ (B, …), σ (B,)) → x₀ (B, …)
    levels: Sequence[float]  # strictly decreasing; the first decides how much is generated anew
    boundary: float = 0.0  # ε, the level at which f is the identity
    low: float = -math.inf  # f's output is clamped to [low, high]
    high: float = math.inf
    generator: Generators = None  # of the noise; one for all images, or one for each

    def __post_init__(self) -> None:
        check_levels(self.levels, self.boundary)

    def noise(self, x: Tensor, sigma: float = 1.0) -> Tensor:
        """Draw σ z, z ~ N(0, 1), of the shape of x."""
        return sigma * normal_like(x, self.generator)

    def above_boundary(self, sigma: float) -> float:
        """Compute √(σ² − ε²), the noise to add at the boundary to reach σ."""
        return math.sqrt(sigma**2 - self.boundary**2)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """Compute f(x_σ, σ), clamped."""
        return self.f(x, x.new_full((len(x),), sigma)).clamp(self.low, self.high)


class PixelTransform:
    """An invertible linear map A of images: the identity, for known and unknown pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, y: Tensor) -> Tensor:
        return y


class ColourBasis(PixelTransform):
    """An orthogonal basis of colours whose first axis is the luminance; (B, 3, H, W) both ways."""

    def __init__(self, like: Tensor) -> None:
        self.basis = orthogonal_from(like.new_tensor(LUMINANCE))

    def forward(self, x: Tensor) -> Tensor:
        coordinates: Tensor = torch.einsum("bchw,cd->bdhw", x, self.basis)
        return coordinates

    def inverse(self, y: Tensor) -> Tensor:
        image: Tensor = torch.einsum("bdhw,cd->bchw", y, self.basis)
        return image


class PatchBasis(PixelTransform):
    """An orthogonal basis of patches of `size` × `size` pixels whose first vector is constant.

    (B, C, H, W) ↔ (B, C, H/size, W/size, size²); the first coordinate is `size` times the mean.
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
    """Build an orthogonal matrix (d, d) whose first column is parallel to `vector` (d,)."""
    columns = torch.eye(len(vector), dtype=torch.float64)
    columns[:, 0] = vector.double()
    basis, triangle = torch.linalg.qr(columns)
    signed: Tensor = basis * triangle.diagonal().sign()
    return signed.to(vector)


def edit_zero_shot(
    editor: Editor, reference: Tensor, known: Tensor, transform: PixelTransform
) -> Tensor:
    """Keep the known part of A y and generate the rest: Song et al. 2023, Algorithm 4.

    x ← A⁻¹(A y ⊙ Ω + A x ⊙ (1 − Ω)) after every call of f, where `known` is Ω.

    Args:
        reference: y, (B, C, H, W); only its known part matters.
        known: Ω, bool, broadcasts against A y.

    Returns:
        (B, C, H, W), with A x equal to A y where known.
    """
    y = transform.forward(reference)
    x = transform.inverse(torch.where(known, y, 0.0))
    for i, sigma in enumerate(editor.levels):
        scale = sigma if i == 0 else editor.above_boundary(sigma)
        x = editor.denoise(x + editor.noise(x, scale), sigma)
        x = transform.inverse(torch.where(known, y, transform.forward(x)))
    return x


def inpaint(editor: Editor, image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels of images (B, C, H, W); known ones, bool, stay bit for bit."""
    return edit_zero_shot(editor, image, known, PixelTransform())


def colorize(editor: Editor, image: Tensor) -> Tensor:
    """Colour grey images (B, 3, H, W), or recolour images: their luminance stays.

    Raises:
        InputError: for another number of channels.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise InputError(
            f"images of shape {tuple(image.shape)} cannot be coloured, expected three channels"
        )
    luminance = torch.tensor([True, False, False], device=image.device).view(3, 1, 1)
    return edit_zero_shot(editor, image, luminance, ColourBasis(image))


def super_resolve(editor: Editor, image: Tensor, factor: int) -> Tensor:
    """Enlarge (B, C, H/factor, W/factor) to (B, C, H, W); patch means equal the given pixels.

    Raises:
        InputError: for a factor below 1.
    """
    if factor < 1:
        raise InputError(f"the factor of a super-resolution is {factor}, expected at least 1")
    enlarged = image.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    mean = torch.arange(factor * factor, device=image.device) == 0
    return edit_zero_shot(editor, enlarged, mean, PatchBasis(factor, image))


def denoise(editor: Editor, noisy: Tensor) -> Tensor:
    """Remove Gaussian noise of standard deviation `levels[0]` from images (B, C, H, W).

    Further levels add noise and remove it again, which sharpens the blurred result of one step.
    """
    x = editor.denoise(noisy, editor.levels[0])
    return _resample(editor, x, editor.levels[1:])


def stroke_guided(editor: Editor, strokes: Tensor) -> Tensor:
    """Generate images that follow coarse strokes (B, C, H, W): SDEdit, Meng et al. 2022.

    The smaller `levels[0]`, the closer the images follow the strokes.
    """
    return _resample(editor, strokes, editor.levels)


def _resample(editor: Editor, x: Tensor, levels: Sequence[float]) -> Tensor:
    """Apply x ← f(x + √(σ² − ε²) z, σ) at each level: Song et al. 2023, Algorithm 1."""
    for sigma in levels:
        x = editor.denoise(x + editor.noise(x, editor.above_boundary(sigma)), sigma)
    return x


def interpolate_noise(editor: Editor, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Interpolate between the samples of two noises: Song et al. 2023, App. D.

    One step from spherical interpolations z = sin((1 − α)ψ)/sin ψ · z₁ + sin(αψ)/sin ψ · z₂,
    where ψ is the angle between z₁ and z₂.

    Args:
        first, second: z₁ and z₂ ~ N(0, 1), (C, H, W).
        weights: α, (K,); 0 gives the sample of z₁, 1 that of z₂.

    Returns:
        (K, C, H, W)
    """
    cosine = torch.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    psi = torch.acos(cosine.clamp(-1, 1))
    alpha = weights.view(-1, 1, 1, 1)
    if torch.sin(psi) < 1e-4:  # parallel noises
        z = (1 - alpha) * first + alpha * second
    else:
        z = (torch.sin((1 - alpha) * psi) * first + torch.sin(alpha * psi) * second) / psi.sin()
    return editor.denoise(editor.levels[0] * z, editor.levels[0])


def interpolate_images(editor: Editor, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Interpolate between two images with the same noise, then denoise: Ho et al. 2020, §5.

    Args:
        first, second: (C, H, W).
        weights: (K,); 0 and 1 give the two images as far as `levels[0]` keeps them.

    Returns:
        (K, C, H, W)
    """
    alpha = weights.view(-1, 1, 1, 1)
    sigma = editor.levels[0]
    noise = editor.noise(first[None], editor.above_boundary(sigma))
    return editor.denoise((1 - alpha) * first + alpha * second + noise, sigma)
