"""Turns of a peer whose Python is not ours: a child process makes updates when it is asked.

A line to the child is a number of updates; its answer is the seconds they took by its own clock.
The first line that it writes holds the versions of what it is made of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import IO, Any

# of PyTorch and NumPy, and of XLA
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


# The parent's side ----------------------------------------------------------------------------


class Child:
    """A peer in a process of its own: called with a number of updates, it gives their seconds.

    It is to be called once it is ready.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self.name, self.process, self.errors = name, process, errors

    def ready(self) -> dict[str, str]:
        """Wait until it is made; the versions of what it is made of."""
        versions: dict[str, str] = json.loads(self.answer())
        return versions

    def __call__(self, updates: int) -> float:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write(f"{updates}\n".encode())
        return float(self.answer())

    def answer(self) -> bytes:
        """The next line.

        Raises:
            SystemExit: if the child has ended, with the last line of what it had to say.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").strip().splitlines()
            sys.exit(f"{self.name} ended with {code}: {said[-1] if said else 'not a word'}")
        return line


@contextmanager
def child(name: str, command: Sequence[str]) -> Iterator[Child]:
    """Start a child, which ends with the block."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **ONE_THREAD},
        ) as process,
    ):
        try:
            yield Child(name, process, errors)
        finally:
            process.terminate()


# The child's side -----------------------------------------------------------------------------


def serve(
    build: Callable[[], Callable[[int], Any]],
    packages: Sequence[str] = (),
    clock: Callable[[], float] = time.process_time,
) -> None:
    """Answer until the parent is gone.

    Args:
        build: makes the peer, and gives what makes so many updates and returns once they are done.
        packages: whose versions are told.
        clock: of the answers; the process's own counts all of its threads.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # libraries print too
        turn = build()
        print(json.dumps({name: version(name) for name in packages}), file=answers, flush=True)
        for line in sys.stdin:
            begin = clock()
            turn(int(line))
            print(clock() - begin, file=answers, flush=True)
