"""Look at, fetch, convert and record data: `python -m cmpolicy.data list`.

`show dataset=NAME`, `download dataset=NAME`, `convert dataset=NAME out=OUT`, and
`collect run=RUN out=OUT`, where OUT is FILE.hdf5 (D4RL's layout) or a Minari id.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from cmpolicy.cli.command import resolve_device
from cmpolicy.cli.run_config import check_checkpoint, check_positive, check_seed
from cmpolicy.cli.verbs import Verb, run_verbs
from cmpolicy.datasets.d4rl_download import d4rl_directory, download_d4rl
from cmpolicy.datasets.minari_source import download_minari, list_remote, minari_directory
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.datasets.writing import About, check_out, write_dataset
from cmpolicy.errors import InputError
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.rl.collect import about_environment, record_episodes
from cmpolicy.rl.data_listing import (
    copies_of,
    described,
    load_local,
    other_lines,
    places,
    task_lines,
    task_named,
)
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.evaluation_environment import evaluation_env, references_of, spaces_of_data
from cmpolicy.rl.rollout import Act
from cmpolicy.rl.task import act_with
from cmpolicy.rl.tasks import EnvConfig
from cmpolicy.rl.trained_agent import load_agent, read_record
from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")
WRITERS = ("cmpolicy", "torch", "gymnasium", "mujoco", "numpy")


@dataclass
class ListConfig:
    """Keys of `list`.

    Attributes:
        remote: also ask Minari's server, which takes a while.
    """

    remote: bool = False


@dataclass
class ShowConfig:
    """Keys of `show`.

    Attributes:
        dataset: a task, a D4RL or Minari id, a file or a directory.
        env: id of the environment, where the data do not say.
    """

    dataset: str = MISSING
    env: str | None = None


@dataclass
class DownloadConfig:
    """Keys of `download`.

    Attributes:
        dataset: a task, a D4RL id or a Minari id.
    """

    dataset: str = MISSING


@dataclass
class ConvertConfig(ShowConfig):
    """Keys of `convert`.

    Attributes:
        dataset: a task, a D4RL or Minari id, a file or a directory.
        out: FILE.hdf5 for D4RL's layout, or a Minari id such as mine/hopper/medium-v0.
        env: id of the environment, where the data do not say.
    """

    out: str = MISSING


@dataclass
class CollectConfig:
    """Keys of `collect`.

    Attributes:
        out: FILE.hdf5 for D4RL's layout, or a Minari id such as mine/hopper/bc-v0.
        run: a run directory; or give policy and env.
        checkpoint: last or best, of a run.
        policy: a file that `ConsistencyPolicy.save` wrote.
        env: id of the environment; of a run, instead of its own.
        episodes: how many.
        mode_of: samples whose mode acts; without it the agent's or the policy's own way.
        seed: of the first episode, and of the policy's noise.
        device: auto, cpu, cuda or cuda:N.
    """

    out: str = MISSING
    run: str | None = None
    checkpoint: str = "last"
    policy: str | None = None
    env: str | None = None
    episodes: int = 100
    mode_of: int | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_checkpoint(self.checkpoint)
        check_positive(self, "episodes", *(["mode_of"] if self.mode_of is not None else []))
        check_seed(self.seed)
        if (self.run is None) == (self.policy is None):
            raise ValueError("give run=RUN, or policy=FILE with env=ID")
        if self.policy is not None and self.env is None:
            raise ValueError("a policy's file does not say where it acts; give env=ID")


def list_data(config: ListConfig) -> None:
    """List tasks and datasets, and which of them are on disk."""
    print(f"D4RL's files: {d4rl_directory()}   Minari's datasets: {minari_directory()}\n")
    print("\n".join(task_lines()))
    others = other_lines()
    if others:
        print("\n".join(["\non disk beside them", *others]))
    if config.remote:
        print("\non Minari's server")
        for dataset_id, metadata in sorted(list_remote().items()):
            print(f"{dataset_id:40} {metadata.get('dataset_size', '?'):>8} MB")


def show(config: ShowConfig) -> None:
    """Show where a dataset is, what is in it, and whether scores on it compare."""
    task = task_named(config.dataset)
    if task is not None:
        for line in places(task):
            print(line)
        if not copies_of(task, config.dataset):
            print(f"fetch it: python -m cmpolicy.data download dataset={config.dataset}")
            return
    dataset, task = load_local(config.dataset)
    for line in described(dataset, task, config.env):
        print(line)


def download(config: DownloadConfig) -> None:
    """Fetch a dataset from D4RL's or Minari's server, unless it is on disk."""
    name = config.dataset
    task = task_named(name) or EnvConfig(name, minari_id=name)
    there = [copy for copy in copies_of(task, name) if copy.source != "sample"]
    if there:
        print(f"{there[0].dataset_id} is on disk: {there[0].path}")
        return
    refused = []
    for dataset_id, fetch in ((task.d4rl_id, download_d4rl), (task.minari_id, download_minari)):
        if dataset_id is None or name not in (task.name, dataset_id):
            continue
        try:
            print(f"{dataset_id}: {fetch(dataset_id)}")
            return
        except InputError as error:
            refused.append(str(error))
    raise InputError(f"no data for {name}: {'; '.join(refused)}")


def convert(config: ConvertConfig) -> None:
    """Write a dataset in the other layout: D4RL's HDF5 or Minari's."""
    check_out(config.out)
    dataset, task = load_local(config.dataset)
    about = about_data(dataset, dataclasses.replace(task, id=config.env))
    source = dataclasses.asdict(dataset.info)
    kept = ("dataset_id", "source", "transitions", "episodes", "mean_return")
    about = with_provenance(about, "converted", {key: source[key] for key in kept})
    about = dataclasses.replace(about, algorithm=f"converted from {dataset.info.dataset_id}")
    report_written(dataset, write_dataset(dataset, config.out, about), config.out)


def about_data(dataset: TransitionDataset, task: EnvConfig) -> About:
    """Describe the environment of recorded data, as far as it is known and can be made."""
    try:
        env, made = evaluation_env(task, dataset.info).probed()
        about = about_environment(env, made)
        made.close()
        if made.observation_space.shape == (dataset.obs_dim,):
            references = references_of(env.id, dataset.info)
            return dataclasses.replace(about, references=references, observation_sizes={})
        log.warning("%s has other observations than the data: it is not recorded", env.id)
    except InputError as error:
        log.warning("the environment is not recorded: %s", with_own_keys(error))
    spaces = spaces_of_data(dataset)
    return About(spaces.action_low, spaces.action_high)


def with_own_keys(error: Exception) -> str:
    """What an error says of `env.id`, which is `env` here."""
    return str(error).replace(", or env.id=none", "").replace("env.id=", "env=")


def collect(config: CollectConfig) -> None:
    """Play episodes with a trained policy and write them as a dataset."""
    check_out(config.out)
    device = resolve_device(config.device)
    generator = torch.Generator(device=device).manual_seed(config.seed)
    try:
        act, env, source = actor(config, device, generator)
        dataset, about = record_episodes(act, env, config.episodes, config.seed)
    except InputError as error:
        raise InputError(with_own_keys(error)) from None
    returns = [round(x, 3) for x in (dataset.info.mean_return, dataset.info.std_return)]
    source |= {"env": env.id, "env_kwargs": env.kwargs, "seed": config.seed}
    source |= {"episodes": dataset.info.episodes, "mean_return": returns[0], "std": returns[1]}
    about = with_provenance(about, "collected", source)
    about = dataclasses.replace(about, algorithm=str(source["agent"]))
    if config.out.endswith((".hdf5", ".h5")) and env.kwargs:
        log.warning("D4RL's layout has no place for env.kwargs: give them again when training")
    report_written(dataset, write_dataset(dataset, config.out, about), config.out)


def actor(
    config: CollectConfig, device: torch.device, generator: torch.Generator
) -> tuple[Act, Environment, dict[str, Any]]:
    """Give what acts, where, and how it is called."""
    if config.policy is not None:
        assert config.env is not None  # as the configuration has checked
        policy = ConsistencyPolicy.load(config.policy, device)
        rule: dict[str, Any] = {"mode_of": config.mode_of} if config.mode_of else {}

        def act(observations: Any) -> Any:
            return policy.act(observations, generator=generator, **rule)

        name, mode_of = Path(config.policy).name, config.mode_of or getattr(policy, "mode_of", 1)
        return act, Environment(config.env), {"agent": "a policy", "file": name, "mode_of": mode_of}
    directory = RunDirectory.existing(config.run or "")
    record = read_record(directory)
    env = record.environment(config.env)
    agent, step = load_agent(directory, record.spaces, config.checkpoint, device)
    results = directory.read_results()
    source: dict[str, Any] = {
        "agent": f"{agent.config.name} of cmpolicy, {step} updates on {results['task']}",
        "run": directory.path.name,
        "checkpoint": config.checkpoint,
        "trained_on": results["dataset"]["dataset_id"],
        "mode_of": config.mode_of or agent.config.mode_of,
    }
    return act_with(agent, mode_of=config.mode_of)(generator), env, source


def with_provenance(about: About, how: str, source: dict[str, Any]) -> About:
    """Add how the data were made, when, and with which versions."""
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    versions = {name: version(name) for name in WRITERS}
    return dataclasses.replace(about, provenance={how: source, "date": date, "versions": versions})


def report_written(dataset: TransitionDataset, path: Path, out: str) -> None:
    """Say what was written, and how to train on it."""
    info = dataset.info
    print(f"{path}: {len(dataset)} transitions in {int(dataset.episode_ends.sum())} episodes")
    print(f"return {info.mean_return:.1f} ± {info.std_return:.1f}")
    print(f"train on it: python -m cmpolicy.train dataset.path={out}")


VERBS = {
    "list": Verb(list_data, ListConfig),
    "show": Verb(show, ShowConfig),
    "download": Verb(download, DownloadConfig),
    "convert": Verb(convert, ConvertConfig),
    "collect": Verb(collect, CollectConfig),
}


def main() -> None:
    """The command."""
    run_verbs("cmpolicy.data", VERBS)


if __name__ == "__main__":
    main()
