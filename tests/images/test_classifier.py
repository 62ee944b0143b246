"""The classifier of images, and the perceptual distance on its features."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cmpolicy.generative.learner import GenerativeLearner
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.images import classifier as image_classifier
from cmpolicy.images.classifier import (
    PIXELS,
    ImageClassifier,
    PerceptualDistance,
    trained_classifier,
)
from cmpolicy.images.extractors import open_extractor

MEAN, STD = -0.3, 0.8


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    images = torch.from_numpy(bunch.images * 15).to(torch.uint8)[:, None]
    return SimpleNamespace(images=images, labels=torch.from_numpy(bunch.target).long(), classes=10)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(image_classifier, "UPDATES", 3)


def first(data, n):
    return SimpleNamespace(images=data.images[:n], labels=data.labels[:n], classes=data.classes)


def weights(network):
    return torch.cat([p.flatten() for p in network.parameters()])


def test_it_learns_digits_it_has_not_seen(digits, tmp_path):
    network, _ = trained_classifier(first(digits, 1297), cache=tmp_path)
    found = network(digits.images[1297:]).argmax(1)
    assert (found == digits.labels[1297:]).double().mean() > 0.9
    assert network.features(digits.images[:1000]).square().mean() == pytest.approx(1.0, rel=1e-4)
    again, _ = trained_classifier(first(digits, 1297), cache=tmp_path)
    assert torch.equal(network.features(digits.images), again.features(digits.images))


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 28, 28), (3, 32, 40)])
def test_it_takes_images_of_any_size(shape):
    network = ImageClassifier(shape, 7)
    images = torch.zeros(2, *shape, dtype=torch.uint8)
    assert network.features(images).shape == (2, 128)
    assert network(images).shape == (2, 7)


def test_data_and_seed_decide_its_weights(digits, tmp_path, short):
    """Whatever torch's global generator says, which stays as it is."""
    torch.manual_seed(1)
    one, key = trained_classifier(digits, cache=tmp_path / "a")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two, again = trained_classifier(digits, cache=tmp_path / "b")
    assert torch.equal(before, torch.get_rng_state())
    assert key == again
    assert torch.equal(weights(one), weights(two))
    other, other_key = trained_classifier(digits, seed=1, cache=tmp_path / "a")
    assert not torch.equal(weights(one), weights(other))
    relabelled = first(digits, 100)
    relabelled.labels = relabelled.labels.roll(1)
    more = [first(digits, 100), first(digits, 101), relabelled]
    keys = {trained_classifier(data, cache=tmp_path)[1] for data in more}
    assert len(keys | {key, other_key}) == 5


def test_it_is_trained_once(digits, tmp_path, short, monkeypatch):
    monkeypatch.setenv("CMPOLICY_CACHE", str(tmp_path))
    one, key = trained_classifier(digits)
    assert [p.name for p in tmp_path.iterdir()] == [f"classifier-{key}.safetensors"]
    monkeypatch.setattr(image_classifier, "fit", None)  # would fail if called
    two, _ = trained_classifier(digits)
    assert torch.equal(weights(one), weights(two))
    assert not any(p.requires_grad for p in two.parameters())
    extractor = open_extractor("classifier", digits)
    assert extractor.weights == key
    assert extractor.distance == "Fréchet distance (classifier)"
    assert extractor(digits.images[:7]).shape == (7, 128)


# The perceptual distance -------------------------------------------------------------------------


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier((3, 8, 8), 4).requires_grad_(False)


@pytest.fixture
def distance(classifier: ImageClassifier) -> PerceptualDistance:
    return PerceptualDistance(classifier.maps, MEAN, STD)


def test_the_distance_against_a_loop(classifier, distance) -> None:
    a, b = torch.randn(5, 3, 8, 8), torch.randn(5, 3, 8, 8)
    for i, found in enumerate(distance(a, b)):
        expected = PIXELS * float((a[i] - b[i]).square().mean())
        pixels = [x[i : i + 1] / 0.5 * STD + MEAN for x in (a, b)]
        for mine, theirs in zip(*map(classifier.maps, pixels), strict=True):
            _, _, height, width = mine.shape
            for h in range(height):
                for w in range(width):
                    u, v = mine[0, :, h, w], theirs[0, :, h, w]
                    gap = u / u.norm() - v / v.norm()
                    expected += float(gap.square().sum()) / (height * width)
        assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_maps_are_those_that_the_features_come_from(classifier) -> None:
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    maps = classifier.maps(images.float() / 127.5 - 1)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
    # two pixels a side are not pooled once more
    torch.testing.assert_close(classifier.hidden(maps[-1].flatten(1)), classifier.embed(images))


def test_it_is_zero_for_equals_and_has_finite_gradients(distance) -> None:
    a = torch.randn(4, 3, 8, 8, requires_grad=True)
    blank = torch.zeros(2, 3, 8, 8, requires_grad=True)
    assert torch.equal(distance(a, a.detach()), torch.zeros(4))
    distance(a, torch.randn(4, 3, 8, 8)).sum().backward()
    distance(blank, torch.full((2, 3, 8, 8), 0.1)).sum().backward()
    assert a.grad.isfinite().all()
    assert blank.grad.isfinite().all()
    assert (a.grad.flatten(1).norm(dim=1) > 0).all()


def test_a_student_trains_by_it_and_a_teacher_does_not(distance) -> None:
    seen: list[tuple[int, ...]] = []

    def metric(a: Tensor, b: Tensor) -> Tensor:
        seen.append(tuple(a.shape))
        return distance(a, b)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
            return self.layer(x) + level.view(-1, 1, 1, 1)

    config = LossConfig(name="cd", parameterization="karras", teacher_steps=1, perceptual=True)
    assert config.make_loss().metric == "squared"
    learner = GenerativeLearner(Network(), config, 3, torch.zeros(1, 1, 1), 1.0, perceptual=metric)
    batch = SimpleNamespace(x=torch.randn(6, 3, 8, 8), condition=None, references=None)
    for _ in range(3):
        assert learner.update(batch)["train/loss"].isfinite()
    assert seen == [(6, 3, 8, 8)] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "scd"}, "does not compare two images"),
        ({"name": "edm"}, "does not compare two images"),
        ({"name": "cd", "options": {"metric": "l1"}}, "not both"),
    ],
)
def test_losses_without_a_metric_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(perceptual=True, **settings)
