"""Draw sheets of images with titles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from cmpolicy.images.files import image_grid

DPI = 100
WIDTH = 10.0  # inches


def draw_sheet(path: Path, blocks: Mapping[str, Tensor], *, columns: int, title: str = "") -> None:
    """Write a PNG with one block of images below another, each under its name.

    Args:
        blocks: uint8 (N, C, H, W) by name.
        columns: images per row.
    """
    grids = {name: image_grid(images, columns) for name, images in blocks.items()}
    heights = [WIDTH * grid.shape[1] / grid.shape[2] for grid in grids.values()]
    size = (WIDTH, sum(heights) + 0.3 * len(grids) + (0.4 if title else 0))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title)
    all_axes = figure.subplots(len(grids), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, grid) in zip(all_axes, grids.items(), strict=True):
        picture = grid.permute(1, 2, 0).numpy()
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_axis_off()
    figure.savefig(path)
