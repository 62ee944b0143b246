"""FQL by its authors, with their settings, in turns (see turns.py).

    git clone https://github.com/seohongpark/fql
    python benchmarks/peers/fql_turns.py CLONE DATA.npz BATCH_SIZE

Runs in an environment that has JAX (see environment.py). Nothing of theirs is copied or changed:
agent and dataset are imported, and an update is that of their main.py, the drawing of its batch
included.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import serve


def build(clone: Path, data: Path, batch_size: int) -> Callable[[int], None]:
    """Their agent, untrained, on arrays with the names of a batch of ours.

    Raises:
        SystemExit: if the clone does not hold it, or needs a package that is not installed.
    """
    sys.path.insert(0, str(clone.resolve()))
    try:
        from agents.fql import FQLAgent, get_config  # type: ignore[import-not-found]
        from utils.datasets import Dataset  # type: ignore[import-not-found]
    except ImportError as error:
        sys.exit(f"{clone} holds no FQL that can be imported: {error}")
    import jax  # type: ignore[import-not-found]

    arrays = dict(np.load(data))
    dataset = Dataset.create(**arrays, masks=1 - arrays["terminals"])
    agent = FQLAgent.create(0, arrays["observations"][:1], arrays["actions"][:1], get_config())

    def turn(updates: int) -> None:
        nonlocal agent
        for _ in range(updates):
            agent, _ = agent.update(dataset.sample(batch_size))
        jax.block_until_ready(agent)

    return turn


def main() -> None:
    """The command."""
    clone, data, batch_size = sys.argv[1:]
    packages = ("jax", "jaxlib", "flax", "optax")
    serve(lambda: build(Path(clone), Path(data), int(batch_size)), packages)


if __name__ == "__main__":
    main()
