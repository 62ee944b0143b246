"""Inputs of a fuzzer: edits of files for every reader, and command lines."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from faults_inputs import Reader, place_for, readers
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cmpolicy.errors import InputError

MOST_SECONDS, MOST_BYTES = 10.0, 1 << 30
WRONG_VALUES = (ValueError,)  # of a configuration whose value is out of its range

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, 2**31, -1, 0, 10**9])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["nan", "inf", "../x", "os:system", "${oc.env:HOME}", "a\nb", "\x00"]),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=4), below),
    max_leaves=8,
)
byte_edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "zero", "repeat"]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)
tree_edits = st.lists(
    st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.booleans(), values),
    min_size=1,
    max_size=3,
)


def edit_bytes(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """Apply edits, each at a fraction of the length."""
    data = bytearray(content)
    for kind, where, new in edits:
        at = min(int(where * len(data)), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[at] ^= new[0] or 1
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = new
        elif kind == "zero":
            data[at : at + len(new)] = bytes(len(data[at : at + len(new)]))
        else:
            data[at:at] = data[at : at + 64] * (1 + new[0] % 8)
    return bytes(data)


def edit_tree(tree: Any, edits: list[tuple[list[int], bool, Any]]) -> Any:
    """Replace or remove what stands at a path, whose numbers choose among keys."""
    for path, remove, value in edits:
        tree = edited(tree, path, remove, value)
    return tree


def edited(node: Any, path: list[int], remove: bool, value: Any) -> Any:
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = keys[path[0] % len(keys)] if keys else None
    if key is None:
        return value
    below = node[key]
    copied = dict(node) if isinstance(node, dict) else list(node)
    if len(path) > 1 and isinstance(below, dict | list):
        copied[key] = edited(below, path[1:], remove, value)
    elif remove:
        del copied[key]
    else:
        copied[key] = value
    return copied


def apart(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do some work in a process of its own: it may end that process, or take its memory."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            answer = work()
        except BaseException:
            answer = {"wrong": [traceback.format_exc()[-600:]]}
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    return pickle.loads(data) if data else {"wrong": [f"the process ended with {status}"]}


def fuzz_reader(name: str, run: Path, count: int, number: int) -> dict[str, Any]:
    """Read `count` edited files; count what was refused and accepted, and name what was wrong."""

    def work() -> dict[str, Any]:
        reader = readers(run)[name]
        with tempfile.TemporaryDirectory() as folder:
            return read_all(reader, place_for(name, run, Path(folder)), count, number)

    return apart(work)


def read_all(reader: Reader, place: Path, count: int, number: int) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = 0.0
    reader.write(place, reader.content)
    reader.read(place)  # a whole file is accepted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    is_bytes = isinstance(reader.content, bytes)

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(byte_edits if is_bytes else tree_edits)
    def one(edits: Any) -> None:
        nonlocal slowest
        changed = (edit_bytes if is_bytes else edit_tree)(reader.content, edits)
        reader.write(place, changed)
        begin = time.perf_counter()
        outcomes[outcome(lambda: reader.read(place), wrong)] += 1
        slowest = max(slowest, time.perf_counter() - begin)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if slowest > MOST_SECONDS or grown > MOST_BYTES:
        wrong.append(f"{slowest:.1f} s, {grown >> 20} MB")
    return {
        "count": outcomes.total(),
        **outcomes,
        "seconds": slowest,
        "bytes": grown,
        "wrong": wrong,
    }


def outcome(read: Callable[[], Any], wrong: list[str]) -> str:
    """How a reader took a file; an exception other than InputError is wrong."""
    try:
        read()
    except InputError as error:
        if "\n" in str(error):
            wrong.append(f"two lines: {error}")
        return "refused"
    except WRONG_VALUES as error:
        if type(error) is not ValueError or "\n" in str(error):
            wrong.append(f"{type(error).__name__}: {error}")
        return "refused"
    except Exception:
        wrong.append(traceback.format_exc()[-600:])
        return "raised"
    return "accepted"


# Command lines --------------------------------------------------------------------------------

# what each command line ends with, so that nothing is trained: a file or a run that is not there
COMMANDS = {
    "train": ("dataset.path=/nowhere/d.hdf5", "env.id=none"),
    "evaluate": ("run=/nowhere/run",),
    "sample": ("run=/nowhere/run",),
    "edit": ("run=/nowhere/run",),
    "export": ("run=/nowhere/run",),
}
KEYS = (
    *(
        "steps",
        "seed",
        "seeds",
        "device",
        "threads",
        "precision",
        "accelerate",
        "batch_size",
        "env",
    ),
    *(
        "agent",
        "agent.learning_rate",
        "agent.policy.hidden",
        "agent.policy.sigma_max",
        "eval.every",
    ),
    *("agent.policy.loss_options", "eval.parallel", "eval.timeout", "online.steps", "env.kwargs"),
    *("env.max_episode_steps", "run_dir", "output_dir", "resume", "dataset.source", "checkpoint"),
    *(
        "episodes",
        "best_of",
        "video",
        "num_samples",
        "levels",
        "ts",
        "steps",
        "task",
        "label",
        "out",
    ),
)
FLAGS = ("--help", "-m", "--cfg", "job", "--config-name", "toy", "image", "nothing", "-x", "--")
words = st.text("abc019=+~,.:{}[]()'\"$\\ é\n-*/%@", max_size=10)
chosen = (
    st.sampled_from(
        ["nan", "inf", "-1", "0", "1e30", "true", "null", "[1,2]", "{a: 1}", "''", "ac"]
    )
    | st.integers().map(str)
    | st.floats().map(str)
    | words
)
arguments = st.lists(
    st.builds("{}{}={}".format, st.sampled_from(["", "", "+", "~"]), st.sampled_from(KEYS), chosen)
    | st.builds("{}={}".format, words, chosen)
    | st.sampled_from(FLAGS)
    | words.filter(lambda word: not word.startswith("hydra")),
    max_size=4,
)  # fmt: skip


def fuzz_command(name: str, count: int, number: int) -> dict[str, Any]:
    """Call a command with `count` command lines, in a folder that stays empty."""
    return apart(lambda: call_all(name, count, number))


def call_all(name: str, count: int, number: int) -> dict[str, Any]:
    import importlib

    command = importlib.import_module(f"cmpolicy.{name}")
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):

        @seed(number)
        @settings(
            max_examples=count, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(arguments)
        def one(given_arguments: list[str]) -> None:
            line = [*given_arguments, *COMMANDS[name]]
            code, said = call(command, line)
            codes[f"exit {code}"] += 1
            if code not in (0, 2) or "Traceback" in said:
                wrong.append(f"{line}: exit {code}: {said[-300:]}")
            left = [path.name for path in Path(folder).iterdir()]
            if left and "-m" not in line:  # a sweep has a folder of its own, whatever its jobs do
                wrong.append(f"{line}: left behind: {left}")
            for made in left:
                shutil.rmtree(made)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one()
    return {"count": codes.total(), **codes, "wrong": wrong}


def call(command: ModuleType, line: list[str]) -> tuple[int, str]:
    """The exit code of a command in this process, and what it said."""
    said = io.StringIO()
    sys.argv = [f"{command.__name__}.py", *line]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            command.main()
        except SystemExit as left:
            return left.code if isinstance(left.code, int) else 0, said.getvalue()
        except BaseException:
            return 70, said.getvalue() + traceback.format_exc()
    return 0, said.getvalue()
