"""CIFAR-10 within some seconds: the chain of `image_chain.py` from where its checkpoints are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_chain

MARGIN = 20.0  # seconds, for a stage to save


def run(options: dict[str, Any], left: Callable[[], float]) -> None:
    """Go on with the chain; a stage that ends writes its row."""
    if options["images"] is None:
        print("images: no images=, the folder of CIFAR-10")
        return
    image_chain.main(
        [
            "data=cifar10_small",
            f"root={options['images']}",
            f"stop_after={max(0.0, left() - MARGIN):.0f}",
            f"device={options['device']}",
            f"out={options['out']}",
            f"runs={Path(options['runs']) / 'cifar10'}",
            *options["image_options"],
        ]
    )
