"""Keys of configurations: which are unknown, and what is said of a wrong one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher

from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from cmpolicy.errors import InputError

SIMILAR = 0.7  # from which similarity of two keys on one is taken for the other misspelt


def check_keys(config: DictConfig) -> None:
    """Raise InputError for a key that no schema has, which `+key=value` adds."""
    known = dict(keys_of(config))
    for key, in_schema in known.items():
        if not in_schema:
            others = [other for other, is_known in known.items() if is_known]
            raise InputError(f"there is no key {key}{nearest(key, others)}")


def keys_of(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """All keys below `config`, as ``agent.policy.steps``, and whether its schema has them."""
    kind = OmegaConf.get_type(config)
    fields = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else None
    for name in map(str, config):
        yield f"{prefix}{name}", fields is None or name in fields
        if not OmegaConf.is_missing(config, name) and isinstance(config[name], DictConfig):
            yield from keys_of(config[name], f"{prefix}{name}.")


def nearest(key: str, known: Iterable[str]) -> str:
    """`` (did you mean …?)`` for the known key that is most like `key`, or nothing."""

    def similarity(other: str) -> float:
        pairs = ((key, other), (key.rpartition(".")[2], other.rpartition(".")[2]))
        whole, last = (SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return max(whole, last) + 0.01 * whole

    best = max(known, key=similarity, default=None)
    return f" (did you mean {best}?)" if best and similarity(best) >= SIMILAR else ""


def explain(error: BaseException) -> str:
    """One line for an error: what was wrong, what was expected."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = sorted(option for option in error.options if not option.endswith("_schema"))
        hint = nearest(name, options)
        missing = f"agent {name!r} is not installed" if group == "agent" else None
        missing = missing or f"there is no {group}={name}"
        return f"{missing}{hint}; choose one of: {', '.join(options)}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MissingMandatoryValue):
            return f"{cause.full_key} is missing; give {cause.full_key}=VALUE"
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            known = [str(key) for key in cause.parent_node or ()]
            key = str(cause.full_key)
            return f"there is no key {key}{nearest(key, known)}; there are: {', '.join(known)}"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key and cause.msg:
            return f"{cause.full_key}: {' '.join(cause.msg.split())}"
        cause = cause.__cause__
    return " ".join(str(error).split())
