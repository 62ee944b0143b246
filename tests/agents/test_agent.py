"""What every agent must do, whatever its losses."""

from __future__ import annotations

import builtins
import contextlib
import copy
import operator
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmpolicy.agents import AGENTS, Agent, AgentConfig, Spaces
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.policy.config import PolicyConfig
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.training.checkpoint import load_state, save_state

OBS_DIM, ACTION_DIM = 5, 2
SPACES = Spaces(OBS_DIM, [-2.0, 0.0], [1.0, 5.0])
TOTAL = 20
CONSISTENCY = [name for name in AGENTS if name != "diffusion_ql"]  # these take any of its losses
CRITICS = {"critic", "target_critic"}
CHILDREN = {  # of an agent beside its policy and the average of it
    "ac": CRITICS | {"clone", "average_clone"},
    "bc": set(),
    "weighted_bc": set(),
    "iql": CRITICS | {"state_critic"},
    "diffusion_ql": CRITICS,
    "ac_ding_jin": CRITICS,
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def dataset() -> TransitionDataset:
    """300 random steps in episodes of ten; a third ends by a terminal, the rest by a timeout."""
    rng = np.random.default_rng(1)
    ends = np.arange(300) % 10 == 9
    terminals = ends & (np.arange(300) // 10 % 3 == 0)
    return TransitionDataset.from_arrays(
        rng.normal(3, [0.1, 1, 2, 5, 0], size=(300, OBS_DIM)),
        rng.uniform([-2, 0], [1, 5], size=(300, ACTION_DIM)),
        rng.normal(size=300),
        terminals,
        ends & ~terminals,
    )


def build(
    name: str, *, total: int = TOTAL, policy: PolicyConfig | None = None, **kwargs: Any
) -> Agent:
    """A small agent; `kwargs` are fields of its configuration."""
    make_policy = type(AGENTS[name].Config().policy)
    policy = policy or make_policy(hidden=[16, 16])
    if CHILDREN[name]:
        kwargs = {"critic_hidden": [16, 16], **kwargs}
    return AGENTS[name](SPACES, AGENTS[name].Config(policy=policy, **kwargs), total)


def trained(name: str, dataset: TransitionDataset, updates: int, **kwargs: Any) -> Agent:
    agent = build(name, **kwargs)
    data = agent.prepare(dataset)
    for _ in range(updates):
        agent.update(data.sample(32))
    return agent


@pytest.mark.parametrize("name", AGENTS)
def test_its_policy_acts_as_the_agent_does_and_is_read_from_its_checkpoint(
    name: str, dataset: TransitionDataset, tmp_path: Path
) -> None:
    agent = trained(name, dataset, 2)
    save_state(tmp_path / "checkpoint", {"learner": agent.training_state()})
    agent.average_policy.save(tmp_path / "policy")
    observations, seeded = dataset.observations[:20].numpy(), torch.Generator().manual_seed
    for path in (tmp_path / "checkpoint", tmp_path / "policy"):
        policy = ConsistencyPolicy.load(path)
        assert type(policy) is type(agent.policy)
        best_of = None if agent.candidates == 1 else 1  # a policy has no critic to choose by
        expected = agent.act(observations, best_of=best_of, generator=seeded(3))
        np.testing.assert_array_equal(policy.act(observations, generator=seeded(3)), expected)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: nn.Module) -> set[str]:
    """The children of an agent in which some tensor changed."""
    now = after.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], now[name])}


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested state, by path."""
    if isinstance(tree, dict):
        tree = tree.items()
    elif isinstance(tree, list | tuple):
        tree = enumerate(tree)
    else:
        yield prefix, tree
        return
    for key, value in tree:
        yield from flat(value, f"{prefix}/{key}")


def assert_same(a: Any, b: Any) -> None:
    """Two nested states, bit for bit."""
    left, right = dict(flat(a)), dict(flat(b))
    assert left.keys() == right.keys()
    for key, value in left.items():
        same = torch.equal(value, right[key]) if isinstance(value, Tensor) else value == right[key]
        assert same, key


# Statistics of the data -----------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_statistics_reach_every_module_that_normalises(
    name: str, dataset: TransitionDataset
) -> None:
    agent = build(name)
    agent.prepare(dataset)
    found = [m for m in agent.modules() if hasattr(m, "obs_mean")]
    assert len(found) == 2 + len(CHILDREN[name])
    obs = dataset.observations.double().numpy()
    for module in found:
        np.testing.assert_allclose(module.obs_mean, obs.mean(0), rtol=1e-5)
        np.testing.assert_allclose(module.obs_std[:4], obs.std(0, ddof=1)[:4], rtol=1e-4)
        assert module.obs_std[4] == module.obs_mean[4]  # a constant entry is not blown up
    x = agent.policy.encode(dataset.actions)
    assert torch.equal(agent.average_policy.encode(dataset.actions), x)
    assert not torch.equal(x, build(name).policy.encode(dataset.actions))


@pytest.mark.parametrize("name", AGENTS)
def test_nobody_normalises_when_the_policy_does_not(name: str, dataset: TransitionDataset) -> None:
    policy = type(AGENTS[name].Config().policy)(hidden=[8], normalize_obs=False)
    agent = build(name, policy=policy)
    agent.prepare(dataset)
    for module in (m for m in agent.modules() if hasattr(m, "obs_mean")):
        assert torch.equal(module.obs_mean, torch.zeros(OBS_DIM))
        assert torch.equal(module.obs_std, torch.ones(OBS_DIM))


# Copies and averages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss"), [*product(CONSISTENCY, ["ict", "ct"]), ("diffusion_ql", "edm")]
)
def test_targets_and_averages_start_as_copies_without_gradients(name: str, loss: str) -> None:
    agent = build(name, policy=type(AGENTS[name].Config().policy)(hidden=[16], loss=loss))
    pairs = [(agent.average_policy, agent.policy)]
    if name == "ac":
        pairs += [(agent.average_clone, agent.clone)]
    if loss == "ct":
        pairs += [(policy.target_network, policy.network) for _, policy in pairs]
    if CHILDREN[name]:
        pairs.append((agent.target_critic, agent.critic))
    for copied, original in pairs:
        assert_same(copied.state_dict(), original.state_dict())
        assert not any(p.requires_grad for p in copied.parameters())
        shared = {p.data_ptr() for p in copied.parameters()}
        assert not shared & {p.data_ptr() for p in original.parameters()}


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize(("asked", "decay"), [(0.9, 4 / 13), (0.2, 0.2), (0.0, 0.0)])
def test_the_average_moves_towards_the_policy(
    name: str, asked: float, decay: float, dataset: TransitionDataset
) -> None:
    """In its fourth update by no more than (1 + 3)/(10 + 3)."""
    agent = trained(name, dataset, 3, ema_decay=asked)
    before = tensors_of(agent.average_policy.network)
    agent.update(dataset.sample(32))
    online = agent.policy.network.state_dict()
    for key, value in agent.average_policy.network.state_dict().items():
        expected = decay * before[key].double() + (1 - decay) * online[key].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(value, online[key]) == (decay == 0.0)


@pytest.mark.parametrize(
    ("total", "step", "decay"),
    [(4000, 4000, 0.99), (200_000, 150_000, 0.9998), (4000, 3, 4 / 13), (20, 19, 0.0)],
)
def test_unless_told_an_average_reaches_over_a_fortieth_of_the_training(
    total: int, step: int, decay: float
) -> None:
    agent = build("bc", total=total)
    agent.step.fill_(step)
    assert float(agent.average_decay) == pytest.approx(decay, rel=1e-6)


@pytest.mark.parametrize("name", AGENTS)
def test_an_update_changes_what_it_should_and_nothing_else(
    name: str, dataset: TransitionDataset
) -> None:
    agent = trained(name, dataset, 1)
    before = tensors_of(agent)
    statistics = {k for k in before if k.endswith(("_mean", "_std", "scale")) or ".bound." in k}
    assert statistics
    agent.update(dataset.sample(32))
    assert changed(before, agent) == {"policy", "average_policy", "step"} | CHILDREN[name]
    now = agent.state_dict()
    assert all(torch.equal(before[key], now[key]) for key in statistics)
    untouched = [k for k, p in agent.named_parameters() if torch.equal(before[k], p)]
    assert untouched == []


# The curriculum -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_progress_runs_once_over_the_whole_training(
    name: str, dataset: TransitionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the loss is given is k/K at every update, through an evaluation and a resumption."""
    seen: list[float] = []

    def follow(agent: Agent) -> None:
        model = agent.clone if name == "ac" else agent.policy
        loss = model.loss

        def spy(
            observations: Tensor, actions: Tensor, progress: Tensor, *args: Any, **kwargs: Any
        ) -> Tensor:
            seen.append(float(progress))
            return loss(observations, actions, progress, *args, **kwargs)

        monkeypatch.setattr(model, "loss", spy)

    agent = build(name)
    agent.prepare(dataset)
    follow(agent)
    for update in range(TOTAL):
        if update in (7, 13):
            agent.act(np.zeros((3, OBS_DIM), np.float32))
            state = agent.training_state()
            agent = build(name)
            agent.load_training_state(state)
            follow(agent)
        agent.update(dataset.sample(8))
    assert seen == pytest.approx([k / TOTAL for k in range(TOTAL)])
    assert float(agent.progress) == 1.0
    agent.update(dataset.sample(8))
    assert float(agent.progress) == 1.0  # a run that goes on beyond its end stays there


# Resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss"), [*product(CONSISTENCY, ["ict", "ct"]), ("diffusion_ql", "edm")]
)
def test_a_restored_agent_goes_on_bit_for_bit(
    name: str, loss: str, dataset: TransitionDataset, tmp_path: Path
) -> None:
    policy = type(AGENTS[name].Config().policy)(hidden=[16], loss=loss)
    agent = trained(name, dataset, 5, policy=policy)
    save_state(tmp_path / "state", agent.training_state())
    rng = torch.get_rng_state()
    for _ in range(5):
        agent.update(dataset.sample(32))

    other = build(name, policy=policy)
    other.load_training_state(load_state(tmp_path / "state"))
    torch.set_rng_state(rng)
    for _ in range(5):
        other.update(dataset.sample(32))
    assert_same(other.training_state(), agent.training_state())


def test_a_state_of_another_agent_is_refused_in_one_line(dataset: TransitionDataset) -> None:
    bc, ac = trained("bc", dataset, 1), trained("ac", dataset, 1)
    wide = build("bc", policy=PolicyConfig(hidden=[32, 16]))
    for agent, state in (
        (bc, ac.training_state()),
        (ac, bc.training_state()),
        (wide, bc.training_state()),
        (bc, {}),
        (bc, {"modules": bc.state_dict(), "optimizers": {}}),
    ):
        with pytest.raises(InputError, match=f"does not fit agent {agent.config.name}") as error:
            agent.load_training_state(state)
        assert "\n" not in str(error.value)


# Acting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *product(AGENTS, [{}, {"best_of": 1}]),
        *((name, {"steps": 3}) for name in AGENTS if name != "ac"),  # whose actor has one step
    ],
)
def test_actions_have_the_right_shape_and_stay_inside_the_bounds(
    name: str, count: int, options: dict[str, Any], dataset: TransitionDataset
) -> None:
    agent = build(name)
    agent.prepare(dataset)
    with torch.no_grad():
        for p in agent.average_policy.parameters():
            p.mul_(50)
    observations = np.random.default_rng(0).normal(3, 5, size=(count, OBS_DIM)).astype(np.float32)
    actions = agent.act(observations, **options)
    assert actions.shape == (count, ACTION_DIM)
    assert actions.dtype == np.float32
    assert (actions >= SPACES.action_low).all()
    assert (actions <= SPACES.action_high).all()


def test_acting_draws_from_its_generator_alone(dataset: TransitionDataset) -> None:
    agent = trained("bc", dataset, 2)
    observations = dataset.observations[:6].numpy()
    before = torch.get_rng_state()
    first = agent.act(observations, mode_of=1, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = agent.act(observations, mode_of=1, generator=torch.Generator().manual_seed(5))
    other = agent.act(observations, mode_of=1, generator=torch.Generator().manual_seed(6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(1).all()


def test_the_average_acts_and_not_the_policy(dataset: TransitionDataset) -> None:
    agent = trained("bc", dataset, 3, ema_decay=0.9)
    observations = dataset.observations[:6]
    generator = torch.Generator().manual_seed(1)
    acted = agent.act(observations.numpy(), mode_of=1, generator=generator)
    for policy, equal in ((agent.average_policy, True), (agent.policy, False)):
        with torch.inference_mode():
            sampled = policy(observations, generator=torch.Generator().manual_seed(1))
        assert np.array_equal(acted, sampled.numpy()) == equal


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_steps_are_calls_of_the_network(steps: int, dataset: TransitionDataset) -> None:
    agent = trained("bc", dataset, 1)
    calls: list[Tensor] = []
    agent.average_policy.network.register_forward_pre_hook(lambda _, args: calls.append(args[0]))
    agent.act(dataset.observations[:6].numpy(), steps=steps, mode_of=1)
    assert [len(x) for x in calls] == [6] * steps


def test_the_mode_of_its_samples_acts(dataset: TransitionDataset) -> None:
    """Of as many as the configuration says, unless a call says otherwise."""
    agent = trained("bc", dataset, 1, mode_of=32)
    observations = dataset.observations[:6]
    for given, samples in ((None, agent.config.mode_of), (5, 5)):
        acted = agent.act(observations.numpy(), mode_of=given)
        mode = agent.average_policy.mode(observations, samples)
        np.testing.assert_array_equal(acted, mode.numpy())


# Speed ----------------------------------------------------------------------------------------

# Each of these makes the host wait for the device.
WAITING = ("item", "tolist", "numpy", "cpu", "nonzero", "__array__")
CONVERSIONS = ("__bool__", "__float__", "__int__", "__index__")


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """While entered, whatever waits for the device is an error."""

    def refuse(name: str) -> Any:
        def refused(self: Tensor, *args: Any, **kwargs: Any) -> None:
            raise AssertionError(f"Tensor.{name} waits for the device")

        return refused

    with pytest.MonkeyPatch.context() as patch:
        for name in (*WAITING, *CONVERSIONS):
            patch.setattr(Tensor, name, refuse(name))
        yield


def configurations() -> list[Any]:
    """Every agent as it comes, and with whatever changes the way through its update."""
    plain = [pytest.param(name, {}, id=name) for name in AGENTS]
    clipped = [pytest.param(name, {"max_grad_norm": 1.0}, id=f"{name}-clipped") for name in AGENTS]
    ct = {"policy": PolicyConfig(hidden=[16], loss="ct", steps=2)}
    target = [pytest.param(name, ct, id=f"{name}-ct") for name in CONSISTENCY]
    options = {"max_q_backup": True, "normalize_target": True}
    published = PolicyConfig(
        hidden=[16],
        activation="mish",
        embedding="sinusoidal",
        bound="clamp",
        parameterization="ding_jin",
        normalize_obs=False,
        loss="ct",
        loss_options={"weight": "inverse", "fixed_decay": 0.999},
        levels=[80.0, 2.0],
    )
    ding_jin = {"policy": published, "max_grad_norm": 1.0, "critic_layer_norm": False}
    best = pytest.param("diffusion_ql", {"max_q_backup": True}, id="diffusion_ql-max_q_backup")
    others = [
        pytest.param("ac_ding_jin", options, id="ac_ding_jin-options"),
        pytest.param("ac_ding_jin", ding_jin, id="ac_ding_jin-published"),
        pytest.param("iql", {"cosine_decay": True}, id="iql-cosine_decay"),
    ]
    return [*plain, *clipped, *target, *others, best]


@pytest.mark.parametrize(("name", "options"), configurations())
def test_an_update_never_waits_for_the_device(
    name: str, options: dict[str, Any], dataset: TransitionDataset
) -> None:
    agent = build(name, **options)
    agent.prepare(dataset)
    with no_waiting():
        for _ in range(2):  # the second one has the optimiser's state
            metrics = agent.update(dataset.sample(16))
    assert metrics
    assert all(
        isinstance(m, Tensor) and m.shape == () and not m.requires_grad for m in metrics.values()
    )


@pytest.mark.parametrize("name", [*WAITING, "float", "bool", "int"])
def test_the_guard_against_waiting_bites(name: str) -> None:
    wait = operator.methodcaller(name) if name in WAITING else getattr(builtins, name)
    with no_waiting(), pytest.raises(AssertionError, match="waits for the device"):
        wait(torch.ones(()))


# Configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 0.0), ("max_grad_norm", -1.0), ("ema_decay", 1.0), ("ema_decay", -0.1)],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        AgentConfig(**{key: value})


@pytest.mark.parametrize("name", AGENTS)
def test_gradients_are_clipped_network_by_network(name: str, dataset: TransitionDataset) -> None:
    limit = 1e-3
    agent = trained(name, dataset, 1, max_grad_norm=limit)
    for optimizer in agent.optimizers.values():
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        assert float(norm) == pytest.approx(limit, rel=1e-2)


@pytest.mark.parametrize("name", AGENTS)
def test_every_learning_rate_falls_along_one_cosine(name: str, dataset: TransitionDataset) -> None:
    agent = build(name, learning_rate=1e-2, cosine_decay=True)
    data = agent.prepare(dataset)
    learned = "clone" if name == "ac" else "policy"
    assert agent.learning_rates.keys() == agent.optimizers.keys()
    assert agent.learning_rates[learned] == 1e-2
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, TOTAL, eta_min=0.01)

    def shares() -> list[float]:
        return [
            float(optimizer.param_groups[0]["lr"]) / agent.learning_rates[key]
            for key, optimizer in agent.optimizers.items()
        ]

    for _ in range(TOTAL + 1):
        agent.update(data.sample(32))
        assert shares() == pytest.approx([schedule.get_last_lr()[0]] * len(shares()), rel=1e-4)
        theirs.step()
        schedule.step()
    agent.update(data.sample(32))  # beyond the training, as in an environment
    assert shares() == pytest.approx([0.01] * len(shares()))


@pytest.mark.parametrize(
    ("step", "cosine_decay", "rate"),
    [(0, True, 1e-2), (TOTAL // 2, True, 5.05e-3), (TOTAL, True, 1e-4), (TOTAL, False, 1e-2)],
)
def test_the_policy_moves_at_its_learning_rate(
    step: int, cosine_decay: bool, rate: float, dataset: TransitionDataset
) -> None:
    agent = build("bc", learning_rate=1e-2, cosine_decay=cosine_decay, weight_decay=0.0)
    data = agent.prepare(dataset)
    agent.step.fill_(step)
    before = nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
    agent.update(data.sample(32))
    after = nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
    # the first step of Adam is the learning rate, whatever the gradient
    assert float((after - before).abs().max()) == pytest.approx(rate, rel=1e-2)


def shrunk(agent: Agent, name: str, module: nn.Module, updates: int) -> float:
    """What share of a network's weights so many updates without gradients leave."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    before = nn.utils.parameters_to_vector(parameters).detach()
    for _ in range(updates):
        agent.minimize(name, lambda: (sum((0 * p).sum() for p in parameters), {}))
        agent.step += 1
    after = nn.utils.parameters_to_vector(parameters).detach()
    share = float(after.norm() / before.norm())
    torch.testing.assert_close(after, share * before, rtol=1e-3, atol=1e-6)
    return share


@pytest.mark.parametrize("learning_rate", [1e-4, 1e-2])
@pytest.mark.parametrize(
    ("cosine_decay", "total", "tolerance"),
    [(False, 1, 1e-5), (False, 7, 1e-5), (False, 1000, 2e-4), (True, 1, 1e-5), (True, 1000, 3e-3)],
)
def test_weights_decay_over_the_whole_training(
    learning_rate: float, cosine_decay: bool, total: int, tolerance: float
) -> None:
    """However long that is, and whatever the rate: e^−2.5 of them would be left."""
    options = {"learning_rate": learning_rate, "cosine_decay": cosine_decay}
    agent = build("bc", total=total, weight_decay=2.5, **options)
    left = shrunk(agent, "policy", agent.policy.network, total)
    assert left == pytest.approx(np.exp(-2.5), rel=tolerance)


@pytest.mark.parametrize("name", AGENTS)
def test_weights_decay_where_data_is_imitated_alone(name: str) -> None:
    agent = build(name, weight_decay=2.5)
    learned = "clone" if name == "ac" else "policy"
    for key in agent.optimizers:
        left = shrunk(agent, key, getattr(agent, key), 3)
        assert (left < 0.9) == (key == learned), key


def test_a_run_made_longer_decays_by_its_new_length(dataset: TransitionDataset) -> None:
    short, long = trained("bc", dataset, TOTAL, weight_decay=2.5), build("bc", total=10 * TOTAL)
    long.load_training_state(short.training_state())
    decays = [float(a.optimizers["policy"].param_groups[0]["weight_decay"]) for a in (short, long)]
    assert decays[0] / decays[1] == pytest.approx(10, rel=0.15)


def test_a_copy_of_an_agent_is_its_own(dataset: TransitionDataset) -> None:
    agent = trained("ac", dataset, 1)
    before = tensors_of(agent)
    twin = copy.deepcopy(agent)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert_same(dict(agent.state_dict()), before)
