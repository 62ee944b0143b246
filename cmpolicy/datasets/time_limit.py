"""The time limit at which recorded episodes were cut, decided in one place for every source."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gymnasium.envs.registration import registry

logger = logging.getLogger(__name__)


def time_limit(
    origin: str,
    arrays: Mapping[str, Any],
    configured: int | None = None,
    registered: int | None = None,
    env_id: str | None = None,
) -> int | None:
    """Decide after how many steps the episodes of flat arrays were cut, and log why.

    The data come first: `timeouts` say where episodes were cut, and `next_observations` where one
    does not go on, so no limit is needed. Else the first of the limits below that is known.

    Args:
        origin: the file or dataset, for the log.
        arrays: the columns that the data have.
        configured: by `env.max_episode_steps`, or D4RL's for this dataset.
        registered: of the environment that the user named.
        env_id: the environment recorded with the data.
    """
    for column in ("timeouts", "next_observations"):
        if column in arrays:
            logger.info("%s: episodes end where its %s say", origin, column)
            return None
    recorded = registry[env_id].max_episode_steps if env_id in registry else None
    for limit, source in (
        (configured, "env.max_episode_steps"),
        (registered, "the environment of env.id"),
        (recorded, env_id),
    ):
        if limit is not None:
            logger.info(
                "%s: episodes are cut every %d steps, the limit of %s", origin, limit, source
            )
            return limit
    logger.warning(
        "%s has no timeouts: every row is taken to follow the one before it unless that was "
        "terminal; give env.max_episode_steps=N if episodes were cut after N steps",
        origin,
    )
    return None
