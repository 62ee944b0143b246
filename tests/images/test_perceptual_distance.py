"""The perceptual distance against a plain loop, and as the metric of a loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cmpolicy.consistency.discrete import ConsistencyDistillation
from cmpolicy.generative.learner import GenerativeLearner
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.images.classifier import ImageClassifier
from cmpolicy.images.perceptual_distance import PIXELS, PerceptualDistance

MEAN, STD = -0.3, 0.8


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier((3, 8, 8), 4).requires_grad_(False)


@pytest.fixture
def distance(classifier: ImageClassifier) -> PerceptualDistance:
    return PerceptualDistance(classifier.maps, MEAN, STD)


def test_against_a_loop(classifier: ImageClassifier, distance: PerceptualDistance) -> None:
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


def test_the_maps_are_those_that_the_features_come_from(classifier: ImageClassifier) -> None:
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    maps = classifier.maps(images.float() / 127.5 - 1)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
    # two pixels a side are not pooled once more
    torch.testing.assert_close(classifier.hidden(maps[-1].flatten(1)), classifier.embed(images))


def test_it_is_zero_for_equals_and_has_gradients(distance: PerceptualDistance) -> None:
    a = torch.randn(4, 3, 8, 8, requires_grad=True)
    assert torch.equal(distance(a, a.detach()), torch.zeros(4))
    distance(a, torch.randn(4, 3, 8, 8)).sum().backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert (a.grad.flatten(1).norm(dim=1) > 0).all()


def test_blank_pictures_give_finite_gradients(distance: PerceptualDistance) -> None:
    a = torch.zeros(2, 3, 8, 8, requires_grad=True)
    distance(a, torch.full((2, 3, 8, 8), 0.1)).sum().backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_a_loss_measures_with_it(distance: PerceptualDistance) -> None:
    asked = LossConfig(name="cd", perceptual=True)
    loss = asked.make_loss(distance)
    assert isinstance(loss, ConsistencyDistillation)
    assert loss.metric is distance
    plain = asked.make_loss()
    assert isinstance(plain, ConsistencyDistillation)
    assert plain.metric == "squared"


def test_a_learner_trains_by_it(distance: PerceptualDistance) -> None:
    seen: list[tuple[int, ...]] = []

    def metric(a: Tensor, b: Tensor) -> Tensor:
        seen.append(tuple(a.shape))
        return distance(a, b)

    class Images:
        x = torch.randn(6, 3, 8, 8)
        condition = None
        references = None

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
            y: Tensor = self.layer(x) + level.view(-1, 1, 1, 1)
            return y

    torch.manual_seed(0)
    config = LossConfig(name="cd", parameterization="karras", teacher_steps=1, perceptual=True)
    learner = GenerativeLearner(Network(), config, 3, torch.zeros(1, 1, 1), 1.0, perceptual=metric)
    for _ in range(3):
        assert learner.update(Images())["train/loss"].isfinite()
    assert seen == [(6, 3, 8, 8)] * 2  # the teacher's update measures nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "scd"}, "compares no two pictures"),
        ({"name": "edm"}, "compares no two pictures"),
        ({"name": "cd", "options": {"metric": "l1"}}, "exclude each other"),
    ],
)
def test_where_there_is_nothing_to_measure(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(perceptual=True, **settings)  # type: ignore[arg-type]
