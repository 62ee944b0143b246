from __future__ import annotations

import json
import pickle
import struct

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

N = 4


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (N, 3, 32, 32), dtype=np.uint8)


LABELS = [6, 9, 0, 3]


def binary(images, labels=LABELS):
    return b"".join(bytes([y]) + x.tobytes() for x, y in zip(images, labels, strict=True))


def python_2(images, labels=LABELS, dtype=b"u1"):
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


def python_3(images, labels=LABELS, **others):
    data = images.reshape(len(images), -1)
    return pickle.dumps({"data": data, "labels": labels, **others}, protocol=4)


def column_major(images):
    return pickle.dumps(
        {b"data": np.asfortranarray(images.reshape(N, -1)), b"labels": LABELS}, protocol=2
    )


def test_a_binary_batch(tmp_path, images):
    (tmp_path / "a.bin").write_bytes(binary(images))
    read, labels = read_binary_batch(tmp_path / "a.bin")
    np.testing.assert_array_equal(read, images)
    assert labels.tolist() == LABELS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b[:-1], "holds 12291 bytes, expected 3073 for each image"),
        (lambda b: b"", "holds 0 bytes"),
        (lambda b: b"\x0a" + b[1:], "label 0 is 10, expected 0 to 9"),
    ],
)
def test_a_binary_batch_that_is_none(tmp_path, images, change, said):
    (tmp_path / "a.bin").write_bytes(change(binary(images)))
    with pytest.raises(InputError, match=said):
        read_binary_batch(tmp_path / "a.bin")


@pytest.mark.parametrize("write", [python_2, python_3])
def test_a_python_batch(tmp_path, images, write):
    (tmp_path / "a").write_bytes(write(images))
    read, labels = read_python_batch(tmp_path / "a")
    np.testing.assert_array_equal(read, images)
    assert labels.tolist() == LABELS


def test_the_bytes_of_python_2_are_what_pickle_reads(images):
    whole = pickle.loads(python_2(images), encoding="bytes")
    np.testing.assert_array_equal(whole[b"data"], images.reshape(N, -1))


def test_an_array_in_column_major_order(tmp_path, images):
    """NumPy writes its bytes through `_codecs.encode` in protocol 2, which needs to be run."""
    (tmp_path / "a").write_bytes(column_major(images))
    with pytest.raises(InputError, match=r"asks for _codecs\.encode"):
        read_python_batch(tmp_path / "a")
    data = np.asfortranarray(images.reshape(N, -1))
    (tmp_path / "a").write_bytes(pickle.dumps({"data": data, "labels": LABELS}, protocol=4))
    np.testing.assert_array_equal(read_python_batch(tmp_path / "a")[0], images)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        from pathlib import Path

        return Path.touch, (Path(self.path),)


class Shell(Touch):
    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("payload", [Touch, Shell])
def test_pickled_code_is_not_run(tmp_path, images, payload, protocol):
    canary = tmp_path / "canary"
    content = {"filenames": [payload(str(canary))], "labels": LABELS}
    (tmp_path / "a").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(InputError, match="which no batch of CIFAR-10 holds; it was not run"):
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
    ],
)
def test_other_names_than_an_arrays_are_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError):
        read_python_batch(tmp_path / "a")


def test_a_stand_in_cannot_be_changed_by_a_pickle(tmp_path, images):
    attack = b"\x80\x02cnumpy\nndarray\n(N}U\x0c__setstate__NstbK\x01."
    (tmp_path / "a").write_bytes(attack)
    with pytest.raises(InputError):
        read_python_batch(tmp_path / "a")
    (tmp_path / "a").write_bytes(python_2(images))
    np.testing.assert_array_equal(read_python_batch(tmp_path / "a")[0], images)


def test_a_python_batch_cut_anywhere_is_refused(tmp_path, images):
    whole = python_2(images[:1], [5])
    for end in [*range(330), *range(330, len(whole), 97), len(whole) - 1]:
        (tmp_path / "a").write_bytes(whole[:end])
        with pytest.raises(InputError) as caught:
            read_python_batch(tmp_path / "a")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda x: python_2(x, dtype=b"f4"), "holds an array of b'f4', expected bytes"),
        (lambda x: python_2(x, [6, 9, 10, 0]), "label 2 is 10, expected 0 to 9"),
        (lambda x: python_2(x, [6, 9, 0]), r"int64 of shape \(3,\)"),
        (lambda x: python_3(x[:, :1]), "holds data, labels, expected data"),
        (lambda x: pickle.dumps({"labels": [1]}), "holds labels, expected data"),
        (lambda x: pickle.dumps([1]), "holds no dictionary"),
        (lambda x: python_3(x, labels="abcd"), "the labels are <U4"),
        (lambda x: b"not a pickle", "is damaged or no batch of CIFAR-10"),
    ],
)
def test_a_python_batch_of_something_else(tmp_path, images, write, said):
    (tmp_path / "a").write_bytes(write(images))
    with pytest.raises(InputError, match=said):
        read_python_batch(tmp_path / "a")


def sheet(images):
    return Image.fromarray(images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3))


def test_a_png_sheet(tmp_path, images):
    sheet(images).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_png_sheet(tmp_path / "a.png"), images)


def test_a_png_sheet_that_is_none(tmp_path, images):
    path = tmp_path / "a.png"
    sheet(images).convert("L").save(path)
    with pytest.raises(InputError, match="1024 pixels wide in mode L, expected 1024 in RGB"):
        read_png_sheet(path)
    sheet(images).crop((0, 0, 1000, 4)).save(path)
    with pytest.raises(InputError, match="1000 pixels wide in mode RGB"):
        read_png_sheet(path)
    sheet(images).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="is cut short or no picture"):
        read_png_sheet(path)


def test_labels_in_json(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(LABELS))
    assert read_json_labels(path, N).tolist() == LABELS
    for text, said in (("[6, 9", "cut short or no JSON"), ("{}", "object"), ("[6, 9]", "shape")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_json_labels(path, N)
    path.write_text("[6, 9, 0, 11]")
    with pytest.raises(InputError, match="label 3 is 11, expected 0 to 9"):
        read_json_labels(path, N)
