"""Editing with the consistency function of Gaussian data, which is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from cmpolicy.errors import InputError
from cmpolicy.images.editing import (
    LUMINANCE,
    ColourBasis,
    Editor,
    PatchBasis,
    colorize,
    denoise,
    inpaint,
    interpolate_images,
    interpolate_noise,
    orthogonal_from,
    stroke_guided,
    super_resolve,
)

STD, EPSILON = 0.5, 0.002
LEVELS = (80.0, 24.0, 5.8, 0.9, 0.06)


def gaussian(x, sigma):
    """f of data ~ N(0, STD²) a pixel: the flow only rescales."""
    s = sigma.view(-1, *(1,) * (x.ndim - 1))
    return x * ((STD**2 + EPSILON**2) / (STD**2 + s**2)).sqrt()


def editor(levels=LEVELS, f=gaussian, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return Editor(f, levels, EPSILON, generator=generator, **options)


def images(*shape, seed=1):
    return STD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_known_pixels_come_back_bit_for_bit():
    y, known = images(3, 1, 8, 8), images(3, 1, 8, 8, seed=2) > 0
    x = inpaint(editor(low=-1, high=1), y, known)
    assert torch.equal(x[known], y[known])
    assert not (x[~known] == y[~known]).any()
    torch.testing.assert_close(inpaint(editor(), y, torch.ones(8, 8, dtype=torch.bool)), y)


def test_unknown_pixels_are_not_looked_at_and_look_like_data():
    y = images(64, 1, 16, 16)
    left = torch.arange(16) < 8
    x = inpaint(editor(), y, left)
    assert torch.equal(x, inpaint(editor(), torch.where(left, y, 7.0), left))
    torch.testing.assert_close(x[..., 8:].std(), torch.tensor(STD), rtol=0.03, atol=0)
    assert not torch.equal(x, inpaint(editor(seed=1), y, left))


def test_inpainting_follows_what_is_known():
    """Two pixels of correlation ρ: the mean of the second is nearly ρ times the first."""
    rho = 0.9
    values, vectors = torch.linalg.eigh(STD**2 * torch.tensor([[1, rho], [rho, 1]]))

    def correlated(x, sigma):
        shrink = ((values + EPSILON**2) / (values + sigma[:, None] ** 2)).sqrt()
        return ((x.flatten(1) @ vectors * shrink) @ vectors.T).view_as(x)

    y = torch.full((4000, 1, 1, 2), 0.6)
    levels = torch.logspace(math.log10(80), math.log10(0.01), 60).tolist()
    x = inpaint(editor(levels, correlated), y, torch.tensor([True, False]))[:, 0, 0, 1]
    assert x.mean() == pytest.approx(rho * 0.6, abs=0.08)
    assert x.std() == pytest.approx(STD * math.sqrt(1 - rho**2), rel=0.3)


def luminance(x):
    return torch.einsum("bchw,c->bhw", x, x.new_tensor(LUMINANCE))


def test_luminance_stays_and_colours_change():
    y = images(5, 3, 6, 7).double()
    x = colorize(editor(), y)
    torch.testing.assert_close(luminance(x), luminance(y), rtol=0, atol=1e-12)
    assert (x - y).abs().mean() > 0.1
    grey = (luminance(y) / sum(LUMINANCE))[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(colorize(editor(), grey), x)  # only the luminance matters


def test_patch_means_stay_and_detail_is_new():
    low = images(3, 2, 4, 5).double()
    x = super_resolve(editor(), low, 4)
    assert x.shape == (3, 2, 16, 20)
    means = torch.nn.functional.avg_pool2d(x, 4)
    torch.testing.assert_close(means, low, rtol=0, atol=1e-12)
    assert x.view(3, 2, 4, 4, 5, 4).std((3, 5)).mean() > 0.3
    torch.testing.assert_close(super_resolve(editor(), low, 1), low)


@pytest.mark.parametrize("basis", [ColourBasis, lambda x: PatchBasis(2, x)])
def test_transforms_are_orthogonal_and_have_an_inverse(basis):
    x = images(2, 3, 4, 6).double()
    a = basis(x)
    torch.testing.assert_close(a.inverse(a.forward(x)), x)
    torch.testing.assert_close(a.forward(x).square().sum(), x.square().sum())


def test_first_vectors_of_the_bases():
    x = images(2, 3, 4, 4).double()
    norm = math.hypot(*LUMINANCE)
    torch.testing.assert_close(ColourBasis(x).forward(x)[:, 0], luminance(x) / norm)
    means = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(PatchBasis(2, x).forward(x)[..., 0], 2 * means)
    q = orthogonal_from(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(q[:, 0], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(q @ q.T, torch.eye(2))


def test_denoising_in_one_step_is_f():
    y = images(4, 1, 8, 8)
    x = denoise(editor([0.4]), y)
    torch.testing.assert_close(x, gaussian(y, torch.full((4,), 0.4)))
    slight = denoise(editor([EPSILON * 1.0001]), y)
    torch.testing.assert_close(slight, y, rtol=1e-4, atol=1e-5)
    y = images(64, 1, 8, 8)
    noisy = y + 0.3 * images(64, 1, 8, 8, seed=3) / STD
    assert (denoise(editor([0.3]), noisy) - y).square().mean() < (noisy - y).square().mean()


def test_strokes_are_followed_closely_at_a_low_level_only():
    strokes = torch.full((200, 1, 4, 4), 0.5)
    near, far = (stroke_guided(editor([level, level / 2]), strokes) for level in (0.05, 40.0))
    assert (near - strokes).abs().mean() < 0.1
    assert far.mean().abs() < 0.05  # 0.5 · STD/√(STD² + 40²), and the noise of 3,200 pixels
    assert far.std() == pytest.approx(STD, rel=0.05)


def test_the_ends_of_an_interpolation_are_the_samples_of_its_noises():
    z1, z2 = images(1, 6, 6, seed=4) / STD, images(1, 6, 6, seed=5) / STD
    weights = torch.linspace(0, 1, 7)
    x = interpolate_noise(editor([80.0]), z1, z2, weights)
    ends = gaussian(80 * torch.stack([z1, z2]), torch.full((2,), 80.0))
    torch.testing.assert_close(x[[0, -1]], ends)
    norms = x.flatten(1).norm(dim=1)
    assert norms.min() > 0.95 * norms[[0, -1]].min()  # on a straight line 0.71 in the middle
    torch.testing.assert_close(interpolate_noise(editor([80.0]), z1, z1, weights)[3], x[0])


def test_an_interpolation_of_images_tends_to_them_at_a_low_level():
    y1, y2 = images(3, 4, 4, seed=6), images(3, 4, 4, seed=7)
    x = interpolate_images(editor([0.01]), y1, y2, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(x, torch.stack([y1, (y1 + y2) / 2, y2]), rtol=0, atol=0.06)


def test_outputs_are_clamped_and_differentiable():
    bounded = editor(low=-0.1, high=0.2)
    for x in (
        inpaint(bounded, images(2, 1, 4, 4), torch.zeros(4, 4, dtype=torch.bool)),
        stroke_guided(bounded, images(2, 1, 4, 4)),
        denoise(bounded, images(2, 1, 4, 4)),
    ):
        assert (float(x.min()), float(x.max())) == pytest.approx((-0.1, 0.2))
    y = images(1, 3, 4, 4).requires_grad_()
    colorize(editor(), y).square().sum().backward()
    assert y.grad.abs().sum() > 0


def test_wrong_calls_are_refused():
    with pytest.raises(InputError, match=r"\(2, 1, 4, 4\) cannot be coloured, expected three"):
        colorize(editor(), images(2, 1, 4, 4))
    with pytest.raises(InputError, match="factor of a super-resolution is 0"):
        super_resolve(editor(), images(2, 1, 4, 4), 0)
    with pytest.raises(ValueError, match="strictly decreasing"):
        editor([1.0, 2.0])
