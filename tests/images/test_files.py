"""Files of images: what is written is read back, and damaged files are refused in one line."""

from __future__ import annotations

import functools
import gzip
import math
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cmpolicy.errors import InputError
from cmpolicy.images.files import (
    checked_labels,
    image_grid,
    read_idx,
    read_npz,
    write_grid,
    write_npz,
)

ARRAY = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def idx(array, kind=0x08):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return head + array.tobytes()


def pictures(n=5, channels=3, height=4, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, height, width), generator=generator).byte()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_idx_file_is_its_array_and_refused_if_cut_anywhere(tmp_path, pack):
    path, whole = tmp_path / "images", pack(idx(ARRAY))
    path.write_bytes(whole)
    read = read_idx(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, ARRAY)
    read[0] = 0  # torch needs writable arrays
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError) as caught:
            read_idx(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n", "is not an IDX file; it begins with 89504e47"),
        (idx(np.zeros(2, np.float32), 0x0D), "holds type 0x0d, expected bytes"),
        (idx(np.zeros((3, 2), np.uint8))[:-1], "holds 5 bytes of data, expected 3 × 2 as its head"),
        (idx(np.zeros((3, 2), np.uint8)) + b"\0", "holds more bytes of data, expected 3 × 2"),
        (
            struct.pack(">BBBB2I", 0, 0, 8, 2, 2**32 - 1, 2**32 - 1),
            "declares arrays of 1.* GB in a",
        ),
        (b"\0\0\x08\x05\0", "is cut short within its header"),
        (b"\0\0\x08\x64" + b"\0\0\0\1" * 100 + b"x", "is not an IDX file"),  # 100 axes
    ],
)
def test_other_files_than_idx_say_why(tmp_path, content, said):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_idx(tmp_path / "images")


@pytest.mark.parametrize("channels", [1, 3])
def test_an_npz_is_in_openais_format_and_read_back(tmp_path, channels):
    images, labels = pictures(channels=channels), torch.tensor([2, 0, 1, 1, 0])
    write_npz(tmp_path / "samples.npz", images, labels)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        assert (arrays["arr_0"].dtype, arrays["arr_1"].dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(arrays["arr_0"], images.permute(0, 2, 3, 1))
    read = read_npz(tmp_path / "samples.npz")
    np.testing.assert_array_equal(read.images, images)
    assert read.labels.tolist() == labels.tolist()
    assert read.class_names == ["0", "1", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


def test_an_npz_without_labels_and_one_without_a_channel(tmp_path):
    write_npz(str(tmp_path / "a.npz"), pictures())
    assert read_npz(tmp_path / "a.npz")[1:] == (None, [])
    np.savez(tmp_path / "b.npz", pictures(channels=1)[:, 0].numpy())
    assert read_npz(tmp_path / "b.npz").images.shape == (5, 1, 4, 6)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "samples.npz"
    write_npz(path, pictures())
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_npz(path, pictures(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros(3)}, "has no arr_0, expected uint8 images .* it holds images"),
        ({}, "has no arr_0, .*; it holds nothing"),
        ({"arr_0": np.zeros((2, 4, 4, 3))}, "arr_0 is float64 of shape"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"of shape \(2, 3, 4, 4\), expected"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, "N at least 1"),
        ({"arr_0": np.array([{}])}, "is damaged or does not hold arrays .*pickled objects"),
        ({"arr_1": np.zeros(3, int)}, "arr_1: the labels are int64 of shape"),
        ({"arr_1": np.array([0, -1])}, "arr_1: label 1 is -1, expected 0 to 65535"),
        ({"arr_1": np.array([1 << 16, 0])}, "arr_1: label 0 is 65536"),
    ],
)
def test_an_npz_that_holds_something_else_says_what(tmp_path, arrays, said):
    if "arr_1" in arrays:
        arrays = arrays | {"arr_0": np.zeros((2, 4, 4, 3), np.uint8)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        read_npz(tmp_path / "a.npz")


def test_damaged_npz_files_and_pickles_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, pictures(), torch.arange(5))
    whole = path.read_bytes()
    for content in (*(whole[:end] for end in range(0, len(whole), 7)), pickle.dumps({"arr_0": 1})):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"is not an \.npz file, or cut short"):
            read_npz(path)
    middle = len(whole) // 3
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    with pytest.raises(InputError, match="is damaged or does not hold arrays"):
        read_npz(path)


HUGE = b"\x93NUMPY\1\0v\0{'descr':'|u1','fortran_order':False,'shape':(1000000000000,)}"
UNFINISHED = b"\x93NUMPY\1\0\x08\0{'descr'("


@pytest.mark.parametrize(
    ("content", "method", "flags", "said"),
    [
        (HUGE.ljust(127) + b"\n", zipfile.ZIP_DEFLATED, 0, "declares arrays of 1000.0 GB in a"),
        (UNFINISHED, zipfile.ZIP_STORED, 0, "is damaged or does not hold arrays"),
        (UNFINISHED, zipfile.ZIP_LZMA, 0, "is not compressed as NumPy does it"),
        (UNFINISHED, zipfile.ZIP_STORED, 1, "is encrypted"),
    ],
)
def test_a_hostile_npz_takes_no_memory_and_says_why(tmp_path, content, method, flags, said):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("arr_0.npy", content)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= flags  # in the central directory
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_npz(path)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 4, 4),
        torch.zeros(1, 2, 4, 4).byte(),
        torch.zeros(3, 4, 4).byte(),
        torch.zeros(0, 3, 4, 4).byte(),
    ],
    ids=["float", "two channels", "three axes", "none"],
)
def test_only_images_are_written(tmp_path, images):
    for write in (write_npz, write_grid):
        with pytest.raises(InputError, match=r"expected uint8 \(N, C, H, W\)"):
            write(tmp_path / "a", images)
    with pytest.raises(InputError, match=r"expected one integer for each of 5 images"):
        write_npz(tmp_path / "a", pictures(), torch.arange(4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("channels", "n", "columns", "rows"),
    [(1, 6, 3, 2), (3, 7, 3, 3), (3, 2, 5, 1), (1, 5, None, 2)],
)
def test_every_image_has_its_place_on_the_grid(tmp_path, channels, n, columns, rows):
    images = pictures(n, channels)
    write_grid(tmp_path / "grid.png", images, columns, scale=2, gap=3)
    with Image.open(tmp_path / "grid.png") as opened:
        sheet = np.asarray(opened).reshape(opened.height, opened.width, channels)
    columns = min(columns or 3, n)
    assert sheet.shape[:2] == (rows * (8 + 3) + 3, columns * (12 + 3) + 3)
    seen = np.zeros(sheet.shape[:2], bool)
    for i, image in enumerate(images):
        top, left = 3 + i // columns * 11, 3 + i % columns * 15
        cell = sheet[top : top + 8, left : left + 12]
        for dy, dx in ((0, 0), (1, 1), (0, 1)):
            np.testing.assert_array_equal(cell[dy::2, dx::2], image.permute(1, 2, 0))
        seen[top : top + 8, left : left + 12] = True
    assert (sheet[~seen] == 255).all()
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_a_grid_is_about_square_and_has_columns():
    assert image_grid(pictures(100), gap=0).shape == (3, 10 * 4, 10 * 6)
    assert image_grid(pictures(101), gap=0).shape[2] == math.ceil(math.sqrt(101)) * 6
    for wrong in ({"columns": 0}, {"scale": 0}, {"gap": -1}):
        with pytest.raises(InputError, match="expected at least 1, 1 and 0"):
            image_grid(pictures(), **wrong)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1], "int64 of shape"),
        ([0, 1, 10], "label 2 is 10, expected 0 to 9"),
        ([0, True, 2.0], "float64"),
        ([[0], [1, 2], 3], "ragged"),
        (functools.reduce(lambda below, _: (below, below), range(60), 1), "ragged"),  # 2⁶⁰ numbers
        (["0", "1", "2"], "the labels are <U1"),
        ([0, 1, 10**30], "the labels are object"),
    ],
)
def test_wrong_labels_are_refused(labels, said):
    with pytest.raises(InputError, match=f"here: .*{said}"):
        checked_labels("here", labels, 3, 10)
