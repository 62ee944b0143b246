"""`--help`: every key of every command is explained, and nothing that does not apply is listed."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from cmpolicy import edit, evaluate, export, report, sample, select, train
from cmpolicy.cli.help import meanings

COMMANDS = [
    (train,),
    *((train, f"agent={name}") for name in ("ac", "ac_ding_jin", "bc", "diffusion_ql", "iql")),
    *((train, "--config-name", name) for name in ("toy", "image")),
    *((module,) for module in (evaluate, select, sample, edit, export)),
]


@pytest.fixture
def shown(command: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """shown(module, *arguments): what the help of a command prints."""

    def call(module: Any, *arguments: str) -> str:
        printed: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cmpolicy.cli.help.print_quietly", printed.append)
            assert command(module, *arguments, "--help") == (0, "")
        return printed[0]

    return call


@pytest.mark.parametrize("call", COMMANDS, ids=lambda c: " ".join(map(str, c[1:])) or c[0].__name__)
def test_every_key_is_explained(call: tuple[Any, ...], shown: Any) -> None:
    text = shown(*call)
    assert text.startswith(call[0].__doc__.splitlines()[0])
    keys = re.findall(r"^  (\w[\w.]*)=(.*)\n(.*)", text, re.MULTILINE)
    assert len(keys) > 3
    assert [key for key, _, below in keys if not below.startswith(" " * 6)] == []
    assert not any(key.startswith("hydra") for key, *_ in keys)


def test_only_what_applies_is_listed(shown: Any) -> None:
    agent, toy, image = (
        shown(train, *more) for more in ((), ("--config-name", "toy"), ("--config-name=image",))
    )
    assert "\n  agent  [ac], ac_ding_jin, bc," in agent
    assert "hopper-medium" in agent
    assert "agent.radius=0.1\n      r, mean length" in agent
    assert "\n  image_loss" not in agent
    assert not re.search(r"^  (env|agent)", toy, re.MULTILINE)
    assert "\n  toy=three_gmm\n" in toy
    assert "\n  image_loss  [cd], ct" in image
    assert "agent.radius" not in shown(train, "agent=bc")
    assert "[bc]" in shown(train, "agent=bc")
    assert "\n  steps=7\n" in shown(train, "steps=7")
    assert "\n  run=REQUIRED\n" in shown(sample)
    assert "Choices" not in shown(sample)


def test_a_wrong_choice_is_one_line(command: Any) -> None:
    code, err = command(train, "agent=ad", "--help")
    assert code == 2
    assert "agent 'ad' is not installed; choose one of: ac, ac_ding_jin" in err
    assert err.count("\n") == 1


@dataclass
class Base:
    """Things.

    Attributes:
        one, two: of both kinds:
            ``three``.
        four: last.

    Raises:
        ValueError: never.
    """

    one: int = 1
    two: int = 2
    four: int = 4  # as the docstring says


@dataclass
class Derived(Base):
    """More.

    Attributes:
        four: first.
    """

    # above
    # in two lines
    five: list[int] | None = None
    six: int = 6  # behind
    seven: int = 7


def test_meanings_come_from_docstrings_and_comments() -> None:
    both = "of both kinds: ``three``."
    assert meanings(Derived) == {
        **{"one": both, "two": both, "four": "first."},
        **{"five": "above in two lines", "six": "behind"},
    }


@pytest.mark.slow
def test_a_reader_may_leave_early() -> None:
    for module in (train, report):
        line = f"{sys.executable} -m {module.__name__} --help | head -n 1"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert done.stdout == module.__doc__.splitlines()[0] + "\n"
    closed = (
        "import sys; from cmpolicy.cli.help import print_quietly; print_quietly('x\\n' * 10**6)"
    )
    line = f'{sys.executable} -c "{closed}" | head -n 1'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("x\n", "")
