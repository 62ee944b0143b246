"""What an evaluation leaves in the log beside scores: how the policy acts, and a video of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from cmpolicy.datasets.transitions import TransitionDataset
from cmpolicy.errors import InputError
from cmpolicy.rl.video import write_video
from cmpolicy.training.random_state import preserved_random_state
from cmpolicy.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from cmpolicy.rl.task import OfflineRL

log = logging.getLogger("cmpolicy")
STATES = 512  # of the data, at which actions are compared


def log_actions(task: OfflineRL, run: RunDirectory, step: int) -> None:
    """Histograms of each dimension of the policy's actions and of the data's, in equal states."""
    data = task.dataset if isinstance(task.dataset, TransitionDataset) else task.dataset.offline
    index = torch.linspace(0, len(data.actions) - 1, STATES, device=data.actions.device).long()
    batch = data.at(index)
    generator = torch.Generator(task.device).manual_seed(task.eval_seed(step))
    with preserved_random_state():
        own = task.learner.act(batch.observations.cpu().numpy(), generator=generator)
    theirs = batch.actions.cpu().numpy()
    for i in range(theirs.shape[-1]):
        run.log_histogram(step, f"actions_{i}/policy", own[..., i])
        run.log_histogram(step, f"actions_{i}/data", theirs[..., i])


def log_video(task: OfflineRL, run: RunDirectory, step: int) -> None:
    """videos/step-N.mp4, the first episode of the evaluation; a warning if it cannot be drawn."""
    if task.env is None:
        return
    path, seed = run.path / "videos" / f"step-{step}.mp4", task.eval_seed(step)
    path.parent.mkdir(exist_ok=True)
    generator = torch.Generator(task.device).manual_seed(seed)
    try:
        with preserved_random_state():
            window = task.config.agent.policy.window
            write_video(task.act(generator), task.env, path, seed, window)
    except InputError as error:
        log.warning("no video: %s", error)
        return
    run.log_video(step, "video", path)
