"""The benchmark of offline RL: its plan, its data, its rows, its table, and a run of it."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from cmpolicy.rl.tasks import TASKS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

# Someone else's repository, of the interface that the adapter expects: an agent that samples
# noise, draws a batch an update, and tells its curriculum's position.
THEIR_TABLE = """
consistency_hyperparameters = {
    'hopper-medium-expert-v2': {'lr': 3e-4, 'eta': 1.0, 'T': 2, 'q_norm': False,
        'scale_consis_loss': True, 'max_q_backup': False, 'reward_tune': 'no', 'eval_freq': 50,
        'num_epochs': 2000, 'gn': 5.0, 'top_k': 5},
}
import a_package_that_nobody_has
"""
THEIR_AGENT = """
import torch

class Consistency_QL:
    def __init__(self, state_dim, action_dim, max_action, device, **settings):
        assert settings['eta'] == 1.0 and settings['n_timesteps'] == 2 and max_action == 1.0
        self.device, self.action_dim, self.updates = device, action_dim, 0
        self.actor = self.critic_target = self

    def train(self, replay_buffer, iterations, batch_size):
        for itr in range(iterations):
            state, action, next_state, reward, not_done = replay_buffer.sample(batch_size)
            assert state.shape == (batch_size, 11) and not_done.shape == (batch_size, 1)
            self.updates += 1

    def sample(self, state):
        return torch.rand(len(state), self.action_dim) * 2 - 1

    def q_min(self, state, action):
        return action.sum(1, keepdim=True)

    def save_model(self, folder):
        open(folder + '/updates', 'w').write(str(self.updates))

    def load_model(self, folder):
        self.updates = int(open(folder + '/updates').read())
"""


@pytest.fixture
def their_repository(tmp_path: Path) -> Path:
    repository = tmp_path / "theirs"
    (repository / "agents").mkdir(parents=True)
    (repository / "offline.py").write_text(THEIR_TABLE)
    (repository / "agents" / "ql_consistency.py").write_text(THEIR_AGENT)
    return repository


def row(rows: Any, name: str, agent: str, seed: int, score: float, **changes: Any) -> Any:
    fields = {
        "last": score + 1, "last_error": 1.0, "best": score + 20, "best_error": 2.0,
        "best_step": 40, "data_mean": 48.0, "updates": 50, "updates_per_second": 54.4,
        "wall_seconds": 90.0, "curve": f"10:{score / 2:.2f} 20:{score:.2f}",
        "dataset": "x (file)", "comparable": False, "transitions": 1000,
        "environment": "Hopper-v5", "versions": "torch=2.13.0",
        "machine": "m (family 25), 2 cores; cpu",
        "date": "2026-11-20T08:00:00+00:00",
    }  # fmt: skip
    return rows.Row(name, agent, seed, score, **{**fields, **changes})


# The whole of it ------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_come_one_by_one_and_what_failed_is_missing(
    folder: Path, their_repository: Path, tmp_path: Path, load: Any, capfd: Any
) -> None:
    script, rows = load("offline_rl"), load("offline_rl_rows")
    agents = "agents=[bc,{broken: [agent=bc,agent.nonsense=1]},ding_jin_code]"
    arguments = [
        *(f"data={folder}", "protocol=quick", "sets=[hopper-medium-expert]", agents, "jobs=2"),
        *(f"out={tmp_path / 'out'}", f"runs={tmp_path / 'runs'}", f"ding_jin={their_repository}"),
    ]
    assert script.main(arguments) == 1
    said = capfd.readouterr()
    assert "3 rows wanted, 0 there, 3 runs to do" in said.out
    assert "broken 0 FAILED" in said.err
    assert "nonsense" in said.err
    table = tmp_path / "out" / "offline_rl_quick.csv"
    found = {r.agent: r for r in rows.read_rows(table)}
    assert found.keys() == {"bc", "ding_jin_code"}
    for r in found.values():
        assert [step for step, _ in r.points()] == [4, 8, 12, 16, 20]
        assert r.score == pytest.approx(np.mean([s for _, s in r.points()]), abs=0.01)
        assert (r.updates, r.transitions, r.environment) == (20, 234, "Hopper-v5")
    # the same data, environment and evaluation for ours and theirs
    assert found["bc"].data_mean == found["ding_jin_code"].data_mean
    text = table.with_suffix(".md").read_text()
    assert re.search(r"\| broken \| missing \| missing \| missing \|", text)
    Image.open(table.with_suffix(".png")).verify()

    # what is there is not trained again; what was interrupted goes on
    before = table.read_text()
    rows.write_rows(table, [found["ding_jin_code"]])
    (tmp_path / "runs" / "quick" / "hopper-medium-expert-bc-0" / "results.json").unlink()
    again = [a for a in arguments if a != agents]
    assert script.main([*again, "agents=[bc,ding_jin_code]"]) == 0
    said = capfd.readouterr()
    assert "2 rows wanted, 1 there, 1 runs to do" in said.out
    assert "hopper-medium-expert bc 0 goes on" in said.out
    resumed = {r.agent: r for r in rows.read_rows(table)}["bc"]
    assert math.isnan(resumed.wall_seconds)  # two sittings
    assert (resumed.curve, resumed.last) == (found["bc"].curve, found["bc"].last)
    assert table.read_text() != before


@pytest.mark.slow
def test_d4rls_files_are_found_by_their_names(
    places: tuple[Path, Path], write_hopper: Any, tmp_path: Path, load: Any, capfd: Any
) -> None:
    write_hopper(places[0] / "hopper_medium-v2.hdf5", 1)
    tiny = "[steps=4,batch_size=8,eval.every=2,eval.episodes=1,eval.final_episodes=1]"
    arguments = [
        *("protocol=d4rl", "sets=[hopper-medium]", "seeds=[4]", "agents=[bc]", f"train={tiny}"),
        *(f"out={tmp_path / 'out'}", f"runs={tmp_path / 'runs'}"),
    ]
    assert load("offline_rl").main(arguments) == 0, capfd.readouterr()
    (row,) = load("offline_rl_rows").read_rows(tmp_path / "out" / "offline_rl_d4rl.csv")
    assert row.dataset == "hopper-medium-v2 (d4rl)"
    assert (row.seed, row.updates, row.transitions) == (4, 4, 117)
    assert not row.comparable  # its checksum is not that of the published file


def test_instability_is_the_jump_beyond_the_noise_of_evaluations(load: Any) -> None:
    instability = load("offline_rl_rows").instability_of
    rng = np.random.default_rng(0)
    still = [(50 + 3 * z, 3.0) for z in rng.normal(size=2_000)]
    assert np.mean([instability(still[i : i + 10]) for i in range(0, 2_000, 10)]) < 2
    jumping = [(50.0 + 6 * (i % 2), 0.0) for i in range(20)]
    assert instability(jumping) == pytest.approx(6)
    assert instability([(0.0, 0.0)] * 5 + [(50.0, 0.0)] * 10) == 0  # ten evaluations count
    assert math.isnan(instability([(1.0, 0.0)]))


# The plan -------------------------------------------------------------------------------------


def test_the_protocols_evaluate_every_25th_of_the_training(load: Any) -> None:
    protocols = load("offline_rl").PROTOCOLS
    short, standard = protocols["short"], protocols["standard"]
    assert short.arguments() == [
        *("steps=50000", "batch_size=256", "eval.every=2000", "eval.episodes=10"),
        *("eval.final_episodes=20", "precision=fp32"),
    ]
    assert (short.seeds, standard.seeds) == (2, 3)
    assert standard.arguments() == [
        *("steps=200000", "batch_size=256", "eval.every=8000", "eval.episodes=20"),
        *("eval.final_episodes=100", "precision=auto"),
    ]
    assert len(set(standard.sets)) == 6
    assert len(set(protocols["d4rl"].sets) & TASKS.keys()) == 9


def options(load: Any, *arguments: str) -> Any:
    return load("offline_rl").read_options(list(arguments))


def test_commands_of_ours_and_theirs_say_the_same(load: Any, tmp_path: Path) -> None:
    script, rows = load("offline_rl"), load("offline_rl_rows")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "installed").touch()
    given = options(load, f"venv={venv}", f"runs={tmp_path}", "ding_jin=/theirs", "train=[a.b=1]")
    shared: dict[str, list[str]] = {}
    for agent in ("diffusion_ql", "d3rlpy_rebrac", "ding_jin_code"):
        overrides = ["env=pen-expert", *script.agent_overrides(agent, given)[agent]]
        run = script.plan([rows.Key("pen-expert", agent, 3)], overrides, given)
        shared[agent] = [a for a in run.command if not a.startswith(("run_dir=", "agent"))]
        assert f"agent.name={agent}" in run.command
        assert {"seed=3", "threads=1", "a.b=1", "env=pen-expert"} <= set(run.command)
    assert (
        "agent.eta=0.15"
        in script.plan([rows.Key("pen-expert", "diffusion_ql", 0)], [], given).command
    )
    assert shared["d3rlpy_rebrac"][0] == str(venv / "bin" / "python")
    assert "rebrac" in shared["d3rlpy_rebrac"]
    assert shared["ding_jin_code"][2:3] == ["/theirs"]
    assert shared["diffusion_ql"][:3] == [sys.executable, "-m", "cmpolicy.train"]


def test_agents_have_labels_and_overrides(load: Any) -> None:
    script = load("offline_rl")
    assert options(load, "agents=ac", "sets=pen-expert").agents == ["ac"]
    given = options(load, "agents={weak: [agent.radius=0], strong: [agent=ac, agent.radius=1]}")
    assert script.agent_overrides(given.agents[0], given) == {
        "weak": ["agent.radius=0", "agent.name=weak"],
        "strong": ["agent=ac", "agent.radius=1", "agent.name=strong"],
    }


def test_seeds_at_once_are_one_run_of_ours(load: Any, tmp_path: Path) -> None:
    script, rows = load("offline_rl"), load("offline_rl_rows")
    keys = [
        rows.Key(name, agent, seed)
        for seed in (1, 2)
        for name in ("hopper-medium", "pen-expert")
        for agent in ("ac", "d3rlpy_iql")
    ]
    assert script.grouped(keys, at_once=False) == [[key] for key in keys]
    together = script.grouped(keys, at_once=True)
    assert [[tuple(key) for key in run] for run in together] == [
        [("hopper-medium", "ac", 1), ("hopper-medium", "ac", 2)],
        [("hopper-medium", "d3rlpy_iql", 1)],
        [("pen-expert", "ac", 1), ("pen-expert", "ac", 2)],
        [("pen-expert", "d3rlpy_iql", 1)],
        [("hopper-medium", "d3rlpy_iql", 2)],
        [("pen-expert", "d3rlpy_iql", 2)],
    ]
    run = script.plan(together[0], [], options(load, f"runs={tmp_path}"))
    assert "seeds=[1,2]" in run.command
    assert run.directory == tmp_path / "standard" / "hopper-medium-ac-1-2"


@pytest.mark.slow
def test_seeds_at_once_are_a_row_each(folder: Path, tmp_path: Path, load: Any) -> None:
    script, rows = load("offline_rl"), load("offline_rl_rows")
    arguments = ["protocol=quick", "sets=[hopper-medium]", "agents=[bc]", "seeds=[3,1]"]
    places = [f"data={folder}", f"out={tmp_path / 'out'}", f"runs={tmp_path / 'runs'}"]
    assert script.main([*arguments, *places, "at_once=true"]) == 0
    table = tmp_path / "out" / "offline_rl_quick.csv"
    three, one = rows.read_rows(table)
    assert (three.seed, one.seed) == (3, 1)
    assert three.curve != one.curve
    assert three.wall_seconds == one.wall_seconds > 0
    assert "2 seeds at once" in one.machine
    own = json.loads((tmp_path / "runs/quick/hopper-medium-bc-3-1/seed-1/results.json").read_text())
    assert one.last == own["last"]["normalized_score"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["jods=2"], "unknown option 'jods', expected one of agents"),
        (["protocol=long"], "unknown protocol 'long', expected one of short"),
        (["agents=[ding_jin_code]", "sets=[]"], "give ding_jin=PATH"),
        (["sets=[hopper-superb]", "agents=[bc]"], "no set 'hopper-superb'"),
        (["agents={strong: agent.tau=1}"], "{label: [overrides]}, got {'strong': 'agent.tau=1'}"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    load: Any, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit, match=re.escape(reason)):
        load("offline_rl").main([*arguments, f"out={tmp_path}"])


# Data -----------------------------------------------------------------------------------------


def test_medium_expert_is_medium_followed_by_expert(
    folder: Path, tmp_path: Path, load: Any
) -> None:
    data = load("offline_rl_data")
    path = data.find_data("hopper-medium-expert", None, folder, tmp_path / "cache")
    halves = [h5py.File(folder / f"hopper-{half}.hdf5") for half in ("medium", "expert")]
    with h5py.File(path) as file:
        assert file.attrs["env_id"] == "Hopper-v5"
        for key in ("observations", "actions", "rewards", "terminals"):
            np.testing.assert_array_equal(file[key], np.concatenate([h[key] for h in halves]))
        timeouts = np.concatenate([h["timeouts"] for h in halves])
        timeouts[[119, 239]] = True  # where the files were cut, so that nothing runs across
        np.testing.assert_array_equal(file["timeouts"], timeouts)
    assert [p.name for p in path.parent.iterdir()] == ["hopper-medium-expert.hdf5"]
    made = path.stat().st_mtime_ns
    data.find_data("hopper-medium-expert", None, folder, tmp_path / "cache")
    assert path.stat().st_mtime_ns == made


def test_a_file_of_its_own_comes_before_one_put_together(
    folder: Path, tmp_path: Path, load: Any, write_hopper: Any
) -> None:
    own = write_hopper(folder / "hopper-medium-expert.hdf5")
    find = load("offline_rl_data").find_data
    assert find("hopper-medium-expert", None, folder, tmp_path / "cache") == own
    assert not (tmp_path / "cache").exists()


def test_what_is_not_there_or_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, load: Any, write_hopper: Any
) -> None:
    find = load("offline_rl_data").find_data
    with pytest.raises(SystemExit, match="there are: hopper-expert, hopper-medium"):
        find("hopper-mixed", None, folder, tmp_path)
    write_hopper(folder / "hopper-expert.hdf5", env_id="Walker2d-v5")
    with pytest.raises(SystemExit, match="of several environments"):
        find("hopper-medium-expert", None, folder, tmp_path)


def test_sets_name_tasks_and_places(folder: Path, tmp_path: Path, load: Any) -> None:
    overrides = load("offline_rl_data").task_overrides
    real = SimpleNamespace(data=None, source="minari", runs=str(tmp_path))
    assert overrides("hopper-mixed", real) == [
        *("env=hopper-medium-replay", "env.name=hopper-mixed", "dataset.source=minari"),
    ]
    here = SimpleNamespace(data=str(folder), source="d4rl", runs=str(tmp_path))
    assert overrides("hopper-medium", here)[2] == f"dataset.path='{folder / 'hopper-medium.hdf5'}'"
    minari = folder / "minari" / "D4RL" / "door" / "human-v2"
    minari.mkdir(parents=True)
    assert overrides("door-human", here)[2] == f"dataset.path='{minari}'"
    named = load("offline_rl").named_by_source
    assert named(("hopper-mixed", "pen-expert"), real) == ["hopper-medium-replay", "pen-expert"]
    assert named(("hopper-mixed",), here) == ["hopper-mixed"]


# Rows -----------------------------------------------------------------------------------------


def test_the_score_is_the_mean_of_the_last_five_evaluations(tmp_path: Path, load: Any) -> None:
    rows = load("offline_rl_rows")
    scores = [90.0, 10.0, 20.0, 30.0, 40.0, 55.0]
    results = {
        "finished": True, "device": "cpu", "date": "2026-11-20", "updates_per_second": 60.0,
        "versions": {"torch": "2"}, "peer": {"versions": {"d3rlpy": "2.8.1"}},
        "environment": {"id": "Hopper-v5"},
        "dataset": {"dataset_id": "d", "source": "file", "comparable": False, "transitions": 9,
                    "mean_normalized_score": 48.4},
        "last": {"step": 60, "normalized_score": 50.0, "score_standard_error": 3.0},
        "best": {"step": 10, "normalized_score": 80.0, "score_standard_error": 4.0},
        "evaluations": [{"step": 10 * (i + 1), "eval/normalized_score": s,
                         "eval/score_standard_error": 1.0} for i, s in enumerate(scores)],
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    key = rows.Key("hopper-medium", "ac", 1)
    found = rows.row_of(key, tmp_path, 100.04, "machine")
    assert found.machine == "machine; cpu"
    assert found.score == pytest.approx((10 + 20 + 30 + 40 + 55) / 5)
    assert (found.last, found.best, found.best_step, found.updates) == (50.0, 80.0, 10, 60)
    assert found.versions == "torch=2 d3rlpy=2.8.1"
    assert found.points()[0] == (10, 90.0)

    table = tmp_path / "rows.csv"
    rows.write_rows(table, [found, replace(found, seed=2, wall_seconds=math.nan)])
    first, second = rows.read_rows(table)
    assert first == found
    assert math.isnan(second.wall_seconds)
    assert rows.read_rows(tmp_path / "nothing.csv") == []

    on_gpu = {**results, "device": "cuda", "machine": "NVIDIA H200, Xeon, 1 thread"}
    (tmp_path / "results.json").write_text(json.dumps(on_gpu))
    assert rows.row_of(key, tmp_path, 1.0, "Xeon").machine == "Xeon; NVIDIA H200"

    (tmp_path / "results.json").write_text(json.dumps({**results, "finished": False}))
    with pytest.raises(RuntimeError, match="did not reach its end"):
        rows.row_of(key, tmp_path, None, "machine")


# The table ------------------------------------------------------------------------------------


def tables(text: str) -> dict[str, dict[str, list[str]]]:
    """The cells of each block by title and by the first cell of the row."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            found[line[3:]] = current = {}
        elif line.startswith("| "):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            current[name] = cells
    return found


def test_last_and_best_stand_apart_and_nothing_missing_is_a_zero(tmp_path: Path, load: Any) -> None:
    rows, table = load("offline_rl_rows"), load("offline_rl_table")
    path = tmp_path / "t.csv"
    rows.write_rows(
        path,
        [
            row(rows, "a", "ac", 0, 80.0),
            row(rows, "a", "ac", 1, 90.0),
            row(rows, "b", "ac", 0, 40.0),
            row(
                *(rows, "b", "ac", 1, 44.0),
                machine="Xeon, 16 cores, 4 seeds at once; NVIDIA H200",
                wall_seconds=30.0,
                updates_per_second=300.0,
            ),
            row(rows, "a", "iql", 0, 60.0, wall_seconds=math.nan),
        ],
    )
    table.report(path, ["a", "b"], ["ac", "iql", "bc"], 2, "short", ["a", "b"])
    found = tables(path.with_suffix(".md").read_text())
    score = found["Score of the protocol"]
    # errors: |80 − 90|/2 and |40 − 44|/2, that of the average √(5² + 2²)/2
    assert score["ac"][:3] == ["85.0 ± 5.0", "42.0 ± 2.0", "63.5 ± 2.7"]
    assert score["iql"] == ["60.0 (1 of 2 seeds)", "missing", "missing", "missing"]
    assert score["bc"] == ["missing"] * 4
    assert score["data's mean"][:2] == ["48.0", "48.0"]
    assert found["Last checkpoint"]["ac"] == ["86.0 ± 5.0", "43.0 ± 2.0", "64.5 ± 2.7"]
    assert found["Best checkpoint"]["ac"] == ["105.0 ± 5.0", "62.0 ± 2.0", "83.5 ± 2.7"]
    clocks = {title.split(":")[0]: rows for title, rows in found.items() if "Wall-clock" in title}
    assert clocks.keys() == {"Wall-clock on m", "Wall-clock on NVIDIA H200"}
    on_cpu, on_gpu = clocks.values()
    assert on_cpu["ac"] == ["1.5 (54)", "1.5 (54)"]
    assert on_cpu["iql"] == ["missing (54)", "missing"]
    assert on_gpu["ac"] == ["missing", "0.5 (300)"]
    assert "iql" not in on_gpu
    Image.open(path.with_suffix(".png")).verify()


def test_the_best_agent_comes_first_and_panels_without_a_set_are_empty(
    tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, table = load("offline_rl_rows"), load("offline_rl_table")
    path = tmp_path / "t.csv"
    scores = {"iql": 20.0, "ac": 60.0, "bc": 40.0}
    rows.write_rows(
        path, [row(rows, s, agent, 0, x) for agent, x in scores.items() for s in "abcd"]
    )
    figures: list[Any] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, *_, **__: figures.append(self)
    )
    table.report(path, ["a"], ["none", "iql"], 1, "short", list("abcd"))
    found = tables(path.with_suffix(".md").read_text())["Score of the protocol"]
    assert list(found) == ["agent", "data's mean", "ac", "bc", "iql", "none"]
    [figure] = figures
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2
    assert [axes.get_title() for axes in figure.axes[:4]] == list("abcd")


def test_sets_of_another_protocol_stand_behind_an_average_without_them(
    tmp_path: Path, load: Any
) -> None:
    rows, table = load("offline_rl_rows"), load("offline_rl_table")
    path = tmp_path / "t.csv"
    scores = {("c", 0): 10.0, ("b", 0): 40.0, ("a", 0): 80.0, ("a", 1): 90.0}
    rows.write_rows(path, [row(rows, s, "ac", seed, score) for (s, seed), score in scores.items()])
    table.report(path, ["c"], ["ac"], 1, "short", ["a", "b", "never asked for"])
    text = path.with_suffix(".md").read_text()
    assert "1 seed where a cell says no other number" in text
    score = tables(text)["Score of the protocol"]
    assert score["agent"] == ["a", "b", "average", "IQM [95 % interval]", "c"]
    assert score["ac"][:3] == ["85.0 ± 5.0 (2 seeds)", "40.0", "62.5"]
    assert score["ac"][4] == "10.0"
    assert score["data's mean"] == ["48.0", "48.0", "", "", "48.0"]

    table.report(path, ["c"], ["ac"], 1, "short", ["x"])  # none of the protocol's
    assert tables(path.with_suffix(".md").read_text())["Score of the protocol"]["agent"] == [
        "c", "b", "a", "average", "IQM [95 % interval]",
    ]  # fmt: skip


def test_the_interquartile_mean_is_that_of_the_middle_half(load: Any) -> None:
    table = load("offline_rl_table")
    found = [[0.0, 50.0], [52.0, 54.0], [56.0, 58.0], [60.0, 1000.0]]
    point, low, high = map(float, re.findall(r"[\d.]+", table.interquartile(found)))
    assert point == pytest.approx(np.mean([52, 54, 56, 58]))
    assert low <= point <= high
    assert high > low
    # strata: a seed is only ever replaced by another of its own set
    drawn = np.random.default_rng(0)
    resampled = [
        np.mean(np.sort(np.concatenate([drawn.choice(values, 2) for values in found]))[2:6])
        for _ in range(4000)
    ]
    assert [low, high] == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.6)
    assert table.interquartile([[1.0], [3.0], [5.0], [30.0]]) == "4.0"
    assert table.interquartile([[1.0, 2.0], []]) == "missing"
    assert table.interquartile([[7.0, 7.0], [7.0, 7.0]]) == "7.0 [7.0, 7.0]"


def test_the_scripts_are_small() -> None:
    for file in [*BENCHMARKS.glob("offline_rl*.py"), *(BENCHMARKS / "peers").glob("*.py")]:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 320


def test_tasks_of_ogbench_are_told_where_their_file_is(load: Any, tmp_path: Path) -> None:
    data = load("offline_rl_data")
    name = "cube-single-play-singletask-task2-v0"
    with pytest.raises(SystemExit, match="generate_ogbench"):
        data.task_overrides(name, SimpleNamespace(data=str(tmp_path)))
    (tmp_path / "cube-single-play-v0.npz").touch()
    told = data.task_overrides(name, SimpleNamespace(data=str(tmp_path)))
    path = (tmp_path / "cube-single-play-v0.npz").resolve()
    assert told == [f"env={name}", "eval.parallel=4", f"dataset.path='{path}'"]
    assert data.task_overrides(name, SimpleNamespace(data=None)) == told[:2]
