"""DiffusionPolicy: its loss, its sampler, its files, and a law that it learns."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from cmpolicy import ConsistencyPolicy, InputError
from cmpolicy.policy.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig


def fitted(**overrides: object) -> tuple[DiffusionPolicy, torch.Tensor, torch.Tensor]:
    policy = DiffusionPolicy(3, 2, [-2.0, 0.0], [1.0, 5.0], hidden=[16], **overrides)
    obs = torch.randn(200, 3) * torch.tensor([1.0, 5.0, 0.1])
    actions = torch.rand(200, 2) * torch.tensor([3.0, 5.0]) - torch.tensor([2.0, 0.0])
    policy.fit_normalizers(obs, actions)
    return policy, obs, actions


def test_its_loss_is_the_denoisers_and_no_consistency_loss() -> None:
    policy, obs, actions = fitted()
    condition, x0 = policy.normalize(obs), policy.encode(actions)
    generator = torch.Generator().manual_seed(3)
    value = policy.loss(obs, actions, generator=generator)
    generator.manual_seed(3)
    noise = torch.randn(x0.shape, generator=generator)
    uniform = torch.rand(len(x0), generator=generator)
    low, high = norm.cdf((np.log([0.02, 3.0]) + 1.2) / 1.2)
    sigma = torch.from_numpy(np.exp(-1.2 + 1.2 * norm.ppf(low + uniform.numpy() * (high - low))))
    sigma = sigma.float()
    denoised = policy.f(x0 + sigma[:, None] * noise, sigma, condition)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    expected = (weight * (denoised - x0).square().sum(1)).mean()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [None, [3.0], [2.0, 0.5, 0.1]])
def test_a_sample_is_a_walk_along_the_ode(levels: list[float] | None) -> None:
    policy, obs, _ = fitted()
    condition = policy.normalize(obs)
    noise = torch.randn(200, 2)
    grid = [*(levels or policy.levels), 0.0]
    x = grid[0] * noise
    for sigma, to in pairwise(grid):
        denoised = policy.f(x, torch.full((200,), sigma), condition)
        x = denoised + to / sigma * (x - denoised)  # Euler's step, in another form
    sampled = policy(obs, noise=noise, levels=levels)
    torch.testing.assert_close(sampled, policy.decode(x), rtol=1e-4, atol=1e-5)
    assert len(policy.levels) == 5
    with_the_rest = torch.stack([noise, *torch.randn(len(grid) - 2, 200, 2)], dim=1)
    assert torch.equal(policy(obs, noise=with_the_rest, levels=levels), sampled)


def test_it_is_saved_and_loaded_as_what_it_is(tmp_path: Path) -> None:
    policy, obs, _ = fitted(steps=3)
    policy.save(tmp_path / "policy")
    loaded = DiffusionPolicy.load(tmp_path / "policy")
    assert isinstance(loaded, DiffusionPolicy)
    noise = torch.randn(200, 2)
    assert torch.equal(loaded(obs, noise=noise), policy(obs, noise=noise))
    assert isinstance(ConsistencyPolicy.load(tmp_path / "policy"), DiffusionPolicy)
    ConsistencyPolicy(3, 2).save(tmp_path / "other")
    with pytest.raises(InputError, match="it is a ConsistencyPolicy; call the method load of that"):
        DiffusionPolicy.load(tmp_path / "other")


def test_a_squashed_denoiser_is_refused() -> None:
    with pytest.raises(ValueError, match="give tanh or clamp"):
        DiffusionPolicy(3, 2, bound="squash")


@pytest.mark.parametrize("key", ["loss", "parameterization"])
def test_losses_of_consistency_models_are_refused(key: str) -> None:
    value = {"loss": "ict", "parameterization": "karras"}[key]
    with pytest.raises(ValueError, match=f"unknown {key} '{value}', expected one of edm"):
        DiffusionPolicyConfig(**{key: value})


@pytest.mark.slow
def test_it_learns_two_modes_in_five_steps() -> None:
    """An expert that goes left or right of a line: a = s ± 0.4."""
    obs = torch.rand(2000, 1) - 0.5
    actions = obs + 0.8 * (torch.rand(2000, 1) < 0.5) - 0.4
    policy = DiffusionPolicy(1, 1, hidden=[64, 64])
    policy.fit_normalizers(obs, actions)
    optimizer = torch.optim.Adam(policy.parameters(), 2e-3)
    for _ in range(800):
        index = torch.randint(2000, (256,))
        loss = policy.loss(obs[index], actions[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    beside = policy.act(obs.numpy()) - obs.numpy()
    assert 0.35 < (beside > 0).mean() < 0.65
    assert (np.abs(np.abs(beside) - 0.4) < 0.15).mean() > 0.65
