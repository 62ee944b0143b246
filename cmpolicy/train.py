"""Train: `python -m cmpolicy.train env=hopper-medium`, or `resume=RUN` to go on.

Several seeds at once: `python -m cmpolicy.train env=hopper-medium seeds=5`, or `seeds=[0,3,7]`.
Toys: `python -m cmpolicy.train --config-name toy toy=three_gmm loss=scd`. Images:
`python -m cmpolicy.train --config-name image data=mnist image_loss=edm`, or the same under
`torchrun --nproc-per-node=N -m cmpolicy.train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmpolicy.cli.command import run

if TYPE_CHECKING:
    from cmpolicy.training_run import AnyConfig

SCHEMAS = ("cmpolicy.rl.config", "cmpolicy.toys.config", "cmpolicy.images.config")


def train(config: AnyConfig, overrides: list[str]) -> float:
    """One run, from the start or resumed, to its end; returns its last score."""
    from cmpolicy.training_run import train as train_run

    return train_run(config, overrides).score


def main() -> None:
    """Run the command."""
    run(train, "rl", SCHEMAS)


if __name__ == "__main__":
    main()
