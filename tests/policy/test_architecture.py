"""Networks and encoders of one's own: by name and as modules, in training and in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmpolicy.errors import InputError
from cmpolicy.policy.architecture import ENCODERS, NETWORKS, register_encoder, register_network
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.policy.policy_file import read_contents, write_policy


class Sum(nn.Module):
    """F(x, c_noise, condition) of one linear layer each."""

    def __init__(self, action_dim: int, condition_dim: int, width: int = 4) -> None:
        super().__init__()
        self.x = nn.Linear(action_dim, width)
        self.level = nn.Linear(1, width)
        self.condition = nn.Linear(condition_dim, width)
        self.out = nn.Linear(width, action_dim)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        h = self.x(x) + self.level(c_noise[:, None]) + self.condition(condition)
        return self.out(h.tanh())  # type: ignore[no-any-return]


class Tower(nn.Sequential):
    def __init__(self, obs_dim: int, features: int = 5) -> None:
        super().__init__(nn.Linear(obs_dim, features), nn.BatchNorm1d(features), nn.Tanh())


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_network("sum")(Sum)
    register_encoder("tower")(Tower)
    yield
    del NETWORKS["sum"], ENCODERS["tower"]


@pytest.mark.parametrize("loss", ["ict", "ct", "sct"])
@pytest.mark.parametrize(
    "options",
    [
        {"network": "sum", "encoder": "tower", "encoder_options": {"features": 7}},
        {"network": Sum(2, 3), "steps": 2},
        {"encoder": Tower(3), "hidden": [8]},
    ],
    ids=["names", "network", "encoder"],
)
def test_own_networks_learn_act_and_are_saved_by_name(
    tmp_path: Path, options: Any, loss: str
) -> None:
    policy = ConsistencyPolicy(3, 2, loss=loss, **options)
    observations, actions = torch.randn(20, 3), torch.rand(20, 2) - 0.5
    policy.fit_normalizers(observations, actions)
    policy.loss(observations, actions, 0.5).backward()
    trained = {name for name, p in policy.named_parameters() if p.grad is not None}
    expected = {n for n, _ in policy.named_parameters() if not n.startswith("target_")}
    assert trained == expected
    policy.eval()
    noise = torch.randn(20, policy.sampler.steps, 2)
    one = policy(observations[3:4], noise=noise[3:4])
    torch.testing.assert_close(policy(observations, noise=noise)[3:4], one)

    policy.save(tmp_path / "p")
    loaded = ConsistencyPolicy.load(tmp_path / "p").eval()
    assert loaded.config == policy.config
    assert {loaded.config.network, loaded.config.encoder} <= {"mlp", "sum", "tower", None}
    for mode_of in (1, 4):
        acted = [
            p.act(observations, mode_of=mode_of, generator=torch.Generator().manual_seed(0))
            for p in (policy, loaded)
        ]
        np.testing.assert_array_equal(*acted)


def test_a_module_whose_class_is_not_registered_is_given_when_it_is_loaded(tmp_path: Path) -> None:
    class Own(Sum):
        pass

    policy = ConsistencyPolicy(3, 2, network=Own(2, 3), mode_of=4)
    policy.save(tmp_path / "p")
    with pytest.raises(InputError, match=r"network is the class .*Own.*give network=MODULE"):
        ConsistencyPolicy.load(tmp_path / "p")
    loaded = ConsistencyPolicy.load(tmp_path / "p", network=Own(2, 3))
    np.testing.assert_array_equal(loaded.act(np.ones(3)), policy.act(np.ones(3)))


def test_names_that_no_package_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="network 'x' is not installed; there are: mlp, sum"):
        ConsistencyPolicy(3, 2, network="x")
    with pytest.raises(ValueError, match="encoder 'x' is not installed; there are: conv, tower"):
        ConsistencyPolicy(3, 2, encoder="x")
    with pytest.raises(ValueError, match=r"network_options do not fit network 'sum'.*depth"):
        ConsistencyPolicy(3, 2, network="sum", network_options={"depth": 3})
    with pytest.raises(ValueError, match=r"maps observations \(2, 3\) to \(2, 1, 3\)"):
        ConsistencyPolicy(3, 2, encoder=nn.Unflatten(1, (1, 3)))
    ConsistencyPolicy(3, 2, network="sum").save(tmp_path / "p")
    arguments, state = read_contents(tmp_path / "p")
    write_policy(tmp_path / "p", state, {**arguments, "network": "of_another_package"})
    with pytest.raises(InputError, match="p: network 'of_another_package' is not installed"):
        ConsistencyPolicy.load(tmp_path / "p")


@pytest.mark.parametrize("kind", ["network", "encoder"])
def test_a_file_cannot_ask_for_networks_larger_than_its_weights(tmp_path: Path, kind: str) -> None:
    ConsistencyPolicy(3, 2, network="sum", encoder="tower").save(tmp_path / "p")
    arguments, state = read_contents(tmp_path / "p")
    size = {"network": "width", "encoder": "features"}[kind]
    huge = {**arguments, f"{kind}_options": {size: 10**9}}
    write_policy(tmp_path / "p", state, huge)
    with pytest.raises(InputError, match=f"its weights {kind}.* have shape"):
        ConsistencyPolicy.load(tmp_path / "p")


def test_a_name_is_given_once() -> None:
    assert register_network("sum")(Sum) is Sum  # as a cell of a notebook that runs again
    with pytest.raises(ValueError, match="network 'sum' exists already"):
        register_network("sum")(Tower)
