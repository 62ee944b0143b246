"""Files of policies: weights, normalisers and configuration, checked before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from cmpolicy.errors import InputError
from cmpolicy.plugins import NotInstalledError
from cmpolicy.policy.architecture import check_sizes
from cmpolicy.tensor_file import read_tensors, write_tensors
from cmpolicy.training.checkpoint import FORMAT as CHECKPOINT
from cmpolicy.training.checkpoint import join
from cmpolicy.training.run_directory import RunDirectory

FORMAT = "cmpolicy.policy.v4"
OLDER = ("cmpolicy.policy.v3",)  # without mode_of: samples
MODEL = "average_policy."  # what acts, in a checkpoint
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


def read_policy(
    path: Path, kinds: Mapping[str, Callable[..., P]], default: str, own: dict[str, nn.Module]
) -> P:
    """The policy of a file, a run's directory or a checkpoint, on the CPU.

    No pickled code is executed.

    Args:
        kinds, default: classes by name, and the name for older files that say none.
        own: modules that it is made with in place of those that the file names.

    Raises:
        InputError: if the file is missing, damaged, of another version, or not a policy.
    """
    path = policy_file_of(path)
    try:
        arguments, state = read_contents(path)
        check_sizes(arguments | own, state)
        name = arguments.pop("policy", default)
        if name not in kinds:
            raise ValueError(f"it is a {name}; call the method load of that class")
        policy = kinds[name](**arguments | own)
        policy.load_state_dict(state)
    except FileNotFoundError:
        raise InputError(f"no policy at {path}") from None
    except NotInstalledError as error:
        raise InputError(f"{path}: {error}") from None
    except DAMAGED as error:
        reason = str(error).splitlines()[0][:300]
        raise InputError(f"{path} is damaged or not a policy: {reason}") from error
    return policy


def policy_file_of(path: Path) -> Path:
    """Find the file that holds the policy of a run's directory; any other path is a file itself.

    Raises:
        InputError: for a directory without one.
    """
    if not path.is_dir():
        return path
    run = RunDirectory(path)
    for file in (run.last_policy_path, run.checkpoint_path("last")):
        if file.is_file():
            return file
    seeds = ", ".join(sorted(each.name for each in path.glob("seed-*")))
    if seeds:
        raise InputError(f"{path} holds a run for each seed; give {path}/ and one of {seeds}")
    raise InputError(
        f"no policy in {path}: expected policy.safetensors or checkpoints/last.safetensors; "
        "give a run's directory, one of its checkpoints, or a policy's file"
    )


def read_contents(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the class of a policy is called with, and its state.

    Raises:
        FileNotFoundError: if there is no file.
        InputError, ValueError, KeyError: if it is damaged, or holds no policy.
    """
    tensors, text = read_tensors(path, (FORMAT, *OLDER, CHECKPOINT))
    if text["format"] != CHECKPOINT:
        return json.loads(text["arguments"]), tensors
    learner = join(json.loads(text["tree"]), tensors)["learner"]
    if "policy" not in learner:
        raise InputError(
            f"the checkpoint {path} holds no policy: it is of a toy or an image model, or older "
            "than this version, where its run's directory may hold policy.safetensors"
        )
    modules: dict[str, Tensor] = learner["modules"]
    state = {key.removeprefix(MODEL): t for key, t in modules.items() if key.startswith(MODEL)}
    return dict(learner["policy"]), state
