"""Training from Python: data and environments in every form, the run, errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import cmpolicy
from cmpolicy.agents import AGENTS
from cmpolicy.agents.bc import BCConfig, ConsistencyBC
from cmpolicy.agents.iql import IQLConfig
from cmpolicy.cli.compose import compose
from cmpolicy.datasets import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.fitting import environment_id, register
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.policy.policy_file import policy_file_of
from cmpolicy.rl.rollout import roll_out
from cmpolicy.rl.tasks import TASKS
from cmpolicy.run import Run, load_run

SAMPLE = Path(cmpolicy.__file__).parent / "datasets/sample/hopper-medium.hdf5"
TINY: dict[str, Any] = {
    "steps": 4,
    "batch_size": 8,
    "device": "cpu",
    "accelerate": "off",
    "progress": False,
    "agent__policy__hidden": (8,),
    "eval": {"every": 2, "episodes": 2, "final_episodes": 2},
}


class Line(gymnasium.Env[Any, Any]):
    """Walk along a line for eight steps; the reward is the place."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1), 0
        return np.array([self.place, 0.0]), {}

    def step(self, action: Any) -> Any:
        self.place, self.steps = self.place + float(action[0]), self.steps + 1
        observation = np.array([self.place, self.steps], np.float64)
        return observation, self.place, False, self.steps == 8, {}


def arrays(rows: int = 80) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ends = np.arange(rows) % 8 == 7
    return {
        "observations": rng.normal(size=(rows, 2)),
        "actions": rng.uniform(-1, 1, (rows, 1)),
        "rewards": rng.normal(size=rows),
        "terminals": ends & (np.arange(rows) % 16 == 7),
        "timeouts": ends,
    }


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained() -> Run:
    return cmpolicy.fit(arrays(), Line, agent="bc", seed=3, **TINY)


def test_arrays_and_a_function_that_makes_environments(trained: Run, here: Path) -> None:
    assert trained.path.parent == Path("runs/custom")
    assert set(trained.scores) == {"last", "best"}
    assert trained.scores["last"]["step"] == 4
    assert trained.scores["last"]["episodes"] == 2
    assert trained.scores["last"]["mean_length"] == 8
    assert trained.results["environment"]["id"].startswith("fit/Line-v")
    assert trained.results["dataset"]["source"] == "numpy"
    assert trained.agent.config.policy.hidden == [8]
    assert isinstance(trained.policy, ConsistencyPolicy)
    assert trained.seeds == []
    assert repr(trained) == f"Run({str(trained.path)!r}, checkpoint='best')"


def test_the_policy_acts_in_three_lines_exactly_as_it_was_evaluated(trained: Run) -> None:
    """Equal returns for equal seeds, of a sampled action (bc) and of a mode (iql)."""
    other = cmpolicy.fit(arrays(), Line, agent=IQLConfig(critic_hidden=[8]), **TINY)
    for run, mode_of in ((trained, 1), (other, 32)):
        score = run.evaluate(episodes=5, seed=7)
        run.policy.save("policy.safetensors")
        paths = ["policy.safetensors", run.path / "checkpoints" / "best.safetensors"]
        for path in paths:
            policy = ConsistencyPolicy.load(path)
            assert policy.mode_of == mode_of
            generator = torch.Generator().manual_seed(7)
            act = lambda obs, p=policy, g=generator: p.act(obs, generator=g)  # noqa: E731
            assert roll_out(act, Line, 5, 7).mean_return == score.mean_return
        again = load_run(run.path).evaluate(episodes=5, seed=7)
        assert again == score
    last = load_run(other.path, "last")
    file = ConsistencyPolicy.load(policy_file_of(other.path))
    observations = arrays()["observations"]
    np.testing.assert_array_equal(file.act(observations), last.policy.act(observations))


def test_data_and_environments_in_every_form(places: Any) -> None:
    dataset = TransitionDataset.from_arrays(**arrays())
    spec = gymnasium.spec("Hopper-v4")
    hopper = {"agent": "bc", **TINY, "dataset.source": "sample"}
    own = BCConfig(name="mine")
    for run, env_id, source in (
        (cmpolicy.fit(dataset, None, "bc", **TINY), None, "numpy"),
        (cmpolicy.fit(dataset, agent="bc", **TINY), None, "numpy"),
        (cmpolicy.fit("hopper-medium", **hopper), "Hopper-v4", "sample"),
        (cmpolicy.fit(SAMPLE, spec, "bc", **TINY), "Hopper-v4", "file"),
        (
            cmpolicy.fit(str(SAMPLE), "Hopper-v4", own, **TINY),
            "Hopper-v4",
            "file",
        ),
    ):
        environment = run.results["environment"]
        assert (environment and environment["id"], run.results["dataset"]["source"]) == (
            env_id,
            source,
        )
        assert bool(run.scores) == (env_id is not None)
    assert run.results["agent"] == "mine"
    with pytest.raises(InputError, match="trained without an environment"):
        cmpolicy.fit(dataset, None, "bc", **TINY).evaluate()


def test_several_seeds_are_runs_of_their_own() -> None:
    run = cmpolicy.fit(arrays(), Line, "bc", seeds=[0, 3], **TINY)
    assert [each.results["seed"] for each in run.seeds] == [0, 3]
    assert set(run.scores["best"]["by_seed"]) == {"0", "3"}
    assert load_run(run.path).seeds[1].evaluate(2).episodes == 2
    with pytest.raises(InputError, match="a run for each seed"):
        _ = run.policy


def test_the_process_is_left_as_it_was(trained: Run) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    logger, root = logging.getLogger("cmpolicy"), logging.getLogger()

    def state() -> list[Any]:
        numbers = torch.get_rng_state().tolist(), str(np.random.get_state())
        logs = [(x.level, x.handlers[:], x.propagate) for x in (logger, root)]
        computing = torch.get_num_threads(), torch.get_float32_matmul_precision()
        return [numbers, logs, computing, Path.cwd(), dict(os.environ)]

    before = state()
    again = cmpolicy.fit(arrays(), Line, agent="bc", seed=3, **TINY, threads=2)
    assert state() == before
    assert again.path != trained.path
    pairs = zip(again.policy.parameters(), trained.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_goes_on_and_ends_as_one_that_was_not_interrupted(
    killed_after: Callable[..., Any], assert_equal_runs: Callable[[Path, Path], None]
) -> None:
    options = {**TINY, "agent": "bc", "checkpoint_every": 2}
    whole = cmpolicy.fit(arrays(), Line, **options, run_dir="whole")
    with killed_after(2):
        cmpolicy.fit(arrays(), Line, **options, run_dir="killed")
    resumed = cmpolicy.fit(arrays(), Line, resume=Path("killed"), device="cpu")
    assert resumed.path == Path("killed")
    assert_equal_runs(whole.path, resumed.path)
    with pytest.raises(InputError, match="seed cannot change in a run that has begun"):
        cmpolicy.fit(arrays(), Line, resume="killed", seed=4)
    with pytest.raises(InputError, match="nothing is not a run"):
        cmpolicy.fit(arrays(), Line, resume="nothing")


def test_the_command_says_that_data_were_given_in_python(
    trained: Run, command: Callable[..., tuple[int, str]]
) -> None:
    code, said = command(__import__("cmpolicy.train", fromlist=["main"]), f"resume={trained.path}")
    assert code == 2
    assert said.startswith("error: the data of this run were given in Python; go on with cmpolicy.")


def test_exported_and_evaluated_by_the_commands_functions(trained: Run) -> None:
    path = trained.export("there/policy.pt2", "torch", mode_of=4)
    assert path == Path("there/policy.pt2")
    module = torch.export.load(path).module()
    observations = torch.randn(3, 2)
    expected = trained.policy.mode(observations, 4)
    torch.testing.assert_close(module(observations), expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="format is 'onyx', expected one of onnx, torch"):
        trained.export("policy", "onyx")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"agent__learning_rat": 1.0}, r"no key agent.learning_rat \(did you mean learning_rate"),
        ({"agent.policy": {"hiden": [8]}}, r"no key agent.policy.hiden \(did you mean hidden"),
        ({"agent.policy.loss_options": {"s9": 1}}, "loss_options do not fit loss 'ict'"),
        ({"batch_sise": 8}, r"no key batch_sise \(did you mean batch_size\?\)"),
        ({"batch_size": "many"}, "batch_size: Value 'many'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"agent": "cb"}, "agent 'cb' is not installed"),
        ({"agent": 3}, "agent is 3, expected a name or an agent's configuration"),
        ({"data": {**arrays(), "dones": 1}}, "data has an array 'dones'"),
        ({"data": {"observations": 1, "actions": 1}}, "data has no rewards, expected observations"),
        ({"data": [1, 2]}, "data is a list, expected arrays by name"),
        ({"data": "no/such/file.hdf5"}, "no/such/file.hdf5"),
        ({"env": "Nothing-v0"}, "cannot make environment 'Nothing-v0'"),
        ({"env": Line()}, "env is <.*Line.*>, expected a Gymnasium id, a spec, or a function"),
        ({"env": lambda: 3}, "env <lambda> made 3, expected a gymnasium.Env"),
        ({"env": 7}, "env is 7, expected a Gymnasium id"),
    ],
    ids=lambda value: str(value)[:40].partition(" at 0x")[0],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    changes: dict[str, Any], reason: str, here: Path
) -> None:
    options = {"data": arrays(), "env": Line, "agent": "bc", **TINY, **changes}
    with pytest.raises((InputError, ValueError), match=reason) as caught:
        cmpolicy.fit(**options)
    assert "\n" not in str(caught.value)
    assert not list(here.iterdir())


def test_a_function_must_make_a_new_environment_at_each_call() -> None:
    same = Line()
    with pytest.raises(InputError, match="gave the same environment twice, expected a new one"):
        cmpolicy.fit(arrays(), lambda: same, "bc", **TINY)


def test_time_limits_of_functions_are_kept() -> None:
    env_id = register(lambda: gymnasium.wrappers.TimeLimit(Line(), 5), "limited")
    assert gymnasium.spec(env_id).max_episode_steps == 5
    assert register(Line, "limited") != env_id  # another function's id is left to it
    spec = gymnasium.spec("Pendulum-v1")
    assert environment_id(spec, None, None) == "Pendulum-v1"
    spec.max_episode_steps = 7
    assert gymnasium.spec(environment_id(spec, None, None) or "").max_episode_steps == 7


def test_fit_inside_another_application_of_hydra(tmp_path: Path) -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        cmpolicy.fit(arrays(), None, "bc", **TINY)
        assert hydra.compose("mine").a == 1
    assert not GlobalHydra.instance().is_initialized()


def test_what_is_no_run_of_an_agent_is_refused(here: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run: it holds no config.yaml"):
        load_run(here)
    with pytest.raises(ValueError, match="checkpoint must be last or best, got 'first'"):
        load_run(here, "first")


def test_names_registered_in_a_program_are_known_at_once(here: Path) -> None:
    """An agent, and a task whose environment the program has registered with Gymnasium."""

    @dataclass
    class OwnConfig(BCConfig):
        algorithm: str = "own"
        name: str = "own"
        extra: float = 1.0

    class Own(ConsistencyBC):
        Config = OwnConfig

    cmpolicy.register_agent("own")(Own)
    env_id = register(Line, "own-line")
    cmpolicy.register_task("own_line")(cmpolicy.EnvConfig(id=env_id, max_episode_steps=4))
    try:
        run = cmpolicy.fit(arrays(), agent="own", agent__extra=2.0, **{"env.id": env_id}, **TINY)
        assert (run.agent.config.algorithm, run.agent.config.extra) == ("own", 2.0)
        config = compose("rl", ["env=own_line", "agent=own"], {})
        assert (config.env.name, config.env.max_episode_steps) == ("own_line", 4)
    finally:
        del AGENTS["own"], TASKS["own_line"]
    with pytest.raises(InputError, match="agent 'own' is not installed; there are: ac, bc"):
        _ = load_run(run.path).policy
