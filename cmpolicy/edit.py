"""Edit pictures with a trained model: `python -m cmpolicy.edit run=RUN task=inpaint picture=FILE`.

Without a file it takes pictures of the data. What goes in lies above what comes out, on one sheet.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmpolicy.cli.command import resolve_device, run, starting

with starting():
    import numpy as np
    import torch
    from torch import Tensor

    from cmpolicy.errors import InputError
    from cmpolicy.images.config import EditConfig
    from cmpolicy.images.dataset import open_images
    from cmpolicy.images.editing_tasks import (
        INBETWEENS,
        TASKS,
        EditingSession,
        scale_factor,
        seeded,
    )
    from cmpolicy.images.model import ImageModel, load_image_model

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("cmpolicy")


def edit(config: EditConfig, overrides: list[str]) -> None:
    """Do one task or all, and write the sheet."""
    if config.task not in (*TASKS, "all"):
        raise InputError(f"unknown task {config.task!r}, expected all or one of {', '.join(TASKS)}")
    if config.task == "all" and not config.degrade:
        raise InputError(
            "degrade=false needs one task: no picture is grey, small and noisy at once"
        )
    device = resolve_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    session = open_session(config, device)
    names = list(TASKS) if config.task == "all" else [config.task]
    if config.task == "all" and session.pictures.shape[1] != 3:
        log.info("colorize is left out: the images are grey")
        names.remove("colorize")
    blocks = {"pictures": session.pictures} if config.degrade else {}
    with torch.inference_mode():
        for name in names:
            blocks |= TASKS[name](session)
    from cmpolicy.images.figures import draw_sheet  # slow to import

    path = Path(config.out or Path(config.run) / f"edited-{config.task}.png")
    title = f"{session.model.config.loss.name} on {session.model.dataset.name}: {config.task}"
    draw_sheet(path, blocks, columns=INBETWEENS, title=title)
    print(f"sheet: {path}")


def open_session(config: EditConfig, device: torch.device) -> EditingSession:
    """The model and the pictures that a configuration names.

    Raises:
        InputError: if there is no such run, it has no student, or a picture does not fit.
    """
    model = load_image_model(config.run, config.checkpoint, device)
    model.part("student")
    hole = read_hole(config, model.dataset.shape)
    if config.picture is None:
        pictures, labels = data_pictures(config, model)
    else:
        pictures, labels = file_picture(config, model.dataset.shape), None
    return EditingSession(
        model, config, pictures, given_labels(config, model, len(pictures), labels), hole
    )


def file_picture(config: EditConfig, shape: Sequence[int]) -> Tensor:
    """The picture of a file, uint8 (1, C, H, W), of the size that the task takes."""
    assert config.picture is not None
    channels, height, width = shape
    if config.task == "superres" and not config.degrade:
        factor = scale_factor(config, shape)
        height, width = height // factor, width // factor
    picture = read_sized(config.picture, width, height).convert("L" if channels == 1 else "RGB")
    return torch.from_numpy(np.array(picture)).view(1, height, width, -1).permute(0, 3, 1, 2)


def data_pictures(config: EditConfig, model: ImageModel) -> tuple[Tensor, Tensor | None]:
    """Pictures of the data that the model was trained on, and their labels, the same each time."""
    data = model.config.data
    images = open_images(data.name, data.root, config.split, flip=False, size=data.size)
    order = torch.randperm(len(images), generator=seeded(config.seed))[: config.pictures]
    return images.images[order], None if images.labels is None else images.labels[order]


def given_labels(
    config: EditConfig, model: ImageModel, count: int, labels: Tensor | None
) -> Tensor | None:
    """One label a picture, −1 where none is known and the model can do without.

    Raises:
        InputError: if it cannot, or there is no such class.
    """
    if config.label is not None:
        return model.labels(range(count), config.label)
    if not model.config.conditional or not model.dataset.classes:
        return None
    if labels is None and not model.config.label_dropout:
        raise InputError(
            f"the model knows {model.dataset.classes} classes and was not trained without; give "
            "the picture's, label=NUMBER"
        )
    return torch.full((count,), -1) if labels is None else labels


def read_hole(config: EditConfig, shape: Sequence[int]) -> Tensor:
    """Where to paint, (H, W) bool: where the mask is white, or the middle quarter."""
    _, height, width = shape
    if config.mask is not None:
        mask = read_sized(config.mask, width, height).convert("L")
        return torch.from_numpy(np.array(mask)) > 127
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)] = True
    return hole


def read_sized(path: str, width: int, height: int) -> Image.Image:
    """A picture of that size.

    Raises:
        InputError: if it is none, or of another size.
    """
    from cmpolicy.images.folder import read_picture

    if not Path(path).is_file():
        raise InputError(f"there is no file {path}, expected a picture")
    picture = read_picture(Path(path))
    if picture.size != (width, height):
        raise InputError(
            f"{path} is {picture.width} × {picture.height} pixels, expected {width} × {height}; "
            "resize it first"
        )
    return picture


def main() -> None:
    """The command."""
    run(edit, "edit")


if __name__ == "__main__":
    main()
