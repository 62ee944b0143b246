"""The edit command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cmpolicy import edit as edit_module
from cmpolicy.edit import edit, open_session
from cmpolicy.errors import InputError
from cmpolicy.images.config import EditConfig
from cmpolicy.images.dataset import open_images
from cmpolicy.images.editing_tasks import TASKS, EditingSession, as_strokes
from cmpolicy.images.files import write_npz
from cmpolicy.train import train

TINY = (
    *("steps=2", "batch_size=4", "eval.samples=4", "eval.final_samples=4", "eval.every=2"),
    *("network.channels=8", "network.multipliers=[1]", "image_loss=ect", "threads=1"),
    *("progress=false", "device=cpu"),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, compose: Any) -> dict[str, Path]:
    """Digits with classes, and colours without."""
    place = tmp_path_factory.mktemp("runs")
    pixels = torch.randint(256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    for split in ("train", "test"):
        write_npz(place / f"{split}.npz", pixels.byte())
    colours = ("data.name=npz", f"data.root={place}")
    for name, data in (("digits", ()), ("colours", colours)):
        train(compose(*TINY, *data, f"run_dir={place / name}", config="image"), [])
    return {name: place / name for name in ("digits", "colours")}


def session(run: Path, **options: Any) -> EditingSession:
    return open_session(EditConfig(str(run), steps=2, device="cpu", **options), CPU)


def test_all_tasks_fill_one_sheet(runs, tmp_path, capsys, caplog):
    for name in ("digits", "colours"):
        out = tmp_path / f"{name}.png"
        edit(EditConfig(str(runs[name]), pictures=3, steps=2, out=str(out), device="cpu"), [])
        assert capsys.readouterr().out == f"sheet: {out}\n"
        assert Image.open(out).size[0] >= 900


def test_known_pixels_survive_the_door(runs):
    """From bytes to the model's scale and back."""
    s = session(runs["digits"], pictures=5)
    blocks = TASKS["inpaint"](s)
    before, after = s.pictures, blocks["inpainted"]
    assert torch.equal(after[..., ~s.hole], before[..., ~s.hole])
    assert not torch.equal(after[..., s.hole], before[..., s.hole])
    assert (blocks["to inpaint"][..., s.hole] == 128).all()


def test_patch_means_and_luminance_survive_the_door(runs):
    """Up to rounding to bytes, and what that cuts off at black and white."""
    s = session(runs["colours"], pictures=5, factor=2)
    large = TASKS["superres"](s)["enlarged"].float()
    small = torch.nn.functional.avg_pool2d(s.pictures.float(), 2)
    inside = torch.nn.functional.max_pool2d(((large < 1) | (large > 254)).float(), 2) == 0
    gap = (torch.nn.functional.avg_pool2d(large, 2) - small).abs()
    assert gap[inside].max() <= 0.5 + 1e-3
    assert inside.double().mean() > 0.3
    blocks = TASKS["colorize"](s)
    weights = torch.tensor([0.2989, 0.5870, 0.1140]).view(3, 1, 1)
    grey, colour = (blocks[k].float() for k in ("to colorize", "colorized"))
    inside = ((colour < 1) | (colour > 254)).sum(1) == 0
    assert ((colour - grey) * weights).sum(1).abs()[inside].max() < 0.6


def test_a_picture_is_edited_alike_whatever_lies_beside_it(runs):
    many, one = (TASKS["stroke"](session(runs["digits"], pictures=n)) for n in (4, 1))
    for name, pictures in one.items():
        assert (pictures[0].int() - many[name][0].int()).abs().max() <= 1


def test_what_is_degraded_already_is_left_alone(runs, tmp_path):
    small = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 15)
    small.save(tmp_path / "small.png")
    s = session(runs["digits"], task="superres", picture=str(tmp_path / "small.png"),
                degrade=False, label=3)  # fmt: skip
    assert s.pictures.shape == (1, 1, 4, 4)
    assert s.labels.tolist() == [3]
    blocks = TASKS["superres"](s)
    assert blocks["enlarged"].shape == (1, 1, 8, 8)
    assert torch.equal(blocks["to enlarge, 2×"][0, 0, ::2, ::2], s.pictures[0, 0])


def test_a_mask_says_where_to_paint(runs, tmp_path):
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:, 6:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert torch.equal(
        session(runs["digits"], mask=str(tmp_path / "mask.png")).hole, torch.from_numpy(mask) > 0
    )
    middle = session(runs["digits"]).hole
    assert middle.sum() == 16
    assert torch.equal(middle, middle.flip(0, 1))


def test_labels_are_those_of_the_pictures(runs):
    s = session(runs["digits"], pictures=6)
    images = open_images("digits", split="test")
    for picture, label in zip(s.pictures, s.labels, strict=True):
        same = (images.images == picture).flatten(1).all(1)
        assert int(label) in images.labels[same].tolist()
    assert session(runs["colours"]).labels is None


def test_strokes_have_few_colours():
    picture = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    strokes = as_strokes(picture)
    assert strokes.shape == picture.shape
    assert len(strokes.flatten(1).unique(dim=1).T) <= 6
    assert as_strokes(picture[:1]).shape == (1, 16, 16)


def test_wrong_input_is_one_line(runs, tmp_path):
    Image.new("L", (30, 40)).save(tmp_path / "large.png")
    Image.new("L", (8, 8)).save(tmp_path / "fits.png")
    (tmp_path / "text.png").write_text("a picture")
    large, fits = str(tmp_path / "large.png"), str(tmp_path / "fits.png")
    digits, colours = runs["digits"], runs["colours"]
    for run, options, words in (
        (digits, {"task": "sharpen"}, "unknown task 'sharpen', expected all or one of inpaint"),
        (digits, {"picture": large}, "30 × 40 pixels, expected 8 × 8; resize"),
        (digits, {"picture": str(tmp_path / "none.png")}, "there is no file"),
        (digits, {"picture": str(tmp_path / "text.png")}, "cannot be read as an image"),
        (digits, {"mask": large}, "30 × 40 pixels"),
        (digits, {"picture": fits}, "give the picture's, label=NUMBER"),
        (digits, {"picture": fits, "label": 10}, "label is 10, expected 0 to 9"),
        (digits, {"task": "colorize"}, "grey images cannot be coloured"),
        (digits, {"task": "superres", "factor": 3}, "factor=3 does not divide"),
        (digits, {"task": "stroke", "start": 90.0}, "noise level 90, expected one above"),
        (digits, {"degrade": False}, "needs one task"),
        (colours, {"label": 0}, "label is 0, expected none"),
        (tmp_path, {}, "."),
    ):
        with pytest.raises(InputError, match=words):
            edit(EditConfig(str(run), device="cpu", **options), [])
    with pytest.raises(ValueError, match="noise and start must be above 0"):
        EditConfig("run", noise=0)


def test_the_command_leaves_with_2(runs, command):
    code, err = command(edit_module, f"run={runs['digits']}", "task=sharpen")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: unknown task 'sharpen'")
