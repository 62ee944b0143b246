"""From a task's name to its transitions: where they are looked for, and in which order."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from cmpolicy.datasets.d4rl_catalogue import D4RL_FILES, recognised
from cmpolicy.datasets.d4rl_download import d4rl_directory, d4rl_on_disk, download_d4rl
from cmpolicy.datasets.d4rl_hdf5 import load_hdf5
from cmpolicy.datasets.d4rl_package import load_d4rl_package
from cmpolicy.datasets.minari_source import (
    download_minari,
    load_minari,
    minari_directory,
    minari_on_disk,
)
from cmpolicy.datasets.ogbench import (
    download_ogbench,
    load_ogbench,
    ogbench_directory,
    ogbench_names,
    ogbench_on_disk,
)
from cmpolicy.datasets.pictures import load_npz
from cmpolicy.datasets.transitions import DatasetInfo, TransitionDataset
from cmpolicy.errors import InputError

logger = logging.getLogger(__name__)

SAMPLES = {"hopper-medium": Path(__file__).parent / "sample" / "hopper-medium.hdf5"}

# the places each `source` looks in, in this order
SOURCES: dict[str, tuple[str, ...]] = {
    "auto": ("d4rl_disk", "minari_disk", "d4rl_download", "minari_download", "sample"),
    "d4rl": ("d4rl_disk", "d4rl_download"),
    "minari": ("minari_disk", "minari_download"),
    "ogbench": ("ogbench_disk", "ogbench_download"),
    "d4rl_package": ("d4rl_package",),
    "sample": ("sample",),
}


@dataclass(frozen=True)
class Wanted:
    """What is looked for.

    Attributes:
        name: the task, such as `hopper-medium`.
        d4rl_id, minari_id, ogbench_id: ids of D4RL, Minari and OGBench for it, if they have it.
        max_episode_steps, registered_limit: where episodes of flat files without `timeouts` were
            cut, as configured and as the evaluation environment has it; see `time_limit`.
    """

    name: str
    d4rl_id: str | None = None
    minari_id: str | None = None
    ogbench_id: str | None = None
    max_episode_steps: int | None = None
    registered_limit: int | None = None

    def load_hdf5(
        self, path: Path, info: DatasetInfo | None = None, limit: int | None = None
    ) -> TransitionDataset:
        """Read a file; `limit` is D4RL's for it."""
        steps = self.max_episode_steps or limit
        return load_hdf5(
            path, max_episode_steps=steps, registered_limit=self.registered_limit, info=info
        )


def resolve_dataset(
    name: str,
    d4rl_id: str | None = None,
    minari_id: str | None = None,
    source: str = "auto",
    path: str | PathLike[str] | None = None,
    *,
    ogbench_id: str | None = None,
    max_episode_steps: int | None = None,
    registered_limit: int | None = None,
) -> TransitionDataset:
    """Give the transitions of a task, from the first place that has them.

    `auto` looks for D4RL's file on disk, Minari's dataset on disk, D4RL's download, Minari's
    download, and the small sample in the package (hopper-medium only). Without a network that
    takes less than 15 seconds. What is on disk but broken is an error, never passed over. Each
    try is one line in the log; `info.source` and `info.dataset_id` say what was taken.

    Args:
        name, d4rl_id, minari_id, ogbench_id, max_episode_steps, registered_limit: see `Wanted`.
        source: a key of `SOURCES`; all but `auto` force one kind. A task of OGBench's is looked for
            there alone.
        path: an HDF5 file, a Minari dataset's directory or id, OGBench's file, or an archive of
            pictures, used instead.

    Raises:
        InputError: an unknown source, a broken file, or nothing anywhere.
    """
    wanted = Wanted(name, d4rl_id, minari_id, ogbench_id, max_episode_steps, registered_limit)
    if path is not None:
        return _logged(name, load_path(path, wanted))
    if source not in SOURCES:
        raise InputError(f"no dataset source {source!r}, expected one of {', '.join(SOURCES)}")
    tried, source = [], "ogbench" if ogbench_id and source == "auto" else source
    for place in SOURCES[source]:
        found = _PLACES[place](wanted)
        if isinstance(found, TransitionDataset):
            return _logged(name, found)
        logger.info("%s: %s", name, found)
        tried.append(found)
    raise InputError(
        f"no data for {name}: {'; '.join(tried)}. "
        "Put a file there, or set dataset.path to an HDF5 file or a Minari dataset"
    )


def load_path(
    path: str | PathLike[str],
    wanted: Wanted = Wanted("custom"),  # frozen
) -> TransitionDataset:
    """Read an HDF5 file, a Minari dataset's directory, or a Minari id, local or else downloaded.

    A D4RL file is recognised by its name and size.

    Raises:
        InputError: nothing of that kind there, or it does not read.
    """
    place = Path(path).expanduser()
    if wanted.ogbench_id is not None and place.is_file():
        return load_ogbench(wanted.ogbench_id, place)
    if place.is_dir():
        parts = sorted(place.glob("*.hdf5")) + sorted(place.glob("*.h5"))
        if parts and not (place / "data").is_dir():
            raise InputError(
                f"{place} is a folder of HDF5 files ({parts[0].name}, …), expected one file or a "
                "Minari dataset; append the arrays of all to one file first"
            )
        return load_minari(place)
    if not place.exists() and re.fullmatch(r"[-\w]+(/[-\w]+)*-v\d+", str(path)):
        if not minari_on_disk(str(path)):
            try:
                download_minari(str(path))
            except InputError as error:
                raise InputError(
                    f"no {path} in {minari_directory()}, which MINARI_DATASETS_PATH can change; "
                    f"downloading it failed: {error}"
                ) from None
        return load_minari(str(path))
    if place.suffix == ".npz" and place.is_file():
        return load_npz(place)
    d4rl_id = recognised(place) if place.is_file() else None
    if d4rl_id is None:
        return wanted.load_hdf5(place)
    info = DatasetInfo(d4rl_id, "d4rl", comparable=True)
    return wanted.load_hdf5(place, info, D4RL_FILES[d4rl_id].max_episode_steps)


# Each place gives the transitions, or says in a few words why it has none.


def _d4rl_disk(task: Wanted) -> TransitionDataset | str:
    if task.d4rl_id is None:
        return "D4RL has no such task"
    file = d4rl_on_disk(task.d4rl_id)
    if file is None:
        return f"no {task.d4rl_id} in {d4rl_directory()}"
    genuine = recognised(file) == task.d4rl_id
    if not genuine:
        logger.warning("%s is not D4RL's file by its size: its scores are NOT comparable", file)
    info = DatasetInfo(task.d4rl_id, "d4rl", comparable=genuine)
    known = D4RL_FILES.get(task.d4rl_id)
    return task.load_hdf5(file, info, known.max_episode_steps if known else None)


def _minari_disk(task: Wanted) -> TransitionDataset | str:
    if task.minari_id is None:
        return "Minari has no such task"
    if minari_on_disk(task.minari_id) is None:
        return f"no {task.minari_id} in {minari_directory()}"
    return load_minari(task.minari_id)


def _downloaded(
    dataset_id: str | None, download: Callable[[str], Path], place: Place, task: Wanted
) -> TransitionDataset | str:
    if dataset_id is None:
        return "nothing to download"
    try:
        download(dataset_id)
    except InputError as error:
        return str(error)
    return place(task)


def _ogbench_disk(task: Wanted) -> TransitionDataset | str:
    if task.ogbench_id is None:
        return "OGBench has no such task"
    file = ogbench_on_disk(task.ogbench_id)
    if file is None:
        return f"no {ogbench_names(task.ogbench_id)[0]} in {ogbench_directory()}"
    return load_ogbench(task.ogbench_id, file)


def _d4rl_package(task: Wanted) -> TransitionDataset | str:
    return load_d4rl_package(task.d4rl_id) if task.d4rl_id else "D4RL has no such task"


def _sample(task: Wanted) -> TransitionDataset | str:
    if task.name not in SAMPLES:
        return f"no sample of it in the package, only of {', '.join(SAMPLES)}"
    return load_hdf5(SAMPLES[task.name], info=DatasetInfo(f"{task.name}-sample", "sample"))


Place = Callable[[Wanted], TransitionDataset | str]
_PLACES: dict[str, Place] = {
    "d4rl_disk": _d4rl_disk,
    "minari_disk": _minari_disk,
    "d4rl_download": lambda task: _downloaded(task.d4rl_id, download_d4rl, _d4rl_disk, task),
    "minari_download": lambda task: _downloaded(
        task.minari_id, download_minari, _minari_disk, task
    ),
    "ogbench_disk": _ogbench_disk,
    "ogbench_download": lambda task: _downloaded(
        task.ogbench_id, download_ogbench, _ogbench_disk, task
    ),
    "d4rl_package": _d4rl_package,
    "sample": _sample,
}


def _logged(name: str, dataset: TransitionDataset) -> TransitionDataset:
    info = dataset.info
    logger.info(
        "%s: %s from %s (%s): %d transitions, %d episodes, return %.1f ± %.1f",
        *(name, info.dataset_id, info.source, info.path, info.transitions, info.episodes),
        *(info.mean_return, info.std_return),
    )
    if info.source == "sample":
        logger.warning(
            "%s: trained on the small sample in the package, which is NOT D4RL's or Minari's "
            "data: scores on it are NOT comparable to published scores",
            name,
        )
    return dataset
