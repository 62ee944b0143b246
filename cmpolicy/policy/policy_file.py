"""Files of policies: weights, normalisers and configuration, checked before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from cmpolicy.errors import InputError
from cmpolicy.tensor_file import read_tensors, write_tensors

FORMAT = "cmpolicy.policy.v3"
DAMAGED = (RuntimeError, TypeError, ValueError, KeyError, OverflowError, AttributeError)
P = TypeVar("P", bound=nn.Module)


def write_policy(path: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> None:
    """Write a file whole or not at all; folders that do not exist are made.

    Args:
        state: of the policy.
        arguments: what its class is called with, JSON.
    """
    tensors = {name: t.contiguous().cpu() for name, t in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, FORMAT, tensors, {"arguments": json.dumps(arguments)})


def read_policy(path: Path, make: Callable[..., P]) -> P:
    """The policy of a file, on the CPU. No pickled code is executed.

    Args:
        make: its class.

    Raises:
        InputError: if the file is missing, damaged, of another version, or not a policy.
    """
    try:
        state, text = read_tensors(path, FORMAT)
        arguments = json.loads(text["arguments"])
        _check_sizes(arguments, state)
        policy = make(**arguments)
        policy.load_state_dict(state)
    except FileNotFoundError:
        raise InputError(f"no policy at {path}") from None
    except DAMAGED as error:
        reason = str(error).splitlines()[0][:300]
        raise InputError(f"{path} is damaged or not a policy: {reason}") from error
    return policy


def _check_sizes(arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a configuration asks for networks of the size of these weights.

    It comes before the network, which would take whatever memory a file asks for.
    """
    layers = range(len(arguments["hidden"]))
    history, horizon = (arguments.get(key, 1) for key in ("history", "horizon"))
    sizes = {
        "obs_dim": len(state["obs_mean"]) / history,
        "action_dim": len(state["bound.low"]) / horizon,
        "hidden": [len(state[f"network.layers.{2 * i}.bias"]) for i in layers],
    }
    for name, size in sizes.items():
        if arguments[name] != size:
            raise ValueError(f"its weights have {name} = {size}, not {arguments[name]}")
