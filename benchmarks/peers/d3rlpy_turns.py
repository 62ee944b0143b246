"""d3rlpy's TD3+BC, IQL or ReBRAC, with the settings of d3rlpy_agent.py, in turns (see turns.py).

    python benchmarks/peers/d3rlpy_turns.py ALGORITHM DATA.npz BATCH_SIZE DEVICE

Runs in an environment that has d3rlpy (see environment.py). An update is that of its `fit`, the
drawing of its batch included, without the logging.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from d3rlpy_agent import build, settings_of
from turns import serve


def build_turn(
    algorithm: str, data: Path, batch_size: int, device: torch.device
) -> Callable[[int], None]:
    """The algorithm after its first update, on arrays with the names of a batch of ours."""
    import d3rlpy

    torch.set_num_threads(1)
    arrays = dict(np.load(data))
    del arrays["next_observations"]
    dataset = d3rlpy.dataset.MDPDataset(**arrays, timeouts=np.zeros_like(arrays["terminals"]))
    agent = build(algorithm, settings_of(algorithm, "hopper-medium"), batch_size, device)
    agent.fit(
        dataset,
        n_steps=1,
        n_steps_per_epoch=1,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )

    def turn(updates: int) -> None:
        for _ in range(updates):
            agent.update(dataset.sample_transition_batch(batch_size))  # the losses, as numbers

    return turn


def main() -> None:
    """The command."""
    algorithm, data, batch_size, device = sys.argv[1:]
    on_cpu = device == "cpu"
    serve(
        lambda: build_turn(algorithm, Path(data), int(batch_size), torch.device(device)),
        ("d3rlpy",),
        time.process_time if on_cpu else time.perf_counter,
    )


if __name__ == "__main__":
    main()
