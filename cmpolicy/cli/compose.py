"""A configuration from Python: what a command line with the same choices and values would give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.cli.keys import check_keys, explain
from cmpolicy.errors import InputError


def compose(config_name: str, choices: Sequence[str], values: Mapping[str, Any]) -> Any:
    """The configuration object of `configs/<config_name>.yaml`.

    Hydra is left as it was: the caller may be inside an application of its own.

    Args:
        choices: of groups, as ``agent=bc``.
        values: of keys, ``agent.learning_rate``; a dictionary sets keys below.

    Raises:
        InputError: for a choice, a key or a type that there is not, in one line.
        ValueError: for a value out of range.
    """
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        with hydra.initialize_config_dir(CONFIG_PATH, job_name="cmpolicy", version_base="1.3"):
            config = hydra.compose(config_name, list(choices))
        for key, value in values.items():
            set_value(config, key, plain(value))
        check_keys(config)
        return OmegaConf.to_object(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error)) from None
    finally:
        GlobalHydra.instance().hydra = before  # which may be another instance


def set_value(config: DictConfig, key: str, value: Any) -> None:
    """Set a key, or of a node with keys of its own those that `value` names."""
    node = OmegaConf.select(config, key)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(OmegaConf.get_type(node)):
        for name, each in value.items():
            set_value(config, f"{key}.{name}", each)
    else:
        OmegaConf.update(config, key, value, merge=False)


def plain(value: Any) -> Any:
    """A value of Python as OmegaConf takes it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
