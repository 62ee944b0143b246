"""Data whose observations are pictures: kept as uint8, in a file where they are large."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cmpolicy.datasets.transitions import LARGE, DatasetInfo, TransitionDataset
from cmpolicy.errors import InputError, one_line

MOST = 1 << 24  # pictures: their numbers are exact in float32


def load_npz(path: Path, info: DatasetInfo | None = None) -> TransitionDataset:
    """Read recorded steps with pictures from NumPy's archive.

    It holds `observations` (N, height, width, channels) or (N, channels, height, width), uint8,
    `actions` (N, action_dim) and `terminals` or `timeouts` (N,), where episodes end; and perhaps
    `rewards` (N,), zero where there are none, and `states` (N, k), other entries of each
    observation. The environment's dictionaries have the picture first, too, and vectors after it.

    Raises:
        InputError: no such file, a key missing, arrays that do not fit.
    """
    try:
        with np.load(path) as file:
            columns = {key: file[key] for key in file.files if key != "observations"}
        pictures = read_pictures(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = one_line(error)
        raise InputError(f"{path} is no archive of pictures, or damaged: {reason}") from None
    if "actions" not in columns or not {"terminals", "timeouts"} & columns.keys():
        there = ", ".join(columns)
        raise InputError(f"{path} has {there}; expected actions, and terminals or timeouts")
    info = info or DatasetInfo(path.stem, "file")
    return with_pictures(pictures, columns, dataclasses.replace(info, path=str(path)))


def with_pictures(
    pictures: NDArray[np.uint8], columns: dict[str, Any], info: DatasetInfo
) -> TransitionDataset:
    """Make a dataset of pictures, (N, …) uint8, and of what else `load_npz` names.

    Raises:
        InputError: for another shape or dtype, or lengths that differ.
    """
    count = len(pictures)
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or count > MOST:
        raise InputError(
            f"observations have shape {pictures.shape} and dtype {pictures.dtype}, expected at "
            f"most {MOST} pictures, (steps, height, width, channels) or (steps, channels, height, "
            "width) of uint8"
        )
    none = np.zeros(count, np.bool_)
    dataset = TransitionDataset.from_arrays(
        np.arange(count, dtype=np.float32)[:, None],
        columns["actions"],
        columns.get("rewards", np.zeros(count, np.float32)),
        columns.get("terminals", none),
        columns.get("timeouts", none),
        info=dataclasses.replace(info, picture_shape=list(pictures.shape[1:])),
    )
    flat = pictures.reshape(count, -1)
    if "states" in columns:
        flat = np.concatenate([flat, columns["states"]], axis=1, dtype=np.float32)
    return dataset.changed(frames=torch.from_numpy(flat))


def read_pictures(path: Path) -> NDArray[Any]:
    """The observations of an archive; large ones mapped from a file beside it, made once."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("observations.npy")
        if member.file_size < LARGE:
            with np.load(path) as file:
                small: NDArray[Any] = file["observations"]
                return small
        beside = path.with_suffix(".observations.npy")
        if not beside.is_file() or beside.stat().st_mtime < path.stat().st_mtime:
            part = beside.with_suffix(".part")
            with archive.open(member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            part.replace(beside)
    mapped: NDArray[Any] = np.load(beside, mmap_mode="c")  # torch wants memory that can be written
    return mapped
