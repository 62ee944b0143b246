"""Online transitions over n steps, at every moment, against a plain walk; and their batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmpolicy.datasets import TransitionDataset, n_step
from cmpolicy.datasets.n_step_returns import with_returns
from cmpolicy.datasets.replay_buffer import ReplayBuffer
from cmpolicy.errors import InputError
from cmpolicy.training.checkpoint import load_state, save_state

OBS_DIM, ACTION_DIM, GAMMA = 3, 2, 0.9


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def offline(count: int = 40) -> TransitionDataset:
    """Steps whose observations are all −1, so that one knows them."""
    return TransitionDataset.from_arrays(
        np.full((count, OBS_DIM), -1.0),
        np.zeros((count, ACTION_DIM)),
        np.zeros(count),
        np.arange(count) % 5 == 4,
        next_observations=np.full((count, OBS_DIM), -1.0),
    )


def walk() -> list[tuple]:
    """(s, a, r, s', terminal, end): episodes of 1, 4, 7 and 3 steps, every other one cut."""
    rng, steps = np.random.default_rng(0), []
    for number, length in enumerate([1, 4, 7, 3]):
        states = rng.uniform(1, 2, size=(length + 1, OBS_DIM)).astype(np.float32)
        for t in range(length):
            end = t == length - 1
            action = rng.uniform(-1, 1, size=ACTION_DIM).astype(np.float32)
            terminal = end and number % 2 == 0
            steps.append((states[t], action, rng.normal(), states[t + 1], terminal, end))
    return steps


def add(buffer: ReplayBuffer, step: tuple) -> None:
    observation, action, reward, following, terminal, end = step
    tensors = [torch.from_numpy(x) for x in (observation, action, following)]
    buffer.add(*tensors[:2], torch.tensor(reward), tensors[2], terminal, end)


def by_hand(steps: list[tuple], t: int, n: int) -> tuple[float, np.ndarray, float]:
    """Reward, last observation and what multiplies Q there, for the target from step t."""
    total, factor = 0.0, 1.0
    for last in steps[t : t + n]:
        total += factor * last[2]
        factor *= GAMMA
        if last[5]:
            break
    return total, last[3], factor * (1 - last[4])


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_at_every_moment_targets_look_as_far_as_is_known(n: int) -> None:
    steps, buffer = walk(), ReplayBuffer(offline(), 20, n, GAMMA)
    for known in range(1, len(steps) + 1):
        add(buffer, steps[known - 1])
        assert buffer.size == known
        online = buffer.online
        for t in range(known):
            reward, following, weight = by_hand(steps[:known], t, n)
            assert float(online.rewards[t]) == pytest.approx(reward, abs=1e-5)
            np.testing.assert_array_equal(online.next_observations[t], following)
            assert GAMMA * (1 - float(online.terminals[t])) == pytest.approx(weight, abs=1e-5)
            np.testing.assert_array_equal(online.observations[t], steps[t][0])
            np.testing.assert_array_equal(online.actions[t], steps[t][1])


@pytest.mark.parametrize("n", [1, 3, 20])
def test_the_same_steps_recorded_give_the_same_transitions(n: int) -> None:
    steps, buffer = walk(), ReplayBuffer(offline(), 15, n, GAMMA)
    for step in steps:
        add(buffer, step)
    obs, actions, rewards, following, terminals, ends = (
        np.array(column) for column in zip(*steps, strict=True)
    )
    episodes = np.split(np.arange(15), np.flatnonzero(ends)[:-1] + 1)
    recorded = TransitionDataset.from_episodes(
        type(
            "Episode",
            (),
            {
                "observations": np.concatenate((obs[e], following[e][-1:])),
                "actions": actions[e],
                "rewards": rewards[e],
                "terminations": terminals[e],
            },
        )
        for e in episodes
    )
    for mine, theirs in zip(buffer.online, n_step(recorded, n, GAMMA).transitions, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("batch", "online"), [(8, 4), (9, 4), (1, 0)])
def test_half_of_a_batch_is_online_as_soon_as_there_is_something(batch: int, online: int) -> None:
    buffer = ReplayBuffer(offline(), 20, 1, GAMMA)
    assert (buffer.sample(batch).observations == -1).all()
    seen = set()
    for step in walk():
        add(buffer, step)
    for _ in range(50):
        drawn = buffer.sample(batch)
        assert {len(column) for column in drawn} == {batch}
        fresh = drawn.observations[:, 0] > 0
        assert int(fresh.sum()) == online
        seen |= set(drawn.rewards[fresh].tolist())
    assert len(seen) == (15 if online else 0)  # and none of the empty rows


def test_returns_are_known_of_the_data_alone() -> None:
    data = with_returns(offline().replace(rewards=torch.ones(40)), GAMMA)
    buffer = ReplayBuffer(data, 20, 1, GAMMA)
    for step in walk():
        add(buffer, step)
    drawn = buffer.sample(200)
    fresh = drawn.observations[:, 0] > 0
    assert torch.equal(drawn.returns[fresh], drawn.rewards[fresh])
    assert torch.equal(drawn.final_observations[fresh], drawn.next_observations[fresh])
    assert torch.equal(drawn.final_terminals[fresh], drawn.terminals[fresh])
    expected = torch.tensor([sum(GAMMA**i for i in range(k)) for k in (1, 2, 3, 4, 5)])
    torch.testing.assert_close(drawn.returns[~fresh].unique(), expected)


def weighted(temperature: float = 0.5) -> TransitionDataset:
    """Two steps that return 0 and two that return 1, whose actions are 0 and 1."""
    data = TransitionDataset.from_arrays(
        np.full((5, OBS_DIM), -1.0),
        np.array([[0.0], [0.0], [1.0], [1.0], [0.0]]).repeat(ACTION_DIM, axis=1),
        np.array([0.0, 0.0, 0.5, 0.5, 0.0]),
        np.array([False, True, False, True, False]),  # the last step is no transition
    )
    return data.weighted_by_return(temperature)


def add_episode(buffer: ReplayBuffer, action: float, rewards: list[float], *, end: bool = True):
    """Steps at observation 1 that all do the same."""
    row = torch.ones(OBS_DIM)
    for i, reward in enumerate(rewards):
        last = end and i == len(rewards) - 1
        buffer.add(row, torch.full((ACTION_DIM,), action), torch.tensor(reward), row, last, last)


def imitated_online(buffer: ReplayBuffer, count: int = 40_000) -> dict[float, float]:
    """How often each action is imitated in the environment's half of a batch, which comes last."""
    actions, counts = (
        buffer.sample(count).imitated_actions[-(count // 2) :, 0].unique(return_counts=True)
    )
    return dict(zip(actions.tolist(), (counts / (count // 2)).tolist(), strict=True))


def test_good_episodes_of_the_environment_are_imitated_more_often_on_the_datas_scale() -> None:
    buffer = ReplayBuffer(weighted(), 20, 3, GAMMA)
    add_episode(buffer, 2.0, [0.25, 0.25])  # half as good as the data's best
    add_episode(buffer, 3.0, [0.5, 0.5, 0.5])  # better than that
    weights = {2.0: 2 * np.exp(0.5 / 0.5), 3.0: 3 * np.exp(1.5 / 0.5)}
    found = imitated_online(buffer)
    assert set(found) == set(weights)
    for action, weight in weights.items():
        assert found[action] == pytest.approx(weight / sum(weights.values()), abs=0.01)
    drawn = buffer.sample(40_000)
    assert set(drawn.actions[20_000:, 0].tolist()) == {2.0, 3.0}
    share = (drawn.actions[20_000:, 0] == 2).float().mean()
    assert float(share) == pytest.approx(2 / 5, abs=0.01)  # critics see all alike


def test_an_episode_is_imitated_when_it_has_ended() -> None:
    buffer = ReplayBuffer(weighted(0.01), 20, 3, GAMMA)
    add_episode(buffer, 2.0, [9.0, 9.0], end=False)
    assert set(imitated_online(buffer)) == {1.0}  # the data's best, nothing having ended
    add_episode(buffer, 2.0, [9.0])
    assert set(imitated_online(buffer)) == {2.0}
    add_episode(buffer, 3.0, [99.0], end=False)
    buffer.abandon_episode()
    add_episode(buffer, 4.0, [27.0])  # as good as the first, whatever the one before it gave
    assert imitated_online(buffer) == pytest.approx({2.0: 0.75, 4.0: 0.25}, abs=0.01)


def test_data_that_is_imitated_alike_leaves_the_environment_so() -> None:
    buffer = ReplayBuffer(offline(), 20, 3, GAMMA)
    add_episode(buffer, 2.0, [0.0])
    add_episode(buffer, 3.0, [9.0], end=False)
    drawn = buffer.sample(400)
    assert torch.equal(drawn.imitated_actions, drawn.actions)
    assert set(drawn.actions[200:, 0].tolist()) == {2.0, 3.0}


def test_a_full_buffer_says_so() -> None:
    buffer = ReplayBuffer(offline(), 2, 1, GAMMA)
    for step in walk()[:2]:
        add(buffer, step)
    with pytest.raises(ValueError, match="room for 2 steps"):
        add(buffer, walk()[2])


def test_it_is_restored_in_the_middle_of_an_episode(tmp_path) -> None:
    steps, whole, cut = walk(), *(ReplayBuffer(offline(), 15, 3, GAMMA) for _ in range(2))
    for step in steps[:8]:
        add(whole, step)
    save_state(tmp_path / "state", whole.training_state())
    cut.load_training_state(load_state(tmp_path / "state"))
    for buffer in (whole, cut):
        for step in steps[8:]:
            add(buffer, step)
    assert all(torch.equal(a, b) for a, b in zip(whole.online, cut.online, strict=True))
    assert (cut.size, cut.begin) == (whole.size, whole.begin)


@pytest.mark.parametrize("ended", [False, True])
def test_weights_are_restored_in_the_middle_of_an_episode(ended: bool, tmp_path) -> None:
    whole, cut = (ReplayBuffer(weighted(), 20, 3, GAMMA) for _ in range(2))
    if ended:
        add_episode(whole, 2.0, [0.2, 0.1])
    add_episode(whole, 3.0, [0.3], end=False)
    save_state(tmp_path / "state", whole.training_state())
    cut.load_training_state(load_state(tmp_path / "state"))
    for more in range(2):
        for buffer in (whole, cut):
            torch.manual_seed(1)
            add_episode(buffer, 3.0, [0.3] * more, end=True)
        torch.manual_seed(1)
        mine = whole.sample(50)
        torch.manual_seed(1)
        assert all(torch.equal(a, b) for a, b in zip(mine, cut.sample(50), strict=True))
    assert torch.equal(whole.exponents, cut.exponents)


def test_more_steps_than_there_is_room_for_are_refused(tmp_path) -> None:
    buffer = ReplayBuffer(offline(), 15, 3, GAMMA)
    for step in walk()[:8]:
        add(buffer, step)
    save_state(tmp_path / "state", buffer.training_state())
    with pytest.raises(InputError, match=r"given 8 steps, more than online\.steps=5"):
        ReplayBuffer(offline(), 5, 3, GAMMA).load_training_state(load_state(tmp_path / "state"))
