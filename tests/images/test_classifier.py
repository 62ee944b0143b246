from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits

from cmpolicy.images import classifier as image_classifier
from cmpolicy.images.classifier import ImageClassifier, trained_classifier
from cmpolicy.images.extractors import open_extractor


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    images = torch.from_numpy(bunch.images * 15).to(torch.uint8)[:, None]
    return SimpleNamespace(images=images, labels=torch.from_numpy(bunch.target).long(), classes=10)


def first(data, n):
    return SimpleNamespace(images=data.images[:n], labels=data.labels[:n], classes=data.classes)


def test_it_learns_digits_it_has_not_seen(digits, tmp_path):
    network, _ = trained_classifier(first(digits, 1297), cache=tmp_path)
    found = network(digits.images[1297:]).argmax(1)
    assert (found == digits.labels[1297:]).double().mean() > 0.9


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (1, 28, 28), (3, 32, 40)])
def test_it_takes_images_of_any_size(shape):
    network = ImageClassifier(shape, 7)
    images = torch.zeros(2, *shape, dtype=torch.uint8)
    assert network.features(images).shape == (2, 128)
    assert network(images).shape == (2, 7)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(image_classifier, "UPDATES", 3)


def weights(network):
    return torch.cat([p.flatten() for p in network.parameters()])


def test_the_same_data_gives_the_same_weights(digits, tmp_path, short):
    """Whatever torch's global generator says, and without moving it."""
    torch.manual_seed(1)
    one, key = trained_classifier(digits, cache=tmp_path / "a")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two, again = trained_classifier(digits, cache=tmp_path / "b")
    assert torch.equal(before, torch.get_rng_state())
    assert key == again
    assert torch.equal(weights(one), weights(two))
    other, other_key = trained_classifier(digits, seed=1, cache=tmp_path / "a")
    assert other_key != key
    assert not torch.equal(weights(one), weights(other))


def test_it_is_trained_once(digits, tmp_path, short, monkeypatch):
    one, key = trained_classifier(digits, cache=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"classifier-{key}.safetensors"]
    monkeypatch.setattr(image_classifier, "fit", None)  # would fail if called
    two, _ = trained_classifier(digits, cache=tmp_path)
    assert torch.equal(weights(one), weights(two))
    assert not any(p.requires_grad for p in two.parameters())


def test_other_data_is_another_classifier(digits, tmp_path, short):
    keys = {trained_classifier(first(digits, n), cache=tmp_path)[1] for n in (100, 101)}
    relabelled = first(digits, 100)
    relabelled.labels = relabelled.labels.roll(1)
    keys.add(trained_classifier(relabelled, cache=tmp_path)[1])
    assert len(keys) == 3


def test_the_cache_can_be_moved(digits, tmp_path, short, monkeypatch):
    monkeypatch.setenv("CMPOLICY_CACHE", str(tmp_path / "here"))
    extractor = open_extractor("classifier", digits)
    assert [p.stem for p in (tmp_path / "here").iterdir()] == [f"classifier-{extractor.weights}"]
    assert extractor.distance == "Fréchet distance (classifier)"
    assert extractor(digits.images[:7]).shape == (7, 128)


def test_features_have_unit_mean_square(digits, tmp_path):
    network, _ = trained_classifier(first(digits, 1297), cache=tmp_path)
    assert network.features(digits.images[:1000]).square().mean() == pytest.approx(1.0, rel=1e-4)
    again, _ = trained_classifier(first(digits, 1297), cache=tmp_path)
    assert torch.equal(network.features(digits.images), again.features(digits.images))
