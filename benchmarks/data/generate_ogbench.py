"""Data of OGBench (Park et al. 2025) made again, by its own environments and oracles.

    python benchmarks/data/generate_ogbench.py cube-single-play out=~/.ogbench/data
    python benchmarks/data/generate_ogbench.py pointmaze-large-stitch out=DIR part=500
    python benchmarks/data/generate_ogbench.py cube-single-play out=DIR first=0 last=550

Names: cube-single-play, scene-play, puzzle-3x3-play: 1,000 episodes of 1,001 steps by the scripted
oracles, noise 0.1, smoothing 0.5; pointmaze-{medium,large}-navigate: 1,000 of 1,001, noise 0.5;
pointmaze-{medium,large}-stitch: 5,000 of 201, noise 0.5. Those are the published settings. A tenth
as many episodes more are for validation. NAME-v0.npz and NAME-v0-val.npz have OGBench's layout and
a key `generated_by`, by which scores on them are told from those on the published files.

Options:
    out          folder of the files; parts are kept in OUT/NAME-v0.parts until all are there
    seed         of all; every episode has a seed of its own made of this and its number
    part         episodes a part: what is lost when the process is killed
    first, last  do only the episodes from `first` up to but without `last`, so that several
                 processes can share the work
    episodes, steps  others than published, to try it

The same command goes on where it stopped. The files do not depend on `part`, `first` and `last`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))

from command_line import read_options
from episode_columns import Columns


class Published(NamedTuple):
    """The settings of a data set."""

    episodes: int
    steps: int  # of an episode
    noise: float


PLAY, NAVIGATE, STITCH = (
    Published(1_000, 1_001, 0.1),
    Published(1_000, 1_001, 0.5),
    Published(5_000, 201, 0.5),
)
SETS = {
    **{f"{scene}-play": PLAY for scene in ("cube-single", "scene", "puzzle-3x3")},
    **{f"pointmaze-{maze}-navigate": NAVIGATE for maze in ("medium", "large")},
    **{f"pointmaze-{maze}-stitch": STITCH for maze in ("medium", "large")},
}


def main(arguments: Sequence[str]) -> None:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    name, *rest = arguments
    if name not in SETS:
        sys.exit(f"no set {name!r}, expected one of {', '.join(SETS)}")
    published = SETS[name]
    defaults = {
        **{"out": "~/.ogbench/data", "seed": 0, "part": 25, "first": 0, "last": None},
        **{"episodes": published.episodes, "steps": published.steps},
    }
    options = read_options(rest, defaults)
    setting = published._replace(episodes=options["episodes"], steps=options["steps"])
    out = Path(options["out"]).expanduser()
    total = setting.episodes + setting.episodes // 10
    last = total if options["last"] is None else min(options["last"], total)
    folder = out / f"{name}-v0.parts"
    make_parts(
        folder, name, setting, options["seed"], range(options["first"], last), options["part"]
    )
    if not join_parts(folder, out / f"{name}-v0", setting, {"seed": options["seed"], "set": name}):
        print("other episodes are still to be made")


def make_parts(
    folder: Path, name: str, setting: Published, seed: int, episodes: range, size: int
) -> None:
    """Make the episodes that no part holds yet, `size` a file."""
    folder.mkdir(parents=True, exist_ok=True)
    have = done_episodes(folder)
    missing = [i for i in episodes if i not in have]
    if not missing:
        return
    play = player(name, setting)
    begin = time.perf_counter()
    for at in range(0, len(missing), size):
        numbers = missing[at : at + size]
        made = [play(seed, number) for number in numbers]
        columns = {key: np.concatenate([one[key] for one in made]) for key in made[0]}
        numbered = np.repeat(numbers, [len(one["terminals"]) for one in made])
        path = folder / f"{numbers[0]:05d}-{numbers[-1]:05d}.npz"
        save(path, {**columns, "episode": numbered})
        steps = (at + len(numbers)) * setting.steps
        speed = steps / (time.perf_counter() - begin)
        left = (len(missing) - at - len(numbers)) * setting.steps / speed / 60
        print(f"{path.name}: {speed:.0f} steps/s, {left:.0f} minutes to go", flush=True)


def player(name: str, setting: Published) -> Callable[[int, int], Columns]:
    """What plays an episode: (seed, its number) → columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds of observations in float64
        if name.startswith("pointmaze"):
            from ogbench_mazes import MazeEpisodes

            return MazeEpisodes(name, setting.steps, setting.noise).play
        from ogbench_play import PlayEpisodes

        return PlayEpisodes(name, setting.steps, setting.noise).play


def done_episodes(folder: Path) -> set[int]:
    """The numbers of the episodes that parts hold."""
    found: set[int] = set()
    for path in folder.glob("*.npz"):
        with np.load(path) as part:
            found.update(np.unique(part["episode"]).tolist())
    return found


def join_parts(folder: Path, stem: Path, setting: Published, about: Mapping[str, Any]) -> bool:
    """Write the file of the first episodes, and that of the rest; False if some are missing."""
    total = setting.episodes + setting.episodes // 10
    if not set(range(total)) <= done_episodes(folder):
        return False
    parts = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    episode = columns.pop("episode")
    once = np.flatnonzero(np.diff(episode, prepend=-1))  # two processes may have made the same
    order = [once[episode[once] == number][0] + np.arange(setting.steps) for number in range(total)]
    rows = np.concatenate(order)
    note = json.dumps({**about, **setting._asdict(), "script": "benchmarks/data"})
    cut = setting.episodes * setting.steps
    for path, index in ((f"{stem}.npz", rows[:cut]), (f"{stem}-val.npz", rows[cut:])):
        if len(index):
            whole = {key: column[index] for key, column in columns.items()}
            save(Path(path), {**whole, "generated_by": np.array(note)})
            print(f"{path}: {len(index)} steps")
    return True


def save(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **columns)  # type: ignore[arg-type]
    part.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
