"""The data command: what is listed, shown, converted and recorded, and what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

from cmpolicy import ConsistencyPolicy, data
from cmpolicy.datasets import TransitionDataset, load_hdf5, load_minari
from cmpolicy.datasets.minari_source import download_minari
from cmpolicy.datasets.resolve import SAMPLES
from cmpolicy.datasets.writing import About, write_dataset
from cmpolicy.rl.collect import record_episodes
from cmpolicy.rl.environments import Environment
from cmpolicy.train import train


@pytest.fixture
def call(command: Any, places: Any, capsys: Any) -> Any:
    """call(*arguments): (exit code, stdout, stderr) in a world without data and network."""

    def called(*arguments: str) -> tuple[int, str, str]:
        read: list[str] = []

        def keep(*said: Any, **options: Any) -> None:
            plain(*said, **options) if options else read.append(" ".join(map(str, said)))

        with pytest.MonkeyPatch.context() as patch:
            plain = print
            patch.setattr("builtins.print", keep)
            code, said = command(data, *arguments)
        return code, "\n".join(read), said

    return called


@pytest.fixture
def hopper(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "policy.safetensors"
    ConsistencyPolicy(11, 3, hidden=[8]).save(path)
    return path


def equal_transitions(left: TransitionDataset, right: TransitionDataset) -> None:
    """All is equal but the observations after terminal steps, which nothing reads."""
    for name in ("observations", "actions", "rewards", "terminals", "episode_ends"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    goes_on = left.terminals == 0
    assert torch.equal(left.next_observations[goes_on], right.next_observations[goes_on])


def test_list_names_every_task_and_what_is_on_disk(call, places, recorded_file):
    d4rl, _ = places
    (d4rl / "walker2d_medium-v2.hdf5").write_bytes(recorded_file.read_bytes())
    (d4rl / "mine.hdf5").write_bytes(recorded_file.read_bytes())
    code, said, _ = call("list")
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line}
    assert lines["hopper-medium"][:2] == ["sample", "2.5"]
    assert lines["hopper-medium"][-1] == "NO"
    assert lines["hopper-expert"][:2] == ["-", "(152)"]
    assert lines["walker2d-medium"][0] == "d4rl"
    assert lines["walker2d-medium"][-1] == "NO"  # not D4RL's by its size
    assert lines["mine"][0] == "file"
    assert {"antmaze-umaze", "kitchen-mixed", "pen-human"} <= lines.keys()


def test_list_asks_minaris_server(call, monkeypatch):
    assert call("list", "remote=true")[0] == 2  # nobody answers
    monkeypatch.setattr("cmpolicy.datasets.minari_source.unreachable", lambda url: None)
    remote = {"mujoco/ant/simple-v0": {"dataset_size": 12.5}}
    monkeypatch.setattr(minari, "list_remote_datasets", lambda: remote)
    assert "mujoco/ant/simple-v0" in call("list", "remote=true")[1]


def test_show_says_what_is_in_the_sample_and_that_scores_do_not_compare(call):
    code, said, _ = call("show", "dataset=hopper-medium")
    assert code == 0
    assert "hopper-medium-v2, not on disk, 153 MB to download" in said
    assert "mean normalized score 50.6" in said
    assert "do NOT compare" in said
    assert "environment: Hopper-v4" in said


def test_show_of_what_is_not_on_disk_says_how_to_fetch_it(call):
    code, said, _ = call("show", "dataset=walker2d-medium-v2")
    assert (code, said.splitlines()[-1]) == (
        0, "fetch it: python -m cmpolicy.data download dataset=walker2d-medium-v2"
    )  # fmt: skip


def test_download_gives_up_in_one_line_and_finds_what_is_there(call, places):
    code, _, said = call("download", "dataset=walker2d-medium-v2")
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "cannot be reached" in said
    file = places[0] / "walker2d-medium-v2.hdf5"
    file.touch()
    assert call("download", "dataset=walker2d-medium-v2")[1].endswith(str(file))


@pytest.mark.parametrize("with_next", [True, False])
def test_a_file_goes_to_minari_and_back_without_a_change(call, recorded_file, tmp_path, with_next):
    if not with_next:
        with h5py.File(recorded_file, "a") as file:
            del file["next_observations"]
    assert call("convert", f"dataset={recorded_file}", "out=mine/toy-v0")[0] == 0
    back = tmp_path / "back.hdf5"
    assert call("convert", "dataset=mine/toy-v0", f"out={back}")[0] == 0
    first, second, third = load_hdf5(recorded_file), load_minari("mine/toy-v0"), load_hdf5(back)
    equal_transitions(first, second)
    equal_transitions(second, third)
    with h5py.File(back) as file:
        assert json.loads(file.attrs["provenance"])["converted"]["dataset_id"] == "mine/toy-v0"


def test_the_observation_after_a_terminal_is_not_the_next_episodes_first(call):
    call("convert", "dataset=hopper-medium", "out=mine/hopper/medium-v0")
    dataset = minari.load_dataset("mine/hopper/medium-v0")
    episodes = list(dataset.iterate_episodes())
    ended = [e for e in episodes if e.terminations[-1]]
    assert len(episodes) == 95
    assert all(np.array_equal(e.observations[-1], e.observations[-2]) for e in ended)
    assert dataset.recover_environment().spec.id == "Hopper-v4"


def test_a_collected_minari_dataset_loads_with_plain_minari_and_trains(
    call, hopper, tmp_path, compose, tiny
):
    arguments = [f"policy={hopper}", "env=Hopper-v5", "episodes=3", "seed=7"]
    assert call("collect", *arguments, "out=mine/hopper/random-v0")[0] == 0
    dataset = minari.load_dataset("mine/hopper/random-v0")
    assert dataset.total_episodes == 3
    assert "mine/hopper/random-v0" in minari.list_local_datasets()
    assert dataset.recover_environment().spec.id == "Hopper-v5"
    metadata = dataset.storage.metadata
    episode = dataset[0]
    assert len(episode.observations) == len(episode.actions) + 1
    assert bool(episode.terminations[-1]) != bool(episode.truncations[-1])
    score = minari.get_normalized_score(dataset, np.array([3234.3, -20.272305]))
    assert score == pytest.approx([1.0, 0.0])
    collected = metadata["provenance"]["collected"]
    assert (collected["env"], collected["seed"], collected["episodes"]) == ("Hopper-v5", 7, 3)
    run = tmp_path / "run"
    train(
        compose(*tiny[2:], "env=custom", "dataset.path=mine/hopper/random-v0", "agent=bc",
                f"run_dir={run}"), []
    )  # fmt: skip
    results = json.loads((run / "results.json").read_text())
    assert results["dataset"]["dataset_id"] == "mine/hopper/random-v0"
    assert results["environment"]["id"] == "Hopper-v5"
    assert results["dataset"]["comparable"] is False


def test_what_is_collected_is_what_the_environment_did(call, hopper, tmp_path):
    """Replayed from its seed, each episode gives the recorded rewards and observations."""
    path = tmp_path / "out.hdf5"
    arguments = [f"policy={hopper}", "env=Hopper-v5", "episodes=2", "seed=3"]
    assert call("collect", *arguments, f"out={path}")[0] == 0
    recorded = load_hdf5(path)
    assert recorded.info.env_id == "Hopper-v5"
    env = gymnasium.make("Hopper-v5")
    row = 0
    for seed in (3, 4):
        observation, over = env.reset(seed=seed)[0], False
        while not over:
            assert np.float32(observation) == pytest.approx(recorded.observations[row].numpy())
            action = recorded.actions[row].numpy()
            observation, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
            assert float(recorded.rewards[row]) == pytest.approx(reward, rel=1e-6)
            assert bool(recorded.terminals[row]) == terminated
            assert bool(recorded.episode_ends[row]) == over
            row += 1
    assert row == len(recorded)


def test_a_run_collects_in_its_own_environment(call, tmp_path, compose, tiny):
    run = tmp_path / "run"
    train(compose(*tiny, "agent=bc", f"run_dir={run}"), [])
    results = (run / "results.json").read_text()
    (run / "results.json").write_text(results.replace('"Hopper-v4"', '"mine:Hopper-v4"'))
    code, _, said = call("collect", f"run={run}", "out=mine/bc-v0")
    assert code == 2
    assert "whose module would be imported" in said
    assert said.rstrip().endswith(" env=mine:Hopper-v4")
    (run / "results.json").write_text(results)
    assert call("collect", f"run={run}", "episodes=2", "out=mine/bc-v0")[0] == 0
    metadata = minari.load_dataset("mine/bc-v0").storage.metadata
    assert metadata["algorithm_name"] == "bc of cmpolicy, 6 updates on hopper-medium"
    assert metadata["provenance"]["collected"]["env"] == "Hopper-v4"
    assert metadata["ref_max_score"] == 3234.3


class Goal(gymnasium.Env):
    observation_space = Dict(
        [("observation", Box(-9, 9, (2,))), ("goal", Dict({"b": Box(-1, 1, (1,))}))]
    )
    action_space = Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return {"observation": np.zeros(2, np.float32), "goal": {"b": np.ones(1, np.float32)}}, {}

    def step(self, action):
        self.steps += 1
        observation = np.full(2, self.steps, np.float32)
        after = {"observation": observation, "goal": {"b": np.ones(1, np.float32)}}
        return after, 1.0, False, self.steps == 4, {}


def test_dictionaries_of_observations_are_written_as_such(places, monkeypatch):
    gymnasium.register("DataGoal-v0", Goal)
    try:
        env = Environment("DataGoal-v0", observation_keys=["observation", "goal"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium's checks of the environment above
            dataset, about = record_episodes(
                lambda obs: np.zeros((len(obs), 1), np.float32), env, 2, 0
            )
            write_dataset(dataset, "mine/goal-v0", about)
        again = load_minari("mine/goal-v0")
        episode = minari.load_dataset("mine/goal-v0")[1]
    finally:
        del gymnasium.registry["DataGoal-v0"]
    assert again.info.observation_keys == ["observation", "goal/b"]
    equal_transitions(dataset, again)
    assert episode.observations["observation"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.truncations.tolist() == [False, False, False, True]


def test_a_write_that_fails_leaves_nothing(places, monkeypatch):
    dataset = load_hdf5(SAMPLES["hopper-medium"])
    monkeypatch.setattr("cmpolicy.datasets.writing._episodes", lambda dataset: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_dataset(dataset, "mine/hopper-v0", About([-1] * 3, [1] * 3))
    assert [path.name for path in places[1].rglob("*")] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shov"], "there is no shov (did you mean show?); choose one of: list, show,"),
        (["show", "hopper-medium"], "'hopper-medium' is not key=value"),
        (["show", "datasets=x"], "there is no key datasets (did you mean dataset?)"),
        (["show"], "dataset is missing; give dataset=VALUE"),
        (["show", "dataset=nothing"], "there is no dataset 'nothing'"),
        (["convert", "dataset=hopper-medium", "out=mine"], "neither FILE.hdf5 nor a Minari id"),
        (["convert", "dataset=hopper-medium", "out=mujoco/x-v0"], "published datasets"),
        (["convert", "dataset=walker2d-medium", "out=x.hdf5"], "is not on disk; fetch it"),
        (["collect", "out=x.hdf5"], "give run=RUN, or policy=FILE with env=ID"),
        (["collect", "out=x.hdf5", "policy=p"], "give env=ID"),
        (["collect", "out=x.hdf5", "policy=p", "env=Hopper-v5"], "no policy at p"),
        (["collect", "out=x.hdf5", "run=none"], "none is not a run"),
        (["collect", "out=x.hdf5", "run=r", "episodes=ten"], "episodes: Value 'ten'"),
        (["collect", "out=x.hdf5", "run=r", "episodes=0"], "episodes must be at least 1"),
    ],
)
def test_wrong_input_is_one_line(call, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, errors = call(*arguments)
    assert code == 2
    last = errors.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert not (tmp_path / "x.hdf5").exists()


def test_what_is_there_is_not_overwritten(call, tmp_path):
    out = tmp_path / "mine.hdf5"
    out.write_text("precious")
    code, _, said = call("convert", "dataset=hopper-medium", f"out={out}")
    assert code == 2
    assert "is there already" in said
    assert out.read_text() == "precious"


def test_help_explains_every_key(call):
    code, said, _ = call("collect", "--help")
    assert code == 0
    assert "  episodes: how many. [100]" in said
    assert "  run: a run directory; or give policy and env." in said
    for verb in data.VERBS.values():
        for name in verb.config.__dataclass_fields__:
            assert f"  {name}: " in call("--help")[1]


@pytest.fixture
def recorded_file(tmp_path: Path) -> Path:
    """Five episodes: terminals, timeouts, one of a single step; a file of D4RL's layout."""
    rng = np.random.default_rng(0)
    last = np.cumsum([7, 12, 1, 9, 5]) - 1
    steps = int(last[-1]) + 1
    terminals, timeouts = np.zeros(steps, bool), np.zeros(steps, bool)
    terminals[last], timeouts[last] = (True, False, True, False, True), (0, 1, 0, 1, 0)
    path = tmp_path / "recorded.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = observations = rng.normal(size=(steps, 3)).astype(np.float32)
        nexts = np.roll(observations, -1, 0)
        nexts[last] = rng.normal(size=(5, 3))
        file["next_observations"] = nexts
        file["actions"] = rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32)
        file["rewards"] = rng.normal(size=steps).astype(np.float32)
        file["terminals"], file["timeouts"] = terminals, timeouts
    return path


def test_downloads_are_asked_of_minari_by_id(call, monkeypatch, places):
    monkeypatch.setattr("cmpolicy.datasets.minari_source.unreachable", lambda url: None)
    asked: list[str] = []
    monkeypatch.setattr(minari, "download_dataset", asked.append)
    assert call("download", "dataset=mujoco/ant/simple-v0")[0] == 0
    assert asked == ["mujoco/ant/simple-v0"]
    assert download_minari("a/b-v0") == places[1] / "a/b-v0"
