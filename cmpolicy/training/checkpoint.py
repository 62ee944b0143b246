"""Training states on disk: nested dicts and lists of tensors and JSON values, without pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmpolicy.errors import InputError
from cmpolicy.tensor_file import read_tensors, write_tensors

FORMAT = "cmpolicy.checkpoint.v2"
TENSOR = "__tensor__"  # in the JSON tree, {TENSOR: name} stands for a tensor
CHANNELS_LAST = "channels_last"  # beside it: the tensor had this memory layout


def save_state(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Write `state` to `path`, whole or not at all; the file before it moves to `keep`."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(split(state, "", tensors))
    write_tensors(path, FORMAT, tensors, {"tree": tree}, keep)


def load_state(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        InputError: if the file is missing, damaged, or not a checkpoint of this version.
    """
    try:
        tensors, text = read_tensors(path, FORMAT, device)
        state = join(json.loads(text["tree"]), tensors)
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {path}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged or not a checkpoint: {reason}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is damaged or not a checkpoint: it holds no state")
    return state


def split(node: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON tree of `node`; its tensors move into `tensors` under their path.

    Raises:
        TypeError: for a value that is neither a tensor nor JSON.
    """
    if isinstance(node, Tensor):
        name = prefix if prefix not in tensors else f"{prefix}#{len(tensors)}"
        tensors[name] = node.detach().clone(memory_format=torch.contiguous_format).cpu()
        # Fused Adam walks through weights and moments in the order of their memory.
        channels_last = node.ndim == 4 and not node.is_contiguous()
        channels_last &= node.is_contiguous(memory_format=torch.channels_last)
        return {TENSOR: name, **({CHANNELS_LAST: True} if channels_last else {})}
    if isinstance(node, dict):
        # Keys are kept with their type: an optimiser numbers its parameters with ints.
        return [
            "dict",
            [[key, split(value, f"{prefix}/{key}", tensors)] for key, value in node.items()],
        ]
    if isinstance(node, list | tuple):
        return ["list", [split(v, f"{prefix}/{i}", tensors) for i, v in enumerate(node)]]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"cannot save {type(node).__name__} at {prefix}")


def join(node: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `split`; tuples come back as lists."""
    if isinstance(node, dict):
        tensor = tensors[node[TENSOR]]
        if node.get(CHANNELS_LAST) and tensor.ndim == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor
    if isinstance(node, list):
        kind, children = node
        if kind == "dict":
            return {key: join(value, tensors) for key, value in children}
        return [join(value, tensors) for value in children]
    return node
