"""The data that a configuration names, and what they ask of the agent."""

from __future__ import annotations

import math
from dataclasses import replace

from cmpolicy.agents.critic_agent import CriticConfig
from cmpolicy.datasets.resolve import resolve_dataset
from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.rl.config import RLConfig
from cmpolicy.rl.environments import registered_limit

IN_PYTHON = "python"  # as dataset.source: data that are on no disk


def load_dataset(config: RLConfig) -> TransitionDataset:
    """Load the data that a configuration names, with the rewards as recorded.

    Raises:
        InputError: if it names none that exists, or they were given in Python.
    """
    env, dataset = config.env, config.dataset
    if dataset.source == IN_PYTHON:
        raise InputError(
            "the data of this run were given in Python; go on with "
            "cmpolicy.fit(data, env, resume=RUN), or give dataset.path=FILE"
        )
    if dataset.path is None and not (env.d4rl_id or env.minari_id or env.ogbench_id):
        raise InputError(
            "no task: give env=NAME, such as env=hopper-medium, or dataset.path=FILE with env.id=ID"
        )
    return resolve_dataset(
        env.name,
        env.d4rl_id,
        env.minari_id,
        dataset.source,
        dataset.path,
        ogbench_id=env.ogbench_id,
        max_episode_steps=env.max_episode_steps,
        registered_limit=registered_limit(env.id),
    )


def see_pictures(config: RLConfig, dataset: TransitionDataset) -> None:
    """Give the policy an encoder, where observations are pictures.

    Raises:
        InputError: for an agent with critics, whose networks take vectors.
    """
    shape, policy = dataset.info.picture_shape, config.agent.policy
    if shape is None:
        return
    if isinstance(config.agent, CriticConfig):
        raise InputError(
            f"agent {config.agent.name} has critics of vectors, and the observations are pictures "
            f"of shape {shape}; choose agent=bc or agent=weighted_bc"
        )
    made = {"shape": shape, "vector": dataset.obs_dim - math.prod(shape)}
    options = {**made, **policy.encoder_options}
    encoder = policy.encoder or "conv"
    config.agent.policy = replace(policy, encoder=encoder, encoder_options=options)
