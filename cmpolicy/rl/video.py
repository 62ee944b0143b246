"""A video of one episode."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmpolicy.errors import InputError, one_line
from cmpolicy.policy.action_chunks import ChunkQueue, Window
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import PLAIN, Act


def check_video() -> None:
    """Raise InputError unless the extra `video` is installed."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise InputError("a video needs imageio: pip install -e '.[video]'")


def write_video(
    act: Act, environment: Environment, path: Path, seed: int, window: Window = PLAIN
) -> Path:
    """Play one episode and write it as an MP4 at the environment's frame rate.

    Raises:
        InputError: if the extra `video` is not installed, or nothing can be rendered here.
    """
    check_video()
    import imageio.v2 as imageio

    env = environment.make(render_mode="rgb_array")
    try:
        fps = float(env.metadata.get("render_fps", 30))
        imageio.mimwrite(
            path,
            list(frames(functools.partial(ChunkQueue(window).act, act), env, seed)),
            fps=fps,
            macro_block_size=2,
        )
    finally:
        env.close()
    return path


def frames(act: Act, env: Any, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the pictures of one episode, (height, width, 3) uint8.

    Raises:
        InputError: if the environment cannot render here.
    """
    observation, _ = env.reset(seed=seed)
    done = False
    while not done:
        try:
            frame = env.render()
        except Exception as error:  # every OpenGL backend raises its own kind
            reason = one_line(error)
            raise InputError(
                f"nothing can be rendered here ({reason}); on a machine without a screen set "
                "MUJOCO_GL=egl or MUJOCO_GL=osmesa"
            ) from error
        yield np.asarray(frame)
        action = act(np.asarray(observation, dtype=np.float32)[None])[0]
        observation, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
