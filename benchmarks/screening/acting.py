"""How replicas act, and what that scores in thousands of environments at once."""

from __future__ import annotations

import os

import numpy as np
import torch
from sets import ACTION_DIM, OBS_DIM
from simulator import BatchEnvironments
from torch import Tensor
from variants import Replicas

from cmpolicy.consistency.randomness import sobol_normal
from cmpolicy.datasets.reference_scores import normalized_score

MODE_SAMPLES, MODE_WIDTH = 32, 0.4


def act(replicas: Replicas, rule: str, observations: Tensor) -> Tensor:
    """Actions by a rule, (R, n, OBS_DIM) as the environments give them → (R, n, ACTION_DIM).

    A rule is ``clone`` or ``actor``, a colon, and ``sample``, ``zero`` (the noise z = 0), ``mode``
    (of 32), or ``mode`` with a step along ∇_a Q such as ``mode+0.1`` or ``mode-0.1``, in units of
    E‖∇Q‖, or ``mode~0.1``, a step in a random direction.
    """
    data, row = replicas.data, replicas.row
    obs = (observations - data.mean[row][:, None]) / data.std[row][:, None]
    obs = obs * data.obs_mask[row][:, None]
    who, _, how = rule.partition(":")
    weights = replicas.average_clone if who == "clone" else replicas.average_actor
    count, n = obs.shape[:2]
    if how == "sample":
        noise = torch.randn(count, n, ACTION_DIM, device=obs.device)
        return replicas.one_call(weights, noise, obs)
    if how == "zero":
        return replicas.one_call(weights, obs.new_zeros(count, n, ACTION_DIM), obs)
    points = torch.tensor(sobol_normal(MODE_SAMPLES, ACTION_DIM), device=obs.device)
    noise = points.repeat(n, 1).expand(count, -1, -1)
    samples = replicas.one_call(weights, noise, obs.repeat_interleave(MODE_SAMPLES, 1))
    found = find_mode(samples.view(count, n, MODE_SAMPLES, ACTION_DIM), replicas.dims)
    if how == "mode":
        return found
    sign, length = how[4], float(how[5:])
    if sign == "~":
        direction = torch.randn_like(found) * replicas.mask
        direction = direction / direction.norm(dim=-1, keepdim=True)
    else:
        with torch.enable_grad():
            at = found.detach().requires_grad_()
            q = replicas.q(replicas.critic, obs, at, compiled=False).mean(1)
            slope = torch.autograd.grad(q.sum(), at)[0] * replicas.mask
        direction = slope / slope.norm(dim=-1).mean(1).clamp_min(1e-12)[:, None, None]
    step = -length if sign == "-" else length
    return (found + step * direction).clamp(-1, 1) * replicas.mask


def find_mode(samples: Tensor, dims: Tensor) -> Tensor:
    """Mean shift from the densest sample, as the package's: (R, n, N, A) → (R, n, A)."""
    x = samples / MODE_WIDTH
    distance = torch.cdist(x, x).square() / dims[:, :, None, None]
    densest = (-distance / 2).exp().sum(-1).argmax(-1)
    found = x.gather(2, densest[..., None, None].expand(-1, -1, 1, ACTION_DIM))
    for _ in range(5):
        square = (x - found).square().sum(-1) / dims[:, :, None]
        shares = (-square / 2).exp()
        shares = shares / shares.sum(-1, keepdim=True)
        found = (shares[..., None] * x).sum(2, keepdim=True)
    return found.squeeze(2) * MODE_WIDTH


@torch.no_grad()
def evaluate(
    replicas: Replicas, rules: list[str], episodes: int, seed: int
) -> dict[str, np.ndarray]:
    """Normalised scores by rule, (R, episodes); all rules and replicas act side by side."""
    data, sets = replicas.data, sorted({v.set for v in replicas.variants})
    own = {
        s: torch.tensor([i for i, v in enumerate(replicas.variants) if v.set == s]) for s in sets
    }
    threads = os.cpu_count() or 1
    environments, observations = {}, {}
    for name in sets:
        recorded = data.recorded[name]
        n = len(own[name]) * len(rules) * episodes
        environments[name] = BatchEnvironments(recorded.robot, n, threads, recorded.version, seed)
        observations[name] = environments[name].reset()
    shape = (replicas.count, len(rules), episodes)
    seen = torch.zeros(*shape, OBS_DIM, device=data.device)
    while any(e.alive.any() for e in environments.values()):
        for name, env in environments.items():
            obs = torch.from_numpy(observations[name]).view(-1, *shape[1:], env.obs_dim)
            seen[own[name].to(data.device), ..., : env.obs_dim] = obs.to(data.device)
        chosen = torch.stack([act(replicas, r, seen[:, i]) for i, r in enumerate(rules)], 1).cpu()
        for name, env in environments.items():
            if env.alive.any():
                actions = chosen[own[name], ..., : env.action_dim].reshape(env.n, -1)
                observations[name] = env.step(actions.numpy())[0]
    scores = np.zeros(shape)
    for name, env in environments.items():
        score = np.asarray(normalized_score(data.recorded[name].robot, env.returns))
        scores[own[name].numpy()] = score.reshape(-1, *shape[1:])
    return {rule: scores[:, i] for i, rule in enumerate(rules)}
