"""Search a learning rate with Optuna's own interface: python examples/tune_with_optuna.py.

pip install optuna
"""

from __future__ import annotations

import sys

import hydra
import optuna
from omegaconf import OmegaConf

import cmpolicy.toys.config  # registers the keys of toys
from cmpolicy.cli.command import CONFIG_PATH
from cmpolicy.train import train

TOY = ["toy=three_gmm", "steps=300", "batch_size=64", "hidden=[32,32]", "eval.samples=500"]


def distance(learning_rate: float, *overrides: str) -> float:
    """W1 between one-step samples of a trained toy and the truth."""
    keys = [*TOY, "device=cpu", f"loss.learning_rate={learning_rate}", *overrides]
    with hydra.initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = OmegaConf.to_object(hydra.compose("toy", keys))
    assert isinstance(config, cmpolicy.toys.config.ToyConfig)
    return -train(config, [])


def main(overrides: list[str], trials: int = 10) -> tuple[float, float]:
    """The distance at a rate of 1e-5, where the search starts, and the smallest that it found."""

    def objective(trial: optuna.Trial) -> float:
        return distance(trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True), *overrides)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    study.enqueue_trial({"learning_rate": 1e-5})
    study.optimize(objective, n_trials=trials)
    first, best = study.trials[0].value, study.best_value
    print(f"W1 {first:.3f} at 1e-5, {best:.3f} at {study.best_params['learning_rate']:.2g}")
    assert first is not None
    return first, best


if __name__ == "__main__":
    main(sys.argv[1:])
