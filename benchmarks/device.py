"""One script for a GPU: what matters most within `seconds`, each row written as it comes.

    python benchmarks/device.py pack=FOLDER data=DIR/sac
    python benchmarks/device.py data=FOLDER seconds=900 out=OUT runs=RUNS
    python benchmarks/device.py data=FOLDER parts=[sets] agents=[ac] seeds=3

Parts, in this order; `parts` chooses among them:

    checks     a minute: captured updates are the eager ones, stacked seeds the single ones
    speed      updates a second of `ac`, one seed and five stacked, beside its matrix products
               alone, and d3rlpy's where it is installed (`venv`); what bounds an update
    sets       rows of `offline_rl.py`, standard protocol: for each agent the sets in this order,
               five stacked seeds a run, as many runs side by side as fit the seconds left
    images     CIFAR-10's chain of `image_chain.py`, from its checkpoints; `images` is the folder
    screening  not by default: the batched research model of screening/ on all sets, in a table of
               its own. Its networks are not the package's, so nothing of it is a row of `sets`

A part that has its rows is not repeated, and a run that the seconds cut short goes on at the next
call with the same `runs`. No run is made shorter: what does not fit is left out. On a CPU, or
with quick=true, everything is the same and smaller. `pack` writes what the parts read: the sets in
D4RL's layout, observations, actions and rewards rounded to float16, as many as `limit` megabytes
hold. Rows of such data say so.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import device_checks
import device_images
import device_pack
import device_sets
import device_speed
import torch
from command_line import read_options

HERE = Path(__file__).resolve().parent
SETS = tuple(
    f"{robot}-{behaviour}"
    for behaviour in ("medium", "medium-replay")
    for robot in ("hopper", "halfcheetah", "walker2d")
)
DEFAULTS: dict[str, Any] = {
    "data": None, "seconds": 900.0, "parts": ["checks", "speed", "sets", "images"],
    "sets": list(SETS), "agents": ["ac", "weighted_bc", "bc"], "seeds": 5, "train": [],
    "protocol": "standard", "images": None, "image_options": [], "venv": None, "device": None,
    "quick": False, "pack": None, "limit": 40.0,
    "out": str(HERE / "results"), "runs": str(HERE / "results" / "runs" / "device"),
}  # fmt: skip
PARTS: dict[str, Callable[[dict[str, Any], Callable[[], float]], None]] = {
    "checks": device_checks.run,
    "speed": device_speed.run,
    "sets": device_sets.run,
    "images": device_images.run,
    "screening": device_sets.screen,
}


def main(arguments: list[str]) -> int:
    """Run the parts; 1 if one of them failed."""
    options = read_options(arguments, DEFAULTS)
    unknown = set(options["parts"]) - set(PARTS)
    if unknown:
        sys.exit(f"unknown parts {unknown}, expected some of {', '.join(PARTS)}")
    if options["pack"]:
        device_pack.pack(options["data"], options["pack"], options["sets"], options["limit"])
        return 0
    options["device"] = options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    Path(options["out"]).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that runs are told to save
    end, failed = time.monotonic() + options["seconds"], 0

    def left() -> float:
        return end - time.monotonic()

    for name, part in PARTS.items():
        if name not in options["parts"] or left() <= 0:
            continue
        begin = left()
        print(f"{name}: {begin:.0f} s left", flush=True)
        try:
            part(options, left)
        except Exception:  # the next part is worth its seconds all the same
            traceback.print_exc()
            failed = 1
        print(f"{name}: took {begin - left():.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
