"""A policy among other libraries: shapes, vmap, spaces, the rule by which it acts, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from cmpolicy.errors import InputError
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.policy.diffusion_policy import DiffusionPolicy
from cmpolicy.policy.policy_file import FORMAT
from cmpolicy.tensor_file import read_tensors, write_tensors
from cmpolicy.training.checkpoint import save_state


def small(**options: Any) -> ConsistencyPolicy:
    policy = ConsistencyPolicy(3, 2, **{"hidden": [16, 16], "steps": 2, **options})
    policy.fit_normalizers(torch.randn(50, 3), torch.rand(50, 2) - 0.5)
    return policy


# Shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ConsistencyPolicy, DiffusionPolicy])
@pytest.mark.parametrize("leading", [(), (1,), (4, 2), (2, 3, 1), (0, 2)])
def test_observations_of_any_leading_shape(
    kind: type[ConsistencyPolicy], leading: tuple[int, ...]
) -> None:
    policy = kind(3, 2, hidden=[8], steps=2)
    observations, noise = torch.randn(*leading, 3), torch.randn(*leading, 2, 2)
    rows, first = observations.reshape(-1, 3), noise[..., 0, :]
    for z, flat in ((noise, noise.reshape(-1, 2, 2)), (first, first.reshape(-1, 2))):
        torch.manual_seed(0)
        actions = policy(observations, noise=z)
        torch.manual_seed(0)
        torch.testing.assert_close(actions.reshape(-1, 2), policy(rows, noise=flat))
    assert actions.shape == (*leading, 2)
    modes = policy.mode(observations, 4)
    torch.testing.assert_close(modes, policy.mode(rows, 4).reshape(*leading, 2))


def test_the_loss_takes_any_leading_shape_and_keeps_weights_beside_their_samples() -> None:
    policy = small()
    observations, actions, weight = torch.randn(4, 2, 3), torch.rand(4, 2, 2), torch.rand(4, 2)
    flat = observations.view(8, 3), actions.view(8, 2)

    def loss(*batch: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return policy.loss(*batch, weight=weight, generator=torch.Generator().manual_seed(1))

    assert loss(observations, actions, weight=weight) == loss(*flat, weight=weight.view(8))
    with pytest.raises(ValueError, match=r"actions must have shape \(4, 2, 2\), got \(8, 2\)"):
        policy.loss(observations, flat[1])


def test_vmap_over_observations_gives_what_a_loop_gives() -> None:
    policy, observations, noise = small(), torch.randn(5, 3), torch.randn(5, 2, 2)
    loop = torch.stack([policy(o, noise=z) for o, z in zip(observations, noise, strict=True)])
    mapped = torch.func.vmap(lambda o, z: policy(o, noise=z))(observations, noise)
    torch.testing.assert_close(mapped, loop)
    drawn = torch.func.vmap(policy, randomness="different")(observations)
    assert len(drawn.unique(dim=0)) == 5
    slopes = torch.func.vmap(torch.func.jacrev(lambda o, z: policy(o, noise=z)))(
        observations, noise
    )
    assert slopes.shape == (5, 2, 3)
    assert slopes.abs().min() > 0


# Spaces ------------------------------------------------------------------------------------------


def test_a_policy_is_made_for_gymnasium_spaces() -> None:
    env = gymnasium.make("Pendulum-v1")
    policy = ConsistencyPolicy.from_spaces(
        env.observation_space, env.action_space, hidden=[8], mode_of=4
    )
    assert (policy.obs_dim, policy.action_dim, policy.mode_of) == (3, 1, 4)
    assert (policy.bound.given_low, policy.bound.given_high) == ([-2.0], [2.0])
    env.close()


BOX = Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("spaces", "reason"),
    [
        ((Dict(a=BOX), BOX), "observation space is Dict.*gymnasium.wrappers.FlattenObservation"),
        ((Box(0, 1, (8, 8, 3)), BOX), "observation space is Box.*FlattenObservation"),
        ((BOX, Discrete(3)), r"action space is Discrete\(3\), expected a vector \(Box\)$"),
    ],
)
def test_other_spaces_are_refused(spaces: tuple[Any, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ConsistencyPolicy.from_spaces(*spaces)


def test_a_dictionary_is_refused_with_the_wrapper_that_makes_it_a_vector() -> None:
    for call in (small().act, small().predict):
        with pytest.raises(ValueError, match=r"dictionary of goal, position.*FlattenObservation"):
            call({"goal": np.zeros(1), "position": np.zeros(2)})  # type: ignore[operator]


# The rule ----------------------------------------------------------------------------------------


def test_a_policy_acts_by_its_own_rule_and_predicts_as_it_is_asked() -> None:
    policy, observations = small(mode_of=8), np.random.default_rng(0).normal(size=(4, 3))
    own = policy.act(observations)
    np.testing.assert_array_equal(own, policy.act(observations, mode_of=8))
    for deterministic in (None, True):
        actions, state = policy.predict(observations, "state", np.ones(4), deterministic)
        np.testing.assert_array_equal(actions, own)
        assert state == "state"
    drawn = [policy.predict(observations, deterministic=False)[0] for _ in range(2)]
    assert not np.array_equal(*drawn)
    assert policy.predict(observations[0])[0].shape == (2,)

    plain = small()
    assert not np.array_equal(plain.act(observations), plain.act(observations))
    mode = plain.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(mode, plain.act(observations, mode_of=32))


def test_the_rule_is_saved_and_older_files_load(tmp_path: Path) -> None:
    policy, path = small(mode_of=8, levels=[5.0, 0.5]), tmp_path / "p"
    policy.save(path)
    loaded = ConsistencyPolicy.load(path)
    assert (loaded.mode_of, loaded.levels) == (8, [5.0, 0.5])
    observation = np.ones(3)
    np.testing.assert_array_equal(loaded.act(observation), policy.act(observation))

    state, text = read_tensors(path, FORMAT)
    arguments = json.loads(text["arguments"])
    new = ("policy", "mode_of", "network", "network_options", "encoder", "encoder_options")
    older = {key: value for key, value in arguments.items() if key not in new}
    write_tensors(path, "cmpolicy.policy.v3", state, {"arguments": json.dumps(older)})
    old = ConsistencyPolicy.load(path)
    assert old.mode_of == 1
    np.testing.assert_array_equal(old.act(observation, mode_of=8), policy.act(observation))


# Files -------------------------------------------------------------------------------------------


def checkpoint_of(policy: ConsistencyPolicy) -> dict[str, Any]:
    modules = {f"average_policy.{key}": t for key, t in policy.state_dict().items()}
    return {"learner": {"modules": {**modules, "step": torch.ones(())}, "policy": policy.arguments}}


def test_a_run_directory_and_a_checkpoint_are_loaded(tmp_path: Path) -> None:
    first, second = small(mode_of=4), small(mode_of=4)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    last.parent.mkdir(parents=True)
    save_state(last, checkpoint_of(first))
    for path in (last, tmp_path / "run"):
        loaded = ConsistencyPolicy.load(path)
        np.testing.assert_array_equal(loaded.act(np.ones(3)), first.act(np.ones(3)))
    second.save(tmp_path / "run" / "policy.safetensors")
    loaded = ConsistencyPolicy.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.act(np.ones(3)), second.act(np.ones(3)))


def test_what_holds_no_policy_is_said(tmp_path: Path) -> None:
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-3").mkdir()
    with pytest.raises(InputError, match=r"a run for each seed; give .* one of seed-0, seed-3"):
        ConsistencyPolicy.load(tmp_path)
    save_state(tmp_path / "toy", {"learner": {"student": torch.ones(2)}})
    with pytest.raises(InputError, match="toy holds no policy: it is of a toy or an image model"):
        ConsistencyPolicy.load(tmp_path / "toy")
