"""The learner of teacher and student: phases, training settings, pieces, resumption, a Gaussian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cmpolicy.consistency.losses import DISTILLATIONS, LOSSES
from cmpolicy.consistency.parameterization import EDMParameterization
from cmpolicy.errors import InputError
from cmpolicy.generative.learner import GenerativeLearner
from cmpolicy.generative.loss_config import LossConfig
from cmpolicy.images.config import UNetConfig
from cmpolicy.images.unet import UNet
from cmpolicy.networks.shared_dropout import share_masks
from cmpolicy.toys.dataset import ToyBatch
from cmpolicy.toys.fourier_mlp import FourierMLP


def gaussian(n: int) -> ToyBatch:
    """N(1, 2²)."""
    return ToyBatch(1 + 2 * torch.randn(n, 1), None)


def learner(name: str, steps: int = 12, **options: Any) -> GenerativeLearner:
    torch.manual_seed(0)
    given = {"teacher": options.pop("teacher", None)}
    network = FourierMLP(1, hidden=[16, 16], harmonics=2)
    config = LossConfig(name, **options)
    return GenerativeLearner(network, config, steps, torch.ones(1), 2.0, 0.01, 10.0, **given)


def train(model: GenerativeLearner, updates: int, batch: int = 16) -> GenerativeLearner:
    for _ in range(updates):
        model.update(gaussian(batch))
    return model


def weights(model: torch.nn.Module | None) -> Tensor:
    assert model is not None
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_first_the_teacher_is_trained_then_the_student_starts_from_it() -> None:
    model = learner("scd", teacher_steps=6)
    start, before = weights(model.student.network), weights(model.teacher.network)
    train(model, 5)
    assert torch.equal(weights(model.student.network), start)
    train(model, 1)
    taught = weights(model.teacher.network)
    assert not torch.equal(taught, before)
    assert torch.equal(weights(model.student.network), weights(model.teacher.average_network))
    train(model, 6)
    assert torch.equal(weights(model.teacher.network), taught)
    assert not torch.equal(weights(model.student.network), weights(model.teacher.average_network))


@pytest.mark.parametrize("name", [*LOSSES, *DISTILLATIONS])
@pytest.mark.parametrize("parameterization", ["karras", "trigflow"])
def test_every_loss_trains(name: str, parameterization: str) -> None:
    model = learner(name, parameterization=parameterization, teacher_steps=4)
    start = weights(model.student.network)
    loss = train(model, 11).update(gaussian(16))["train/loss"]
    assert loss.isfinite()
    assert loss.shape == ()
    assert not torch.equal(weights(model.student.network), start)
    assert not torch.equal(weights(model.student.average_network), start)


def test_a_given_teacher_replaces_the_first_updates() -> None:
    options = {"teacher_steps": 6, "parameterization": "karras"}
    teacher = train(learner("cd", **options), 6).teacher
    model = learner("cd", 6, teacher=teacher, **options)
    assert model.teacher_steps == 0
    assert model.teacher is teacher
    assert isinstance(teacher.parameterization, EDMParameterization)
    assert torch.equal(weights(model.student.network), weights(teacher.average_network))


def test_a_teacher_alone_is_trained_and_restored() -> None:
    model = learner("edm", options={"p_mean": -0.5})
    assert model.student is None
    start = weights(model.teacher.network)
    train(model, 12)
    assert not torch.equal(weights(model.teacher.average_network), start)
    again = learner("edm", options={"p_mean": -0.5})
    again.load_training_state(model.training_state())
    assert torch.equal(weights(again), weights(model))


def test_the_learning_rate_rises_and_falls_to_nothing_in_each_phase() -> None:
    model = learner("scd", steps=1000, teacher_steps=500, learning_rate=0.5)
    seen: dict[str, list[float]] = {"teacher": [], "student": []}
    for step in (*range(0, 1000, 20), 499, 999):
        model.step = step
        phase = "teacher" if step < 500 else "student"
        optimizer = model.optimizers[phase]
        optimizer.step = lambda *a, **k: None  # type: ignore[method-assign]
        model.update(gaussian(2))
        seen[phase].append(optimizer.param_groups[0]["lr"])
    for rates in seen.values():
        assert rates[0] < 0.01
        assert max(rates) > 0.35
        assert rates[-1] < 1e-4
    constant = LossConfig("sct", schedule="constant", learning_rate=2.0, warmup=4)
    assert [constant.learning_rate_at(k, 100) for k in (0, 1, 3, 50, 99)] == [0.5, 1, 2, 2, 2]


def test_only_a_loss_that_needs_a_target_has_one_and_it_follows() -> None:
    assert learner("sct").student.target_network is None
    model = learner("ct", parameterization="karras")
    start = weights(model.student.target_network)
    assert torch.equal(start, weights(model.student.network))
    train(model, 3)
    moved = (weights(model.student.target_network) - start).norm()
    assert 0 < moved < (weights(model.student.network) - start).norm()


def test_each_average_is_that_of_a_run_with_its_decay_alone() -> None:
    model = train(learner("sct", ema_decay=0.3, other_ema_decays=[0.2, 0.6]), 12)
    for decay in (0.2, 0.3, 0.6):
        alone = train(learner("sct", ema_decay=decay), 12).student.average_network
        assert torch.equal(weights(model.student.averaged(decay)), weights(alone))
    assert model.student.averaged() is model.student.average_network
    with pytest.raises(InputError, match=r"no average of decay 0.5 is kept; choose one of 0.3, 0."):
        model.student.averaged(0.5)


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", "Adam"), ("radam", "RAdam")])
def test_the_optimizer_and_its_settings(optimizer: str, kind: str) -> None:
    model = train(learner("sct", optimizer=optimizer, betas=[0.8, 0.9], max_grad_norm=1e-3), 1)
    found = model.optimizers["student"]
    assert type(found).__name__ == kind
    assert found.param_groups[0]["betas"] == (0.8, 0.9)
    gradients = [p.grad.flatten() for p in model.student.parameters() if p.grad is not None]
    assert torch.cat(gradients).norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [("scd", {}), ("sct", {"teacher_steps": 12}), ("cd", {"teacher_steps": 20})],
)
def test_runs_without_a_teacher_or_a_step_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a distillation needs a teacher"):
        learner(name, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "nonsense"},
        {"parameterization": "nonsense"},
        {"options": {"nonsense": 1}},
        {"learning_rate": 0.0},
        {"teacher_steps": -1},
        {"ema_decay": 1.0},
        {"other_ema_decays": [1.5]},
        {"other_ema_decays": [0.999]},
        {"optimizer": "sgd"},
        {"schedule": "linear"},
        {"betas": [0.9]},
        {"warmup": 0},
        {"max_grad_norm": 0.0},
    ],
    ids=str,
)
def test_bad_configurations_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LossConfig(**options)


# A batch in pieces, and dropout ------------------------------------------------------------------


def small_unet(name: str, dropout: float, **options: Any) -> GenerativeLearner:
    torch.manual_seed(0)
    network = UNet((1, 8, 8), 2, UNetConfig(channels=8, multipliers=[1, 2], dropout=dropout))
    config = LossConfig(name, learning_rate=1e-3, **options)
    return GenerativeLearner(network, config, 12, torch.zeros(1, 1, 1), 1.0)


def labelled(n: int) -> ToyBatch:
    return ToyBatch(torch.randn(n, 1, 8, 8), torch.randint(2, (n,)))


@pytest.mark.parametrize("name", ["ect", "scd"])
def test_a_batch_in_pieces_gives_the_same_weights(name: str) -> None:
    """With dropout too: noise, levels and masks of a piece are those of the whole."""
    found = []
    for accumulate in (1, 4):
        model = small_unet(name, 0.2, teacher_steps=4)
        model.accumulate = accumulate
        torch.manual_seed(1)
        for _ in range(8):
            model.update(labelled(16))
        found.append(weights(model))
    assert (found[0] - found[1]).abs().max() < 1e-5
    with pytest.raises(InputError, match="must be a multiple of 4"):
        model.update(labelled(18))


def test_dropout_is_shared_within_an_update_and_fresh_in_the_next() -> None:
    """Between equal levels f_θ and f_θ⁻ are the same."""
    model = small_unet("cd", 0.5, teacher_steps=1, options={"mu": 0.9, "metric": "squared"})
    student = model.student
    for p in student.network.parameters():
        p.data = torch.randn_like(p) * 0.1
    student.target_network.load_state_dict(student.network.state_dict())
    x0, sigma = labelled(6).x, torch.full((6,), 2.0)
    seen = []
    for _ in range(2):
        masks = model.draw_masks(x0)
        for network in student.trained_networks:
            share_masks(network, *masks)
        f = student.bind(None, student.network)(x0, sigma)
        assert torch.equal(f, student.bind(None, student.target_network)(x0, sigma))
        seen.append(f)
    assert not torch.allclose(*seen)
    assert torch.equal(*(student.bind(None)(x0, sigma) for _ in range(2)))


# Resumption --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stop"), [("cd", 3), ("scd", 6), ("ct", 9), ("cd", 9), ("dmd2", 6), ("dmd2", 9)]
)
def test_a_resumed_learner_ends_in_the_same_weights(name: str, stop: int) -> None:
    options: dict[str, Any] = {"teacher_steps": 6, "parameterization": "karras"}
    options |= {"options": {"fake_updates": 2}} if name == "dmd2" else {}
    straight, first = learner(name, **options), learner(name, **options)
    torch.manual_seed(1)
    train(straight, 12)
    torch.manual_seed(1)
    train(first, stop)
    rng = torch.get_rng_state()
    resumed = learner(name, **options)
    resumed.load_training_state(first.training_state())
    torch.set_rng_state(rng)
    train(resumed, 12 - stop)
    assert torch.equal(weights(resumed), weights(straight))


def test_another_models_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        learner("sct").load_training_state(learner("ct").training_state())


# A Gaussian --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sct", "scd", "ect"])
def test_a_trained_student_is_the_closed_form(name: str) -> None:
    """f*(x, σ) = x √((s² + ε²)/(s² + σ²)), and its samples are N(1, 2²)."""
    teacher = 400 if name == "scd" else 0
    model = learner(name, 1_200, teacher_steps=teacher, learning_rate=5e-3, ema_decay=0.98)
    train(model, 1_200, batch=256)
    sigma = torch.tensor([0.1, 0.5, 2.0, 10.0]).repeat_interleave(41)
    spread = (0.25 + sigma**2).sqrt()
    x = torch.linspace(-1.5, 1.5, 41).repeat(4) * spread
    f = model.student.bind(None)(x[:, None], sigma)[:, 0].detach()
    assert (f - 0.5 * x / spread).square().mean().sqrt() < 0.06  # σ_d is 0.5
    y = model.decode(model.student.sample(torch.randn(20_000, 1), [10.0])).detach()
    assert y.mean().item() == pytest.approx(1.0, abs=0.15)
    assert y.std().item() == pytest.approx(2.0, rel=0.06)


def test_dmd2_moves_a_gaussian_student_onto_the_data() -> None:
    """The teacher at σ_max gives the data's mean alone: as a generator its spread is too small."""
    options = {"learning_rate": 3e-3, "ema_decay": 0.98, "parameterization": "karras"}
    model = learner("dmd2", 1_100, teacher_steps=300, **options, options={"fake_updates": 2})
    train(model, 300, batch=128)

    def spread() -> Tensor:
        y = model.decode(model.student.sample(torch.randn(20_000, 1), [10.0])).detach()
        assert y.mean().item() == pytest.approx(1.0, abs=0.3)
        return y.std()

    assert spread() < 1
    train(model, 800, batch=128)
    assert spread().item() == pytest.approx(2.0, rel=0.2)


def test_dmd2_updates_the_fake_score_each_time_and_the_student_now_and_then() -> None:
    model = learner("dmd2", teacher_steps=2, options={"fake_updates": 3})
    train(model, 2)
    taught = weights(model.teacher.average_network)
    assert torch.equal(weights(model.fake), taught)
    moved: dict[str, list[bool]] = {"fake": [], "student": []}
    for _ in range(6):
        before = weights(model.fake), weights(model.student.network)
        train(model, 1)
        after = weights(model.fake), weights(model.student.network)
        for name, a, b in zip(moved, before, after, strict=True):
            moved[name].append(not torch.equal(a, b))
    assert moved == {"fake": [True] * 6, "student": [False, False, True] * 2}
    assert torch.equal(weights(model.teacher.average_network), taught)


def test_encode_scales_to_sigma_d_and_decode_inverts_it() -> None:
    model = learner("sct")
    x = gaussian(50_000).x
    assert model.encode(x).std().item() == pytest.approx(0.5, rel=0.02)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=1e-5, atol=1e-5)


def test_samplers_run_in_float64() -> None:
    model = learner("scd", teacher_steps=6).double()
    noise = torch.randn(8, 1, dtype=torch.float64)
    assert model.student.sample(noise, [10.0, 1.0]).dtype == torch.float64
    assert model.teacher.sample(noise, steps=4, churn=2.0).dtype == torch.float64
