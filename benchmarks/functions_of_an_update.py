"""The functions and files of the package that one update of an agent passes, in order.

    python benchmarks/functions_of_an_update.py [agent=ac] [update=2] [most_functions=50]
        [most_files=12]

A short run of `cmpolicy.train` on the bundled Hopper sample, without compiling. Counted, with
`sys.setprofile`, is what runs from the start of one call of the agent's `update` to the start of
the next: the update, the training loop and the draw of the next batch. Every function counts once,
comprehensions with the function they stand in. `update` says which call is counted; the first one
also prepares things. Ends with 1 where there are more functions or files than `most_functions` and
`most_files`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from command_line import read_options

import cmpolicy
from cmpolicy.agents import AGENTS
from cmpolicy.train import main as train

PACKAGE = Path(cmpolicy.__file__).parent
DEFAULTS = {"agent": "ac", "update": 2, "most_functions": 50, "most_files": 12}
RUN = [
    *("env=hopper-medium", "dataset.source=sample", "batch_size=256", "accelerate=off"),
    *("device=cpu", "precision=fp32", "threads=1", "progress=false", "eval.episodes=1"),
]


def main(arguments: list[str]) -> None:
    options = read_options(arguments, DEFAULTS)
    codes, of_update = codes_of_update(options["agent"], options["update"])
    functions = [where(code) for code in codes]
    width = max(len(file) for file, _ in functions)
    for number, (file, function) in enumerate(functions, 1):
        if number == of_update + 1:
            print("after `update`: the training loop, the next batch")
        print(f"{number:3} {file:{width}} {function}")
    alone, files = (len({file for file, _ in part}) for part in (functions[:of_update], functions))
    print(f"`update` of {options['agent']} alone: {of_update} functions in {alone} files")
    print(f"with loop and batch: {len(functions)} functions in {files} files")
    if len(functions) > options["most_functions"] or files > options["most_files"]:
        sys.exit(1)


def codes_of_update(agent: str, number: int) -> tuple[list[CodeType], int]:
    """The code of every function of the package in the order of their first calls, from the start
    of update `number` to the start of the next; and how many of them `update` itself called.
    """
    agent_type, calls, of_update = AGENTS[agent], 0, 0
    update, seen = agent_type.update, dict[CodeType, None]()

    def record(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        comprehension = code.co_name.startswith("<") and code.co_name != "<lambda>"
        if event == "call" and not comprehension and PACKAGE in Path(code.co_filename).parents:
            seen.setdefault(code)

    def counted(self: Any, batch: Any) -> Any:
        nonlocal calls, of_update
        sys.setprofile(None)
        calls += 1
        if calls == number:
            sys.setprofile(record)
        metrics = update(self, batch)
        if calls == number:
            of_update = len(seen)
        return metrics

    given = sys.argv
    with tempfile.TemporaryDirectory() as folder:
        steps = [f"steps={number + 1}", f"eval.every={number + 1}", f"run_dir={folder}/run"]
        sys.argv = ["train", f"agent={agent}", *RUN, *steps]
        agent_type.update = counted  # type: ignore[method-assign]
        try:
            train()
        finally:
            sys.setprofile(None)
            agent_type.update, sys.argv = update, given  # type: ignore[method-assign]
    return list(seen), of_update


def where(code: CodeType) -> tuple[str, str]:
    """File and qualified name of a function."""
    return str(Path(code.co_filename).relative_to(PACKAGE)), code.co_qualname


if __name__ == "__main__":
    main(sys.argv[1:])
