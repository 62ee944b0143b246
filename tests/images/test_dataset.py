"""Image datasets: batches, statistics, and what `open_images` opens or refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from cmpolicy.errors import InputError
from cmpolicy.images.dataset import (
    IMAGE_DATASETS,
    ImageDataset,
    from_uint8,
    open_images,
    to_uint8,
)
from cmpolicy.images.files import write_npz


def pictures(n=64, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, 4, 6), generator=generator).byte()


def marked(channels=3, **options):
    """64 images whose first pixel is their number, and so is their label."""
    images, labels = pictures(64, channels), torch.arange(64)
    images[:, :, 0, 0] = labels[:, None].byte()
    images[:, :, 0, -1] = 255
    return images, ImageDataset(images, labels, [f"class {i}" for i in range(64)], **options)


def test_every_pixel_comes_back():
    every = torch.arange(256).byte()
    x = from_uint8(every)
    assert x.dtype == torch.float32
    assert (x[0], x[255]) == (-1, 1)
    assert torch.equal(to_uint8(x), every)
    assert to_uint8(torch.tensor([-7.0, 7.0, 0.0])).tolist() == [0, 255, 128]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_pairs_images_and_labels(channels):
    torch.manual_seed(0)
    images, dataset = marked(channels)
    batch = dataset.sample(500)
    assert batch.x.shape == (500, channels, 4, 6)
    assert (batch.x.dtype, batch.condition.dtype) == (torch.float32, torch.int64)
    assert torch.equal(to_uint8(batch.x), images[batch.condition])
    assert len(batch.condition.unique()) == 64  # all but surely


def test_half_of_the_images_are_mirrored_and_keep_their_labels():
    torch.manual_seed(0)
    images, dataset = marked(flip=True)
    batch = dataset.sample(2000)
    x, original = to_uint8(batch.x), images[batch.condition]
    as_is = (x == original).flatten(1).all(1)
    mirrored = (x == original.flip(3)).flatten(1).all(1)
    assert (as_is ^ mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55


def test_batches_follow_the_global_generator():
    dataset = ImageDataset(pictures(), None, ["a", "b"], flip=True)
    assert (dataset.classes, dataset.class_names, dataset.labels) == (0, [], None)
    state = torch.get_rng_state()
    first, second = dataset.sample(8), dataset.sample(8)
    torch.set_rng_state(state)
    assert torch.equal(dataset.sample(8).x, first.x)
    assert torch.equal(dataset.sample(8).x, second.x)
    assert not torch.equal(first.x, second.x)
    assert first.condition is None


def test_mean_and_std_are_those_of_all_pixels(monkeypatch):
    monkeypatch.setattr("cmpolicy.images.dataset.HISTOGRAM_PIXELS", 100)  # more than one part
    images = pictures(50) // 3
    dataset = ImageDataset(images)
    x = images.double() / 127.5 - 1
    assert dataset.mean.shape == (1, 1, 1)
    assert float(dataset.mean) == pytest.approx(float(x.mean()), abs=1e-6)
    assert dataset.std == pytest.approx(float(x.std(correction=0)), abs=1e-9)
    assert len(dataset) == 50
    assert dataset.shape == (3, 4, 6)


def test_images_and_labels_that_do_not_fit():
    with pytest.raises(InputError, match=r"expected uint8 \(N, C, H, W\)"):
        ImageDataset(pictures().float())
    for labels, said in (
        ([0, 1, 1, 2], "custom: label 3 is 2, expected 0 to 1"),
        ([0, 1, 1], "expected one integer for each of 4 images"),
    ):
        with pytest.raises(InputError, match=said):
            ImageDataset(pictures(4), torch.tensor(labels), ["a", "b"])


def test_the_digits_are_split_for_good():
    train, test = open_images("digits"), open_images("digits", split="test")
    assert (len(train), len(test)) == (1493, 304)
    assert (train.name, train.split, test.split, train.flip) == ("digits", "train", "test", False)
    assert (train.shape, train.classes, train.class_names[3]) == ((1, 8, 8), 10, "3")
    for dataset, least in ((train, 145), (test, 29)):
        assert dataset.labels.bincount().min() >= least
        assert (dataset.images.min(), dataset.images.max()) == (0, 255)
    bunch = load_digits()
    images = torch.cat([train.images, test.images])[:, 0].float() * 16 / 255
    labels = torch.cat([train.labels, test.labels])
    whole = torch.cat([images.round().long().flatten(1), labels[:, None]], dim=1)
    source = np.column_stack([bunch.data.astype(int), bunch.target])
    assert sorted(whole.tolist()) == sorted(source.tolist())
    assert torch.equal(open_images("digits").images, train.images)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (["imagenet"], {}, f"no image dataset 'imagenet', .* {IMAGE_DATASETS[0]}, "),
        (["digits"], {"split": "val"}, "no split 'val' of digits, expected train or test"),
        (["digits"], {"size": 0}, "size is 0, expected the pixels of a side"),
        (["digits", "/tmp"], {}, "have no files; leave root out"),
        (["folder"], {}, "folder needs root=, a folder of images"),
        (["npz"], {}, "npz needs root=, a file"),
    ],
)
def test_wrong_requests_are_refused(arguments, options, said):
    with pytest.raises(InputError, match=said):
        open_images(*arguments, **options)


def test_an_npz_by_its_path_and_one_for_each_split(tmp_path):
    write_npz(tmp_path / "train.npz", pictures(5), torch.tensor([0, 1, 2, 1, 0]))
    write_npz(tmp_path / "test.npz", pictures(3), torch.tensor([0, 1, 2]))
    file = str(tmp_path / "train.npz")
    dataset = open_images("npz", file)
    assert (len(dataset), dataset.classes, dataset.flip) == (5, 3, False)
    assert torch.equal(dataset.images, pictures(5))
    assert torch.equal(open_images("npz", str(tmp_path)).images, pictures(5))
    assert torch.equal(open_images("npz", str(tmp_path), "test").images, pictures(3))
    assert open_images("npz", file, size=2).shape == (3, 2, 2)
    with pytest.raises(InputError, match="is one file, which is the train split"):
        open_images("npz", file, "test")
    with pytest.raises(InputError, match=r"no file at .*nowhere\.npz, expected an \.npz"):
        open_images("npz", str(tmp_path / "nowhere.npz"))


def test_a_folder_and_its_splits(tmp_path):
    for i, name in enumerate(("train/a", "train/b", "test/a", "test/b", "plane/x")):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / name / "1.png")
    (tmp_path / ".thumbnails").mkdir()
    root = str(tmp_path)
    assert open_images("folder", root).class_names == ["plane", "test", "train"]
    (tmp_path / "plane").rename(tmp_path / ".plane")  # now there are only splits
    assert open_images("folder", root).images.flatten(1)[:, 0].tolist() == [0, 1]
    test = open_images("folder", root, "test", flip=True)
    assert test.images.flatten(1)[:, 0].tolist() == [2, 3]
    assert (test.class_names, test.flip) == (["a", "b"], True)
    alone = open_images("folder", str(tmp_path / "train"))
    assert torch.equal(alone.images, open_images("folder", root).images)
    with pytest.raises(InputError, match="train has no test split"):
        open_images("folder", str(tmp_path / "train"), "test")


def test_cifar10_is_mirrored_in_training_unless_told_otherwise(tmp_path):
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (tmp_path / name).write_bytes(bytes(2 * 3073))
    root = str(tmp_path)
    assert open_images("cifar10", root).flip is True
    assert open_images("cifar10", root, "test").flip is False
    assert open_images("cifar10", root, flip=False).flip is False


def test_a_file_that_cannot_be_read_is_a_wrong_input(tmp_path):
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"")
    (tmp_path / "train-images-idx3-ubyte").symlink_to("/proc/self/mem")  # opens, cannot be read
    with pytest.raises(InputError):
        open_images("mnist", str(tmp_path))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_images_live_on_the_device():
    _, dataset = marked(flip=True, device="cuda")
    tensors = (*dataset.sample(8), dataset.mean, dataset.images)
    assert {t.device.type for t in tensors} == {"cuda"}
