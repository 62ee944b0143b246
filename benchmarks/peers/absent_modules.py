"""Import research code without the environments, loggers and command lines that it imports too."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ABSENT = (
    *("d4rl", "distrax", "gym", "h5py", "omegaconf", "pydantic", "pyrallis", "tqdm", "tqdm.auto"),
    *("tensorflow_probability", "tensorflow_probability.substrates"),
    *("tensorflow_probability.substrates.jax", "src.utils.vd4rl_utils", "wandb"),
)


class Nothing:
    """Stands for whatever is taken from an absent module: a class, or a decorator."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, decorated: Any) -> Any:
        return decorated


class AbsentModule(ModuleType):
    """Holds nothing, and has it under any name."""

    __path__: MutableSequence[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}", Nothing)


@contextmanager
def importable(folder: Path, *roots: str) -> Iterator[None]:
    """Import from a folder whose top-level names are `roots`; they are forgotten afterwards.

    Meanwhile the modules of `ABSENT` are empty ones, even where they are installed.

    Raises:
        SystemExit: if the folder is not there.
    """
    if not folder.is_dir():
        sys.exit(f"no folder {folder}: give a folder with clones of the repositories")

    def foreign(name: str) -> bool:
        return name.partition(".")[0] in (*roots, *ABSENT)

    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if foreign(name)}
    sys.modules.update({name: AbsentModule(name) for name in ABSENT})
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))
        for name in [name for name in sys.modules if foreign(name)]:
            del sys.modules[name]
        sys.modules.update(kept)
