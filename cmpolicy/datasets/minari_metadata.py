"""Metadata of a Minari dataset: data of a stranger, read without making anything of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmpolicy.datasets.dict_observations import leaf_keys
from cmpolicy.datasets.transitions import DatasetInfo
from cmpolicy.errors import InputError

PUBLISHED = ("D4RL/", "mujoco/")  # the namespaces in which Farama publishes


class MinariMetadata(NamedTuple):
    """What the reader must know, and what goes into the dataset's `info`."""

    info: DatasetInfo
    episodes: int
    data_format: str


def read_metadata(file: Path) -> MinariMetadata:
    """Read `metadata.json`.

    Of recorded environments the id, keyword arguments, time limit and names of wrappers count,
    never the entry points.

    Raises:
        InputError: names the file and the entry that is missing or of another kind.
    """
    try:
        raw = _mapping(file, "the file", json.loads(file.read_text()))
        return _metadata(file, raw)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON as Minari writes it ({error})") from None


def _metadata(file: Path, raw: Mapping[str, Any]) -> MinariMetadata:
    dataset_id = _entry(file, raw, "dataset_id", str)
    spec = _entry(file, raw, "eval_env_spec", str, None) or _entry(file, raw, "env_spec", str, None)
    actions = _space(file, raw, "action_space")
    if actions["type"] != "Box" or not _is_vector(actions):
        raise InputError(f"{file}: the actions are {_said(actions)}, expected a Box vector")
    tree = _tree(file, _space(file, raw, "observation_space"))
    info = DatasetInfo(
        dataset_id=dataset_id,
        source="minari",
        comparable=dataset_id.startswith(PUBLISHED),
        ref_min_score=_entry(file, raw, "ref_min_score", (int, float), None),
        ref_max_score=_entry(file, raw, "ref_max_score", (int, float), None),
        observation_keys=leaf_keys(tree) if isinstance(tree, dict) else None,
        **(_environment(file, spec) if spec else {}),
    )
    episodes = _entry(file, raw, "total_episodes", int)
    return MinariMetadata(info, episodes, _entry(file, raw, "data_format", str, "hdf5"))


_REQUIRED = object()


def _entry(
    file: Path, raw: Mapping[str, Any], key: str, kind: Any, default: Any = _REQUIRED
) -> Any:
    value = raw.get(key, default)
    if value is default is not _REQUIRED:
        return default
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, kind) or isinstance(value, bool) or not finite:
        got = "nothing" if value is _REQUIRED else repr(value)[:80]
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{file}: {key} is {got}, expected {names}")
    return value


def _mapping(file: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{file}: {name} holds {repr(value)[:80]}, expected a JSON object")
    return value


def _json(file: Path, name: str, text: str) -> dict[str, Any]:
    try:
        return _mapping(file, name, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: {name} is not JSON ({error})") from None


def _environment(file: Path, text: str) -> dict[str, Any]:
    spec = _json(file, "env_spec", text)
    wrappers = _entry(file, spec, "additional_wrappers", (list, tuple), None) or []
    limit = _entry(file, spec, "max_episode_steps", int, None)
    if limit is not None and limit < 1:
        raise InputError(f"{file}: max_episode_steps is {limit}, expected at least 1")
    return {
        "env_id": _entry(file, spec, "id", str),
        "env_kwargs": _entry(file, spec, "kwargs", dict, None) or {},
        "max_episode_steps": limit,
        "env_wrappers": [
            {
                "name": _entry(file, _mapping(file, "a wrapper", wrapper), "name", str),
                "kwargs": _entry(file, wrapper, "kwargs", dict, None) or {},
            }
            for wrapper in wrappers
        ],
    }


def _space(file: Path, raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    space = _json(file, key, _entry(file, raw, key, str))
    _entry(file, space, "type", str)
    return space


def _tree(file: Path, space: Any) -> dict[str, Any] | None:
    """Nest the subspaces of a dictionary, down to None for vectors."""
    kind = space.get("type") if isinstance(space, dict) else None
    if kind == "Dict" and isinstance(space.get("subspaces"), dict) and space["subspaces"]:
        return {key: _tree(file, below) for key, below in space["subspaces"].items()}
    if kind == "Box" and _is_vector(space):
        try:
            if np.dtype(space.get("dtype")).kind in "fiub":
                return None
        except (TypeError, ValueError):
            pass
        raise InputError(f"{file}: an observation has dtype {space.get('dtype')!r}, not a number's")
    raise InputError(
        f"{file}: the observations are {_said(space)}, expected vectors or dictionaries of vectors"
    )


def _is_vector(space: Mapping[str, Any]) -> bool:
    return isinstance(space.get("shape"), list) and len(space["shape"]) == 1


def _said(space: Any) -> str:
    kind = space.get("type") if isinstance(space, dict) else repr(space)[:40]
    return f"{kind} of shape {space.get('shape')}" if kind == "Box" else str(kind)
