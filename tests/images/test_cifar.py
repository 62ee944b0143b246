"""The formats of CIFAR-10: read exactly, refused when damaged, and no pickled code runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmpolicy.errors import InputError
from cmpolicy.images.cifar import (
    read_binary_batch,
    read_json_labels,
    read_png_sheet,
    read_python_batch,
)

LABELS = [6, 9, 0, 3]
N = len(LABELS)
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 3, 32, 32), dtype=np.uint8)


def binary(images=IMAGES):
    return b"".join(bytes([y]) + x.tobytes() for x, y in zip(images, LABELS, strict=True))


def python_2(images=IMAGES, labels=LABELS, dtype=b"u1"):
    """What Python 2 wrote, opcode for opcode as in `data_batch_1`."""
    data = images.tobytes()
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
        + b"U\x06labelsq\x04]q\x05("
        + b"".join(b"K" + bytes([y]) for y in labels)
        + b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08"
        + b"K\x00\x85q\x09U\x01bq\x0a\x87Rq\x0b(K\x01"
        + b"M" + struct.pack("<H", len(images)) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0c"
        + b"U\x02" + dtype + b"K\x00K\x01\x87Rq\x0d("
        + b"K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(data)) + data
        + b"tbU\x09filenamesq\x0e]q\x0f(U\x05a.pngU\x05b.pngeu."
    )  # fmt: skip


def python_3(data=None, labels=LABELS, protocol=4):
    data = IMAGES.reshape(N, -1) if data is None else data
    return pickle.dumps({"data": data, "labels": labels}, protocol=protocol)


COLUMN_MAJOR = np.asfortranarray(IMAGES.reshape(N, -1))


def sheet(images=IMAGES):
    return Image.fromarray(images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3))


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_binary_batch, binary()),
        (read_python_batch, python_2()),
        (read_python_batch, python_3()),
        (read_python_batch, python_3(COLUMN_MAJOR)),
    ],
    ids=["binary", "python 2", "python 3", "column-major"],
)
def test_batches_are_read(tmp_path, read, content):
    (tmp_path / "a").write_bytes(content)
    images, labels = read(tmp_path / "a")
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == LABELS


def test_the_bytes_of_python_2_are_what_pickle_reads():
    whole = pickle.loads(python_2(), encoding="bytes")
    np.testing.assert_array_equal(whole[b"data"], IMAGES.reshape(N, -1))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (binary()[:-1], "holds 12291 bytes, expected 3073 for each image"),
        (b"", "holds 0 bytes"),
        (b"\x0a" + binary()[1:], "label 0 is 10, expected 0 to 9"),
    ],
)
def test_damaged_binary_batches_are_refused(tmp_path, content, said):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_binary_batch(tmp_path / "a.bin")


class Touch:
    """Pickled code that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class Shell(Touch):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("payload", [Touch, Shell])
def test_pickled_code_is_not_run(tmp_path, payload, protocol):
    canary = tmp_path / "canary"
    content = {"filenames": [payload(str(canary))], "labels": LABELS}
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(InputError, match="which no CIFAR-10 batch contains; it was not run"):
        read_python_batch(tmp_path / "a")
    assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__class__\x93.",  # a dotted name
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        b"Pwhere it is kept\n.",
        b"(S'x'\niposix\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # an extension's code
        b"\x80\x02cnumpy\nndarray\n(N}U\x0c__setstate__NstbK\x01.",  # changes a stand-in
        python_3(COLUMN_MAJOR, protocol=2),  # calls _codecs.encode
    ],
)
def test_other_names_than_an_arrays_are_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError):
        read_python_batch(tmp_path / "a")
    (tmp_path / "a").write_bytes(python_2())
    np.testing.assert_array_equal(read_python_batch(tmp_path / "a")[0], IMAGES)


def test_a_python_batch_cut_anywhere_is_refused(tmp_path):
    whole = python_2(IMAGES[:1], [5])
    for end in [*range(330), *range(330, len(whole), 97), len(whole) - 1]:
        (tmp_path / "a").write_bytes(whole[:end])
        with pytest.raises(InputError) as caught:
            read_python_batch(tmp_path / "a")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (python_2(dtype=b"f4"), "holds an array of b'f4', expected bytes"),
        (python_2(labels=[6, 9, 10, 0]), "label 2 is 10, expected 0 to 9"),
        (python_2(labels=[6, 9, 0]), r"int64 of shape \(3,\)"),
        (python_3(IMAGES[:, 0].reshape(N, -1)), "holds data, labels, expected data"),
        (pickle.dumps({"labels": [1]}), "holds labels, expected data"),
        (pickle.dumps([1]), "holds no dictionary"),
        (python_3(labels="abcd"), "the labels are <U4"),
        (b"not a pickle", "is damaged or not a CIFAR-10 batch"),
    ],
)
def test_other_python_batches_are_refused(tmp_path, content, said):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_python_batch(tmp_path / "a")


def test_a_png_sheet_is_read_or_refused(tmp_path):
    path = tmp_path / "a.png"
    sheet().convert("L").save(path)
    with pytest.raises(InputError, match="1024 pixels wide in mode L, expected 1024 in RGB"):
        read_png_sheet(path)
    sheet().crop((0, 0, 1000, 4)).save(path)
    with pytest.raises(InputError, match="1000 pixels wide in mode RGB"):
        read_png_sheet(path)
    sheet().save(path)
    np.testing.assert_array_equal(read_png_sheet(path), IMAGES)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="is cut short or not a PNG"):
        read_png_sheet(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[6, 9", "cut short or not JSON"),
        ("{}", "object"),
        ("[6, 9]", "shape"),
        ("[6, 9, 0, 11]", "label 3 is 11, expected 0 to 9"),
    ],
)
def test_labels_in_json_are_read_or_refused(tmp_path, text, said):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(LABELS))
    assert read_json_labels(path, N).tolist() == LABELS
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_json_labels(path, N)
