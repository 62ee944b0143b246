"""What data there are: tasks by name, copies on disk, and what Minari's server has."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cmpolicy.datasets.d4rl_catalogue import D4RL_FILES, recognised
from cmpolicy.datasets.d4rl_download import d4rl_directory, d4rl_on_disk
from cmpolicy.datasets.minari_metadata import PUBLISHED
from cmpolicy.datasets.minari_source import minari_directory, minari_on_disk
from cmpolicy.datasets.reference_scores import normalized_score, reference_scores
from cmpolicy.datasets.resolve import SAMPLES, Wanted, load_path, resolve_dataset
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.rl.evaluation_environment import references_of
from cmpolicy.rl.tasks import TASKS, EnvConfig


class Copy(NamedTuple):
    """One dataset on disk.

    Attributes:
        source: ``d4rl``, ``minari`` or ``sample``, as `dataset.source`.
        comparable: scores on it compare with published ones.
    """

    source: str
    dataset_id: str
    path: Path
    comparable: bool

    @property
    def bytes(self) -> int:
        """Size of the file, or of all files of a directory."""
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())


def task_named(name: str) -> EnvConfig | None:
    """Find a task by its own name, D4RL's id or Minari's."""
    named = (task for task in TASKS.values() if name in (task.name, task.d4rl_id, task.minari_id))
    return next((task for task in named if task.name != "custom"), None)


def copies_of(task: EnvConfig, dataset_id: str | None = None) -> list[Copy]:
    """List what of a task is on disk, in the order in which training looks.

    Args:
        dataset_id: only D4RL's or only Minari's, if it is one of those ids.
    """
    found = []
    if task.d4rl_id and (path := d4rl_on_disk(task.d4rl_id)):
        genuine = recognised(path) == task.d4rl_id
        found.append(Copy("d4rl", task.d4rl_id, path, genuine))
    if task.minari_id and (path := minari_on_disk(task.minari_id)):
        found.append(Copy("minari", task.minari_id, path, True))
    if task.name in SAMPLES:
        found.append(Copy("sample", f"{task.name}-sample", SAMPLES[task.name], False))
    if dataset_id in (task.d4rl_id, task.minari_id):
        found = [copy for copy in found if copy.dataset_id == dataset_id]
    return found


def other_copies() -> list[Copy]:
    """List what is in the folders of D4RL and Minari and belongs to no task."""
    root = minari_directory()
    ids = [str(p.parents[1].relative_to(root)) for p in sorted(root.rglob("data/metadata.json"))]
    others = [
        Copy("minari", dataset_id, root / dataset_id, dataset_id.startswith(PUBLISHED))
        for dataset_id in ids
        if task_named(dataset_id) is None and "/." not in f"/{dataset_id}"
    ]
    known = {file.name for file in D4RL_FILES.values()} | {f"{name}.hdf5" for name in D4RL_FILES}
    return others + [
        Copy("file", path.stem, path, False)
        for path in sorted(d4rl_directory().glob("*.hdf5"))
        if path.name not in known and not path.name.startswith(".")
    ]


def load_local(name: str) -> tuple[TransitionDataset, EnvConfig]:
    """Read a dataset that is on disk; nothing is downloaded.

    Args:
        name: a task, a D4RL id, a Minari id, a file, or a directory.

    Raises:
        InputError: nothing of that name is on disk, or it does not read.
    """
    task = task_named(name)
    if task is None:
        if not Path(name).expanduser().exists() and not minari_on_disk(name):
            raise InputError(
                f"there is no dataset {name!r}: it is no task, no Minari id on disk and no path; "
                "`python -m cmpolicy.data list` shows what there is"
            )
        return load_path(minari_on_disk(name) or name, Wanted(Path(name).stem)), TASKS["custom"]
    copies = copies_of(task, name)
    if not copies:
        raise InputError(
            f"{name} is not on disk; fetch it with `python -m cmpolicy.data download "
            f"dataset={name}`"
        )
    source = copies[0].source
    return resolve_dataset(task.name, task.d4rl_id, task.minari_id, source), task


def task_lines() -> list[str]:
    """Make a line for each task: where its data are, how large, and its reference returns.

    Sizes in brackets are those of D4RL's downloads.
    """
    lines = [_line("task", "on disk", "MB", "0 and 100 are returns of", "compares")]
    for task in TASKS.values():
        if task.name == "custom":
            continue
        known = reference_scores(task.name)
        references = "" if known is None else f"{known[0]:.1f} … {known[1]:.1f}"
        copies = copies_of(task)
        if not copies:
            file = D4RL_FILES.get(task.d4rl_id or "")
            size = f"({file.bytes / 1e6:.0f})" if file and file.bytes else ""
            lines.append(_line(task.name, "-", size, references, ""))
        lines += [_line(task.name, *_facts(copy, references)) for copy in copies]
    return lines


def other_lines() -> list[str]:
    """Make a line for each dataset on disk that belongs to no task."""
    return [_line(copy.dataset_id, *_facts(copy, "")) for copy in other_copies()]


def _facts(copy: Copy, references: str) -> tuple[str, str, str, str]:
    compares = "yes" if copy.comparable else "NO"
    return copy.source, f"{copy.bytes / 1e6:.1f}", references, compares


def _line(name: str, source: str, size: str, references: str, comparable: str) -> str:
    return f"{name:28} {source:8} {size:>8}  {references:26} {comparable}".rstrip()


def places(task: EnvConfig) -> list[str]:
    """Say where a task's data come from, and which are on disk."""
    known = {"D4RL": task.d4rl_id, "Minari": task.minari_id}
    there = {copy.dataset_id: copy for copy in copies_of(task)}
    lines = [f"task {task.name}"]
    for name, dataset_id in known.items():
        if dataset_id is None:
            continue
        file = D4RL_FILES.get(dataset_id)
        size = f", {file.bytes / 1e6:.0f} MB to download" if file and file.bytes else ""
        copy = there.pop(dataset_id, None)
        lines.append(f"  {name}: {dataset_id}, {copy.path if copy else f'not on disk{size}'}")
    return lines + [f"  {copy.source} in the package: {copy.path}" for copy in there.values()]


def described(dataset: TransitionDataset, task: EnvConfig, env_id: str | None) -> list[str]:
    """Describe transitions in a few lines."""
    info = dataset.info
    env_id = env_id or info.env_id or task.d4rl_env_id
    references = references_of(env_id or "", info)
    score = "no reference returns are known for it; give env=ID"
    if references is not None:
        mean = normalized_score(references, info.mean_return)
        score = f"mean normalized score {mean:.1f}, where 0 and 100 are returns of "
        score += f"{references[0]:.1f} and {references[1]:.1f}"
    terminals = int(dataset.terminals.sum())
    return [
        f"{info.dataset_id} ({info.source}): {info.path}",
        f"  {info.transitions} transitions in {info.episodes} episodes, {terminals} of them ended "
        f"by the environment",
        f"  observations ({dataset.obs_dim},)   actions ({dataset.action_dim},)   rewards "
        f"{float(dataset.rewards.min()):.3g} … {float(dataset.rewards.max()):.3g}",
        f"  return {info.mean_return:.1f} ± {info.std_return:.1f}; {score}",
        f"  environment: {env_id or 'not recorded'}",
        f"  scores on it {'compare' if info.comparable else 'do NOT compare'} with published ones",
    ]
