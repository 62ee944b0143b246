"""Runs pytest again and again in forks of a process that has imported the libraries once.

Each line of the input is a list in JSON: pytest's arguments, a file for what it prints, and the
seconds of the processor that a process may take. The answers are two lines: the process, which
leads a group of its own, and its exit status.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys

import pytest
from command_line import show_help

LIBRARIES = (
    *("numpy", "torch", "torch._dynamo", "gymnasium", "mujoco", "minari", "hydra", "h5py"),
    *("scipy.stats", "sklearn", "torchmetrics", "ot", "PIL.Image", "safetensors.torch", "tqdm"),
)


def main() -> None:
    show_help(sys.argv)
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    for line in sys.stdin:
        arguments, output, seconds = json.loads(line)
        process = os.fork()
        if not process:
            run_pytest(arguments, output, seconds)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def run_pytest(arguments: list[str], output: str, seconds: int) -> None:
    """Run pytest in this process, and end it."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    status = 70
    try:
        status = int(pytest.main(arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
