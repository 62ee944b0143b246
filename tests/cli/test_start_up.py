"""Ctrl-C while a command starts, and terminals that know little."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# sends itself SIGINT when torch is about to be imported
PROGRAM = """
import os, runpy, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
runpy.run_module("cmpolicy." + sys.argv[1], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "edit", "export"])
def test_ctrl_c_while_torch_is_imported_is_one_line(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "stopped by SIGINT\n")


def test_output_survives_a_terminal_that_is_not_utf_8() -> None:
    program = (
        "from cmpolicy.cli import command\n"
        "command.compose_and_call = lambda *a: print('1 ± 2') or {}\n"
        "command.run(print, 'evaluate')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 \\xb1 2\n", "")
