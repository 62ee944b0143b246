"""Training from Python: `cmpolicy.fit`, the same run as of the command `cmpolicy.train`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any
from weakref import WeakSet

import gymnasium
import torch
from gymnasium.envs.registration import EnvSpec, registry

from cmpolicy.agents import AGENTS, AgentConfig
from cmpolicy.cli.compose import compose, plain
from cmpolicy.cli.keys import nearest
from cmpolicy.cli.resume import load_config
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.plugins import find
from cmpolicy.rl.config import RLConfig, store_names
from cmpolicy.rl.evaluation_environment import NO_ENVIRONMENT
from cmpolicy.rl.recorded_data import IN_PYTHON
from cmpolicy.rl.tasks import TASKS
from cmpolicy.run import Run
from cmpolicy.training.random_state import preserved_random_state
from cmpolicy.training.run_directory import RunDirectory
from cmpolicy.training_run import train

COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
OPTIONAL = 2  # the last ones
OWN_NAMESPACE = "fit/"  # of ids of environments that a function makes
NO_CHANGE = ("resume", "dataset.source")  # of a run that goes on
Data = TransitionDataset | Mapping[str, Any] | str | PathLike[str]
Env = str | EnvSpec | Callable[..., gymnasium.Env[Any, Any]] | None


def fit(
    data: Data,
    env: Env = "auto",
    agent: str | AgentConfig = "ac",
    steps: int | None = None,
    **keys: Any,
) -> Run:
    """Train an agent on data, evaluate it, and give its run, which is on disk as any other.

    The process is left as it was: its random numbers, threads, logs and working directory.

    Args:
        data: flat arrays by name (observations, actions, rewards, terminals, and optionally
            timeouts and next_observations, see `TransitionDataset.from_arrays`), a dataset, a task
            such as ``hopper-medium``, a file or a directory, or a Minari id.
        env: to evaluate in: a Gymnasium id, a spec, or a function that makes a new environment at
            each call; ``auto`` for the one that the data name; None to train without.
        agent: a name, or the configuration of one, such as `ACConfig(radius=0.2)`.
        steps: updates.
        **keys: those of the command line: ``seed=1``, ``agent__learning_rate=1e-4``,
            ``eval={"episodes": 5}``, or ``**{"agent.policy.hidden": [64, 64]}``. ``resume=RUN``
            goes on with a run.

    Raises:
        InputError, ValueError: for what does not exist or fit, in one line.
    """
    values = {key.replace("__", "."): value for key, value in keys.items()}
    if steps is not None:
        values["steps"] = steps
    store_names()
    choices, given = [], None
    if isinstance(data, str) and data in TASKS:
        choices.append(f"env={data}")
    elif isinstance(data, str | PathLike):
        values["dataset.path"] = str(data)
    else:
        given = dataset_of(data, values.get("env.max_episode_steps"))
        values["dataset.source"] = IN_PYTHON
    stored = stored_config(values["resume"]) if "resume" in values else None
    env_id = environment_id(env, given, stored.env.id if stored else None)
    if env_id is not None:
        values["env.id"] = env_id
    if stored is None:
        config = configured(agent, choices, values)
    else:  # the run's own configuration, with the values as changes
        config = replace(stored, resume=str(values["resume"]))
    given_values = {key: plain(value) for key, value in values.items() if key not in NO_CHANGE}
    overrides = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in given_values.items()
    ]
    with unchanged_process():
        path = train(config, overrides, given).path
    return Run(path)


def stored_config(path: str | PathLike[str]) -> RLConfig:
    """Load the configuration of a run that is to go on.

    Raises:
        InputError: if there is none, or it is a toy's or an image model's.
    """
    stored = load_config(RunDirectory.existing(Path(path)), RLConfig)
    if stored is None:
        raise InputError(f"{path} is no run of an agent; resume it by python -m cmpolicy.train")
    return stored


def configured(agent: str | AgentConfig, choices: list[str], values: Mapping[str, Any]) -> RLConfig:
    """Compose the configuration of a new run."""
    if isinstance(agent, AgentConfig):
        find("agent", AGENTS, agent.algorithm)
        values = {"agent": agent, **values}
    elif isinstance(agent, str):
        choices = [*choices, f"agent={agent}"]
    else:
        raise InputError(f"agent is {agent!r}, expected a name or an agent's configuration")
    config: RLConfig = compose("rl", choices, values)
    return config


def dataset_of(
    data: TransitionDataset | Mapping[str, Any], max_episode_steps: int | None
) -> TransitionDataset:
    """Give the dataset of arrays; names with a slash, which D4RL has beside them, are left out.

    Raises:
        InputError: for another type, another name, or one that is missing.
    """
    if isinstance(data, TransitionDataset):
        return data
    if not isinstance(data, Mapping):
        raise InputError(
            f"data is a {type(data).__name__}, expected arrays by name, a TransitionDataset, a "
            "path, a Minari id or a task"
        )
    arrays = {key: value for key, value in data.items() if "/" not in key}
    expected = f"expected {', '.join(COLUMNS)}; the last two are optional"
    for key in arrays:
        if key not in COLUMNS:
            raise InputError(f"data has an array {key!r}{nearest(key, COLUMNS)}, {expected}")
    for key in COLUMNS[:-OPTIONAL]:
        if key not in arrays:
            raise InputError(f"data has no {key}, {expected}")
    return TransitionDataset.from_arrays(**arrays, max_episode_steps=max_episode_steps)


def environment_id(env: Env, data: TransitionDataset | None, stored: str | None) -> str | None:
    """Give the value of the key env.id; None where the data or the task name the environment.

    Args:
        data: if they are in Python.
        stored: that of the run that goes on.

    Raises:
        InputError: for another type.
    """
    if isinstance(env, str):
        if env != "auto":
            return env
        named = data is None or data.info.env_id is not None or stored is not None
        return None if named else NO_ENVIRONMENT
    if env is None:
        return NO_ENVIRONMENT
    own = stored if stored is not None and stored.startswith(OWN_NAMESPACE) else None
    if isinstance(env, EnvSpec):
        if registry.get(env.id) == env:
            return env.id
        return register(lambda **options: gymnasium.make(env, **options), env.id, own)
    if isinstance(env, gymnasium.Env) or not callable(env):
        raise InputError(
            f"env is {env!r}, expected a Gymnasium id, a spec, or a function that makes an "
            "environment, because an evaluation needs several"
        )
    return register(env, getattr(env, "__name__", type(env).__name__), own)


def register(make: Callable[..., Any], name: str, env_id: str | None = None) -> str:
    """Register a function that makes environments with Gymnasium; returns the id.

    Args:
        env_id: to take over; by default it is made of `name`, and another function's is left.

    Raises:
        InputError: if it makes no environment.
    """
    made: WeakSet[gymnasium.Env[Any, Any]] = WeakSet()

    def make_new(**options: Any) -> gymnasium.Env[Any, Any]:
        env = make(**options)
        if not isinstance(env, gymnasium.Env):
            raise InputError(f"env {name} made {env!r}, expected a gymnasium.Env")
        if env in made:
            raise InputError(f"env {name} gave the same environment twice, expected a new one")
        made.add(env)
        return env

    first = make_new()
    layer: Any = first
    limit = None if first.spec is None else first.spec.max_episode_steps
    while limit is None and isinstance(layer, gymnasium.Wrapper):
        limit = getattr(layer, "_max_episode_steps", None)
        layer = layer.env
    first.close()
    if env_id is None:
        stem = f"{OWN_NAMESPACE}{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}"
        env_id = next(i for n in itertools.count() if (i := f"{stem}-v{n}") not in registry)
    registry[env_id] = EnvSpec(env_id, make_new, max_episode_steps=limit)
    return env_id


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Within, torch's threads, precision and random numbers are the run's; then as before."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        with preserved_random_state():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
