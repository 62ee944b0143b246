"""A configuration from Python: what a command line with the same choices and values would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
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
            OmegaConf.update(config, key, plain(value), merge=isinstance(value, Mapping))
        check_keys(config)
        return OmegaConf.to_object(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error)) from None
    finally:
        GlobalHydra.instance().hydra = before  # which may be another instance


def plain(value: Any) -> Any:
    """A value of Python as OmegaConf takes it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
