"""d3rlpy's TD3+BC, IQL or ReBRAC on our data, evaluated as ours: one run.

    python benchmarks/peers/d3rlpy_agent.py ALGORITHM [overrides of the train command] run_dir=DIR

Runs in an environment that has d3rlpy (see environment.py); `offline_rl.py` calls it for the agents
d3rlpy_td3_bc, d3rlpy_iql and d3rlpy_rebrac. Settings are those of d3rlpy's reproduction scripts for
D4RL (github.com/takuseno/d3rlpy, reproductions/offline), with the batch size of the command line.
Its transitions are gathered from arrays instead of one object at a time, see `ArrayTransitions`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from peer import FloatArray, PeerRun

from cmpolicy.cli.command import run
from cmpolicy.datasets import load_minari
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig

if TYPE_CHECKING:
    from d3rlpy.algos import QLearningAlgoBase
    from d3rlpy.dataset import ReplayBuffer, TransitionMiniBatch

# ReBRAC's penalties of actor and critic (Tarasov et al. 2023), on locomotion as in the scripts;
# `mixed` has none of its own and takes those of medium-replay.
PENALTIES = {
    "halfcheetah-medium": (0.001, 0.01),
    "halfcheetah-expert": (0.01, 0.01),
    "halfcheetah-medium-replay": (0.01, 0.001),
    "halfcheetah-medium-expert": (0.01, 0.01),
    "hopper-medium": (0.01, 0.001),
    "hopper-expert": (0.1, 0.001),
    "hopper-medium-replay": (0.05, 0.5),
    "hopper-medium-expert": (0.1, 0.01),
    "walker2d-medium": (0.05, 0.1),
    "walker2d-expert": (0.01, 0.5),
    "walker2d-medium-replay": (0.05, 0.01),
    "walker2d-medium-expert": (0.01, 0.01),
    "pen-expert": (0.01, 0.01),
    "door-human": (0.1, 0.1),
}
DEFAULT_PENALTIES = (0.01, 0.01)
KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")
ADROIT = ("pen", "door", "hammer", "relocate")  # where ReBRAC's learning rate is another


def settings_of(algorithm: str, name: str) -> dict[str, Any]:
    """Hyperparameters of an algorithm on a set, as in the scripts; plain numbers.

    Raises:
        InputError: for an unknown algorithm.
    """
    if algorithm == "td3_bc":
        return {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "alpha": 2.5,
                "target_smoothing_sigma": 0.2, "target_smoothing_clip": 0.5,
                "update_actor_interval": 2}  # fmt: skip
    if algorithm == "iql":  # the actor's rate decays over the 500,000 updates of the script
        return {"actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4, "weight_temp": 3.0,
                "max_weight": 100.0, "expectile": 0.7, "cosine_steps": 500_000,
                "reward_multiplier": 1000.0}  # fmt: skip
    if algorithm == "rebrac":
        actor, critic = PENALTIES.get(name.replace("-mixed", "-medium-replay"), DEFAULT_PENALTIES)
        rate = 3e-4 if name.startswith(ADROIT) else 1e-3
        return {"actor_learning_rate": rate, "critic_learning_rate": rate, "gamma": 0.99,
                "actor_beta": actor, "critic_beta": critic, "hidden": [256, 256, 256],
                "target_smoothing_sigma": 0.2, "target_smoothing_clip": 0.5,
                "update_actor_interval": 2}  # fmt: skip
    raise InputError(f"unknown algorithm {algorithm!r}, expected td3_bc, iql or rebrac")


def build(
    algorithm: str, settings: dict[str, Any], batch_size: int, device: torch.device
) -> QLearningAlgoBase[Any, Any]:
    """The algorithm with these settings, untrained."""
    import d3rlpy

    chosen = {"batch_size": batch_size, **settings}
    place = str(device) if device.type == "cuda" else False
    if algorithm == "iql":
        decay = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=chosen.pop("cosine_steps"))
        multiplier = chosen.pop("reward_multiplier")
        return d3rlpy.algos.IQLConfig(
            actor_optim_factory=d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=decay),
            reward_scaler=d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=multiplier),
            **chosen,
        ).create(device=place)
    scaler = d3rlpy.preprocessing.StandardObservationScaler()
    if algorithm == "td3_bc":
        config = d3rlpy.algos.TD3PlusBCConfig(observation_scaler=scaler, **chosen)
        return config.create(device=place)
    hidden = chosen.pop("hidden")
    return d3rlpy.algos.ReBRACConfig(
        actor_encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden),
        critic_encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden, use_layer_norm=True),
        observation_scaler=scaler,
        **chosen,
    ).create(device=place)


def flat_steps(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Consecutive steps of an HDF5 file or a Minari dataset, as d3rlpy's own loaders give them.

    Of an episode that was cut d3rlpy drops the last step, whose next observation it does not
    know, as D4RL does.
    """
    if path.is_file():
        with h5py.File(path) as file:
            steps = {key: file[key][()] for key in KEYS}
        steps["timeouts"] &= ~steps["terminals"]
        steps["timeouts"][-1] |= not steps["terminals"][-1]
        return steps
    data = load_minari(path)
    terminals = data.terminals.bool()
    columns = (data.observations, data.actions, data.rewards, terminals)
    cut = data.episode_ends & ~terminals
    return {key: c.numpy() for key, c in zip(KEYS, (*columns, cut), strict=True)}


def checked_steps(path: Path) -> dict[str, npt.NDArray[Any]]:
    """`flat_steps`, all float32.

    Raises:
        InputError: for actions beyond ±1, which d3rlpy's policies cannot give.
    """
    steps = flat_steps(path)
    if np.abs(steps["actions"]).max() > 1 + 1e-4:
        raise InputError(f"{path} has actions beyond ±1, which d3rlpy's policies cannot give")
    return {key: column.astype(np.float32) for key, column in steps.items()}


class ArrayTransitions:
    """What d3rlpy's replay buffer would pick, kept as arrays.

    The buffer builds a Python object for each transition of a batch, which takes up to a quarter
    of an update's time; the same indices give the same batch here.
    """

    def __init__(self, dataset: ReplayBuffer) -> None:
        from d3rlpy.dataset import TransitionMiniBatch

        count = dataset.buffer.transition_count
        pick, at = dataset._transition_picker, dataset.buffer  # it offers no picker in public
        whole = TransitionMiniBatch.from_transitions([pick(*at[i]) for i in range(count)])
        columns = (field.name for field in dataclasses.fields(whole) if field.name != "transitions")
        self.columns = {name: getattr(whole, name) for name in columns}
        self.count = count

    def __call__(self, batch_size: int) -> TransitionMiniBatch:
        """`batch_size` transitions, drawn with replacement by NumPy's generator, as d3rlpy does."""
        from d3rlpy.dataset import TransitionMiniBatch

        index = np.random.randint(self.count, size=batch_size)
        rows = {name: column[index] for name, column in self.columns.items()}
        return TransitionMiniBatch(**rows, transitions=[])


class D3RLPyPeer:
    """An algorithm of d3rlpy, which acts by its greedy action."""

    def __init__(self, algorithm: QLearningAlgoBase[Any, Any]) -> None:
        self.algorithm = algorithm

    def act(self, observations: FloatArray, generator: torch.Generator) -> FloatArray:
        actions: FloatArray = self.algorithm.predict(observations)
        return actions

    def save(self, path: Path) -> None:
        self.algorithm.save_model(str(path))

    def load(self, path: Path) -> None:
        self.algorithm.load_model(str(path))


def train(config: RLConfig, algorithm: str) -> None:
    """One run from its start to its end."""
    settings = settings_of(algorithm, config.env.name)
    import d3rlpy

    recorded = {"algorithm": algorithm, "batch_size": config.batch_size, **settings}
    peer_run = PeerRun(config, {"d3rlpy": version("d3rlpy")}, recorded)
    assert peer_run.task.info.path is not None
    dataset = d3rlpy.dataset.MDPDataset(**checked_steps(Path(peer_run.task.info.path)))
    dataset.sample_transition_batch = ArrayTransitions(dataset)  # type: ignore[method-assign]
    d3rlpy.seed(config.seed)
    peer = build(algorithm, settings, config.batch_size, peer_run.device)
    peer_run.begin(D3RLPyPeer(peer))
    peer.fit(
        dataset,
        n_steps=config.steps,
        n_steps_per_epoch=math.gcd(config.steps, config.eval.every),
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
        epoch_callback=lambda _, epoch, step: peer_run.after_update(step),
    )
    peer_run.finish()


def main() -> None:
    """The command: the algorithm, then the train command's overrides."""
    algorithm = sys.argv.pop(1) if len(sys.argv) > 1 and "=" not in sys.argv[1] else ""
    run(lambda config, overrides: train(config, algorithm), "rl")


if __name__ == "__main__":
    main()
