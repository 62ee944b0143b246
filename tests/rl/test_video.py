"""A video, written by another process because MuJoCo chooses its OpenGL once for all."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cmpolicy.errors import InputError
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.video import frames, write_video

WRITE = """
import sys
from pathlib import Path
import numpy as np
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.video import write_video
act = lambda obs: np.zeros((len(obs), 3), np.float32)
print(write_video(act, Environment("Hopper-v5"), Path(sys.argv[1]), 0))
"""
needs_imageio = pytest.mark.skipif(
    importlib.util.find_spec("imageio_ffmpeg") is None, reason="the extra `video` is not installed"
)


@needs_imageio
@pytest.mark.slow
def test_an_episode_becomes_an_mp4(tmp_path: Path) -> None:
    path, reasons = tmp_path / "video.mp4", []
    for backend in ("egl", "osmesa"):
        done = subprocess.run(
            [sys.executable, "-c", WRITE, str(path)],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode == 0:
            break
        reasons.append(f"{backend}: {done.stderr.strip().splitlines()[-1][:150]}")
    else:
        pytest.skip(f"nothing renders here: {'; '.join(reasons)}")

    import imageio.v2 as imageio

    with imageio.get_reader(path) as reader:
        pictures = [np.asarray(frame) for frame in reader]
        assert reader.get_meta_data()["fps"] == pytest.approx(125, abs=1)  # Hopper's own
    env = Environment("Hopper-v5").make()
    env.reset(seed=0)
    steps = 0
    while True:
        _, _, terminated, truncated, _ = env.step(np.zeros(3, np.float32))
        steps += 1
        if terminated or truncated:
            break
    assert len(pictures) == steps  # one before each action
    assert pictures[0].std() > 5
    assert (pictures[0] != pictures[-1]).any()


class Blind:
    """An environment that cannot be seen."""

    metadata: dict[str, int] = {}

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, int]]:
        return np.zeros(1), {}

    def render(self) -> None:
        raise RuntimeError("no\nOpenGL")

    def close(self) -> None: ...


def test_where_nothing_can_be_rendered_it_is_one_line() -> None:
    with pytest.raises(InputError, match=r"\(no OpenGL\).*MUJOCO_GL=egl") as error:
        next(iter(frames(lambda obs: obs, Blind(), 0)))
    assert "\n" not in str(error.value)


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -e '.\[video\]'"):
        write_video(lambda obs: obs, Environment("Hopper-v5"), tmp_path / "x.mp4", 0)
    assert list(tmp_path.iterdir()) == []


@needs_imageio
def test_what_cannot_be_rendered_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Environment, "make", lambda self, **_: Blind())
    with pytest.raises(InputError):
        write_video(lambda obs: obs, Environment("Hopper-v5"), tmp_path / "x.mp4", 0)
    assert list(tmp_path.iterdir()) == []
