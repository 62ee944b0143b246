"""The toys: samples against densities, conditions, the bandit, training sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from cmpolicy.errors import InputError
from cmpolicy.toys.dataset import ALIASES, TOYS, Bandit, ToyDataset, find_toy
from cmpolicy.toys.distributions import ConditionalToy, GaussianMixture, Labelled

CONDITIONAL = [name for name, toy in TOYS.items() if isinstance(toy, ConditionalToy)]
PLAIN = [name for name in TOYS if name not in CONDITIONAL]
LINES = [name for name in PLAIN if TOYS[name].dim == 1]
PLANES = [name for name in PLAIN if TOYS[name].dim == 2]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", LINES)
def test_density_cdf_and_samples_agree_in_one_dimension(name):
    toy, x = TOYS[name], np.linspace(-6, 6, 20_001)
    density = toy.density(x[:, None]).numpy()
    cumulated = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2) * (x[1] - x[0])))
    np.testing.assert_allclose(cumulated[-1], 1, atol=1e-9)
    np.testing.assert_allclose(toy.cdf(x).numpy(), cumulated, atol=1e-6)
    samples = toy.sample(20_000, seeded())
    assert (samples.shape, samples.dtype) == ((20_000, 1), torch.float32)
    assert stats.kstest(samples[:, 0].numpy(), lambda v: toy.cdf(v).numpy()).pvalue > 0.001


@pytest.mark.parametrize("name", PLANES)
def test_density_and_samples_agree_in_two_dimensions(name):
    """χ² of counts in 20 × 20 cells against the density integrated over each."""
    toy, samples = TOYS[name], TOYS[name].sample(20_000, seeded())
    reach = 1.2 if name == "bandit_2d" else 4.0
    axis = (torch.arange(120, dtype=torch.float64) + 0.5) / 120 * 2 * reach - reach
    mass = toy.density(torch.cartesian_prod(axis, axis)) * (2 * reach / 120) ** 2
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    mass = mass.reshape(20, 6, 20, 6).sum((1, 3)).flatten().numpy()
    counts = np.histogram2d(*samples.numpy().T, bins=20, range=[[-reach, reach]] * 2)[0].ravel()
    often = mass * 20_000 >= 5
    expected = 20_000 * np.append(mass[often], max(1 - mass[often].sum(), 1e-3))
    seen = np.append(counts[often], 20_000 - counts[often].sum())
    assert stats.chi2.sf(((seen - expected) ** 2 / expected).sum(), often.sum()) > 1e-3


@pytest.mark.parametrize("name", PLAIN)
def test_mean_and_std_are_those_of_the_samples(name):
    toy, samples = TOYS[name], TOYS[name].sample(40_000, seeded()).double()
    torch.testing.assert_close(samples.mean(0), toy.mean, atol=0.02, rtol=0)
    std = float((samples - samples.mean(0)).square().mean().sqrt())
    assert std == pytest.approx(toy.std, rel=0.01)


def test_an_uneven_mixture_by_hand():
    toy = TOYS["uneven_two_gmm"]
    x = np.array([-1.7, 0.0, 1.4])
    expected = 0.7 * stats.norm.pdf(x, -1.5, 0.3) + 0.3 * stats.norm.pdf(x, 1.5, 0.2)
    np.testing.assert_allclose(toy.density(x[:, None]), expected, rtol=1e-12)
    share = float((toy.sample(100_000, seeded()) < 0).double().mean())
    assert share == pytest.approx(0.7, abs=0.006)
    assert float(toy.cdf([0.0])) == pytest.approx(0.7, abs=1e-6)


def test_quantiles_invert_the_cdf():
    toy = TOYS["three_gmm"]
    quantiles = toy.quantiles(1001)
    assert quantiles.shape == (1001, 1)
    levels = (torch.arange(1001, dtype=torch.float64) + 0.5) / 1001
    torch.testing.assert_close(toy.cdf(quantiles), levels, rtol=0, atol=1e-12)


def test_the_checkerboard_is_black_on_half_of_its_squares():
    toy = TOYS["checkerboard"]
    assert torch.isfinite(toy.log_density(toy.sample(5_000, seeded()))).all()
    density = toy.density([[0.5, 0.5], [0.5, -0.5], [2.5, 2.5]])
    torch.testing.assert_close(density, torch.tensor([0.125, 0, 0], dtype=torch.float64))


def test_names_and_aliases():
    assert len(ALIASES) == 4
    for alias in ALIASES:
        assert find_toy(alias) is TOYS[alias.removesuffix("_1D")]
    with pytest.raises(InputError, match=r"'four_gmm'; choose one of .*three_gmm.*three_gmm_1D"):
        find_toy("four_gmm")


@pytest.mark.parametrize("name", CONDITIONAL)
def test_samples_and_conditions(name):
    toy = TOYS[name]
    x, condition = toy.sample(20_000, seeded())
    assert x.shape == (20_000, toy.dim)
    assert condition.shape == (20_000, toy.conditions.shape[1])
    if isinstance(toy, Labelled):
        assert torch.equal(condition.sum(1), torch.ones(20_000))
        torch.testing.assert_close(condition.double().mean(0), toy.weights, atol=0.015, rtol=0)
    std = float((x - x.mean(0)).square().mean().sqrt())
    assert std == pytest.approx(toy.marginal.std, rel=0.02)
    torch.testing.assert_close(x.mean(0).double(), toy.marginal.mean, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["three_gmm_label", "uneven_two_gmm_label"])
def test_a_label_gives_its_component(name):
    toy = TOYS[name]
    x, condition = toy.sample(20_000, seeded())
    for one in toy.conditions:
        chosen = x[(condition == one).all(1), 0].numpy()
        cdf = toy.given(one).cdf
        assert stats.kstest(chosen, lambda x, cdf=cdf: cdf(x).numpy()).pvalue > 0.001
    plain = TOYS[name.removesuffix("_label")]
    torch.testing.assert_close(toy.marginal.density(x[:50]), plain.density(x[:50]))
    with pytest.raises(InputError, match="expected a one-hot label"):
        toy.given([0.5] * len(toy.parts))


def test_a_moving_mixture_follows_its_condition():
    """The conditional cdf at each sample is uniform (the probability integral transform)."""
    toy = TOYS["moving_two_gmm"]
    x, condition = toy.sample(2_000, seeded())
    levels = [float(toy.given(c).cdf(v)) for v, c in zip(x, condition, strict=True)]
    assert stats.kstest(levels, "uniform").pvalue > 0.001
    left, right = toy.given(0.4).means[:, 0]
    assert (float(left), float(right)) == pytest.approx((-1.3, 1.9))
    with pytest.raises(InputError, match=r"expected a number in \[-1, 1\]"):
        toy.given(1.5)


def test_a_ring_turns_with_its_condition():
    toy = TOYS["turning_eight_gaussians"]
    x, condition = toy.sample(200, seeded())
    pairs = zip(x, condition, strict=True)
    assert min(float(toy.given(c).density(p)) for p, c in pairs) > 1e-6
    first = toy.given(1.0).means[0]
    assert float(torch.atan2(first[1], first[0])) == pytest.approx(np.pi / 8)


@pytest.mark.parametrize("name", ["bandit", "bandit_2d"])
def test_the_best_mode_of_a_bandit_is_the_rarest(name):
    toy = TOYS[name]
    assert isinstance(toy, Bandit)
    assert toy.best == int(toy.weights.argmin())
    torch.testing.assert_close(toy.reward(toy.means), toy.rewards, atol=0.03, rtol=0)
    actions = toy.sample(20_000, seeded())
    torch.testing.assert_close(toy.mass(actions), toy.weights, atol=0.015, rtol=0)
    actions.requires_grad_()
    toy.reward(actions).sum().backward()
    assert torch.isfinite(actions.grad).all()
    dataset = toy.transitions(500, seeded())
    assert (len(dataset), dataset.obs_dim, dataset.action_dim) == (500, 1, toy.dim)
    assert dataset.terminals.all()
    torch.testing.assert_close(dataset.rewards, toy.reward(dataset.actions))


@pytest.mark.parametrize("name", ["three_gmm_1D", "two_gmm_label"])
def test_batches_are_rows_of_the_training_set_from_the_global_generator(name):
    dataset = ToyDataset(name, 1000)
    torch.manual_seed(3)
    first = dataset.sample(64)
    torch.manual_seed(3)
    again = dataset.sample(64)
    assert torch.equal(first.x, again.x)
    assert first.x.shape == (64, 1)
    assert np.isin(first.x.numpy(), dataset.x.numpy()).all()
    if dataset.condition_dim == 0:
        assert first.condition is None
    else:
        assert torch.equal(first.condition, again.condition)
        assert torch.equal(first.x[:, 0] > 0, first.condition[:, 1] == 1)  # pairs stay together


def test_a_training_set_is_fixed_by_its_seed():
    state = torch.get_rng_state()
    first, again, other = (ToyDataset("two_gmm", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert first.x.shape == (20_000, 1)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert first.std == pytest.approx(float(first.x.std(correction=0)))
    torch.testing.assert_close(first.mean, first.x.mean(0))


def test_numeric_conditions_come_with_more_samples_and_references():
    dataset = ToyDataset("moving_two_gmm")
    assert len(dataset.x) == 800_000
    batch = dataset.sample(16)
    assert len(batch.x) == 16
    x, condition, none = batch.references
    assert x.shape == condition.shape == (64, 1)
    assert none is None
    assert ToyDataset("two_gmm_label").sample(16).references is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GaussianMixture([0.5, 0.6], [[0.0], [1.0]], 1.0), "sum to 1"),
        (lambda: GaussianMixture([1.0], [0.0], 1.0), r"expected \(k, d\)"),
        (lambda: GaussianMixture([1.0], [[0.0]], 0.0), "must be positive"),
        (lambda: Bandit([1.0], [[0.0]], 1.0, rewards=[1.0, 2.0]), "2 rewards for 1 modes"),
        (lambda: TOYS["two_gmm"].density(np.zeros((3, 2))), r"expected \(n, 1\)"),
        (lambda: TOYS["two_moons"].density(np.zeros(4)), r"expected \(n, 2\)"),
        (lambda: TOYS["two_moons"].cdf(np.zeros(4)), "one-dimensional"),
        (lambda: ToyDataset("two_gmm", 1), "at least 2 samples"),
    ],
)
def test_wrong_input_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()
