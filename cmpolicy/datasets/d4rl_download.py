"""D4RL's files: where they are, and how they get there."""

from __future__ import annotations

import os
from pathlib import Path

from cmpolicy.datasets.d4rl_catalogue import D4RL_BASE_URL, D4RL_FILES
from cmpolicy.download import download
from cmpolicy.errors import InputError


def d4rl_directory() -> Path:
    """`$D4RL_DATASET_DIR`, or where the `d4rl` package keeps its files: `~/.d4rl/datasets`."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser()


def d4rl_on_disk(dataset_id: str) -> Path | None:
    """The file of a D4RL dataset under `d4rl_directory()`, by D4RL's name for it or its id."""
    names = [f"{dataset_id}.hdf5"]
    if dataset_id in D4RL_FILES:
        names.insert(0, D4RL_FILES[dataset_id].name)
    found = (d4rl_directory() / name for name in names)
    return next((path for path in found if path.is_file()), None)


def download_d4rl(dataset_id: str, mirror: str | None = None) -> Path:
    """Fetch a D4RL dataset into `d4rl_directory()` and return its path.

    A transfer that broke off goes on where it stopped, in this call (`ATTEMPTS` times) and in
    the next. The file appears under its name only when it is whole and its hash is right.

    Args:
        dataset_id: a key of `D4RL_FILES`.
        mirror: replaces `D4RL_BASE_URL`; by default `$D4RL_MIRROR`, if set.

    Raises:
        InputError: unknown id, nobody answers, the transfer breaks, or the hash is wrong.
    """
    if dataset_id not in D4RL_FILES:
        raise InputError(f"no D4RL dataset {dataset_id!r}, expected one of {', '.join(D4RL_FILES)}")
    file = D4RL_FILES[dataset_id]
    base = mirror or os.environ.get("D4RL_MIRROR") or D4RL_BASE_URL
    return download(f"{base.rstrip('/')}/{file.path}", d4rl_directory() / file.name, file.sha256)
