"""Files of policies: one safetensors file of weights, normalisers and configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from cmpolicy.atomic_file import write_atomically
from cmpolicy.errors import InputError

FORMAT = "cmpolicy.policy.v3"
DAMAGED = (
    *(safetensors.SafetensorError, OSError, RuntimeError, TypeError, ValueError, KeyError),
    *(OverflowError, RecursionError, AttributeError),
)
P = TypeVar("P", bound=nn.Module)


def write_policy(path: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> None:
    """Write a file whole or not at all; folders that do not exist are made.

    Args:
        state: of the policy.
        arguments: what its class is called with, JSON.
    """
    tensors = {name: t.contiguous().cpu() for name, t in state.items()}
    text = json.dumps(arguments)
    metadata = {"format": FORMAT, "arguments": text, "sha256": _checksum(tensors, text)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def read_policy(path: Path, make: Callable[..., P]) -> P:
    """The policy of a file, on the CPU. No pickled code is executed.

    Args:
        make: its class.

    Raises:
        InputError: if the file is missing, damaged, of another version, or not a policy.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if (version := metadata.get("format")) != FORMAT:
                raise InputError(
                    f"{path} is not a policy of this version: its format is {version}, "
                    f"expected {FORMAT}; train the policy again"
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["arguments"]
        if metadata.get("sha256") != _checksum(state, text):
            raise ValueError("its checksum differs, so it was changed after it was saved")
        arguments = json.loads(text)
        check_sizes(arguments, state)
        policy = make(**arguments)
        policy.load_state_dict(state)
    except FileNotFoundError:
        raise InputError(f"no policy at {path}") from None
    except DAMAGED as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged or not a policy: {reason}") from error
    return policy


def check_sizes(arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a configuration asks for networks of the size of these weights.

    Made before a network is, which would take whatever memory a file asks for.
    """
    layers = range(len(arguments["hidden"]))
    sizes = {
        "obs_dim": len(state["obs_mean"]),
        "action_dim": len(state["bound.low"]),
        "hidden": [len(state[f"network.layers.{2 * i}.bias"]) for i in layers],
    }
    for name, size in sizes.items():
        if arguments[name] != size:
            raise ValueError(f"its weights have {name} = {size}, not {arguments[name]}")


def _checksum(tensors: Mapping[str, Tensor], arguments: str) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, and of the configuration."""
    content = hashlib.sha256(safetensors.torch.save(dict(tensors)))
    content.update(arguments.encode())
    return content.hexdigest()
