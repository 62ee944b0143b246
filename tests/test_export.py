"""The export command, from inside and from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from cmpolicy.errors import InputError
from cmpolicy.export import ExportConfig, export, load_policy
from cmpolicy.policy import export_graph
from cmpolicy.policy.consistency_policy import ConsistencyPolicy
from cmpolicy.train import train
from cmpolicy.training.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, compose: Any, tiny: Any) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    train(compose(*tiny, "agent=bc", "agent.mode_of=32", f"run_dir={path}"), [])
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one's own, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, "run"))


def outside(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def exported(run: Path, **options: Any) -> None:
    export(ExportConfig(**{"run": str(run), "formats": ["onnx"], **options}), [])


def acted(path: Path, **inputs: Any) -> Any:
    return onnxruntime.InferenceSession(path).run(None, inputs)[0]


def numbers(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.slow
def test_a_real_process_writes_forms_that_its_snippets_run(run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    done = outside("-m", "cmpolicy.export", "run=run", "steps=2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    names = ["policy-last-2step-mode32.onnx", "policy-last-2step-mode32.pt2"]
    assert sorted(p.name for p in (run / "export").iterdir()) == names
    assert all(p.read_bytes() == content for p, content in before.items())
    first, *rest = done.stdout.splitlines()
    assert first.startswith("observations (batch, 11) → actions (batch, 3) in")
    code = [line for line in rest if line.startswith("    ")]
    assert len(code) == 6
    for lines in (code[:3], code[3:]):
        again = outside("-c", textwrap.dedent("\n".join(lines)) + "\nprint(tuple(actions.shape))")
        assert again.stdout == "(1, 3)\n", again.stderr


@pytest.mark.slow
def test_a_real_process_says_one_line(run: Path) -> None:
    done = outside("-m", "cmpolicy.export", "run=run", "noise=outside")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: noise must be input or inside, got 'outside'\n"
    assert not (run / "export").exists()


def test_more_calls_than_the_actor_has_learned_are_refused(
    tmp_path: Path, compose: Any, tiny: Any
) -> None:
    run = tmp_path / "run"
    train(compose(*tiny, "agent=ac", f"run_dir={run}"), [])
    with pytest.raises(InputError, match="agent ac has learned to act by 1 network call, got 2"):
        exported(run, steps=2)
    assert not (run / "export").exists()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "-mode32"),
        ({"mode_of": 4}, "-mode4"),
        ({"mode_of": 1}, ""),
        ({"noise": "input"}, ""),
        ({"noise": "inside"}, "-noise_inside"),
    ],
)
def test_snippets_fit_what_was_written(
    run: Path, options: dict[str, Any], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(run, formats=["torch"], **options)
    out = capsys.readouterr().out
    code = [line for line in out.splitlines() if line.startswith("    ")]
    scope: dict[str, Any] = {}
    exec(textwrap.dedent("\n".join(code)), scope)
    assert tuple(scope["actions"].shape) == (1, 3)
    assert ("noise (batch, 1, 3)" in out) == (kind == "")
    assert [p.name for p in (run / "export").iterdir()] == [f"policy-last-1step{kind}.pt2"]


def test_it_is_the_averaged_policy_of_the_checkpoint(run: Path) -> None:
    directory = RunDirectory(run)
    state = directory.load_checkpoint("best")
    for name, tensor in state["learner"]["modules"].items():
        if name.startswith("average_policy.network.layers"):
            tensor.mul_(-2)
    directory.save_checkpoint("best", state)
    for checkpoint in ("last", "best"):
        exported(run, checkpoint=checkpoint)
    policy, observations = ConsistencyPolicy.load(run / "policy.safetensors"), numbers(7, 11)
    expected = policy.act(observations, mode_of=32)
    last, best = (
        acted(run / "export" / f"policy-{name}-1step-mode32.onnx", observations=observations)
        for name in ("last", "best")
    )
    np.testing.assert_allclose(last, expected, rtol=0, atol=1e-5)
    assert abs(best - expected).max() > 1e-3


def test_what_stands_for_a_choice_among_candidates_is_said(
    tmp_path: Path, caplog: Any, compose: Any, tiny: Any
) -> None:
    run = tmp_path / "run"
    critic = ("agent=ac", "agent.critic_hidden=[8]", "agent.candidates=4")
    train(compose(*tiny, *critic, f"run_dir={run}"), [])
    for mode_of, said in ((None, "draws one"), (8, "takes the mode of 8")):
        caplog.clear()
        _, mode, _ = load_policy(ExportConfig(run=str(run), mode_of=mode_of))
        assert mode == (mode_of or 1)
        [record] = caplog.records
        assert record.message == (
            f"agent ac takes one of 4 actions by its critic; the exported policy {said}."
        )


def test_a_policy_without_a_run(run: Path, tmp_path: Path) -> None:
    policy = ConsistencyPolicy(4, 2, [-3.0, 0.0], [1.0, 2.0], hidden=[8])
    policy.save("mine.safetensors")
    exported(Path("mine.safetensors"), output_dir="deep/place")
    [path] = (tmp_path / "deep" / "place").iterdir()
    assert path.name == "mine-1step.onnx"
    actions = acted(path, observations=numbers(3, 4), noise=numbers(3, 1, 2))
    assert ((actions >= [-3, 0]) & (actions <= [1, 2])).all()
    with pytest.raises(InputError, match="checkpoint=best needs a run directory"):
        exported(Path("mine.safetensors"), checkpoint="best")


def test_a_form_that_differs_is_not_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_graph, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="differs from the policy by"):
        exported(run, formats=["torch"])
    assert not (run / "export").exists()


def test_an_unwritable_place_is_one_line(run: Path) -> None:
    Path("file").write_text("here")
    for place in ("file", "file/deep"):
        with pytest.raises(InputError, match=r"cannot write file.*; choose another output_dir="):
            exported(run, output_dir=place, formats=["torch"])
    assert Path("file").read_text() == "here"


@pytest.mark.parametrize("damage", ["last", "results", "policy"])
def test_a_damaged_run_is_one_line(run: Path, damage: str) -> None:
    files = {"last": "checkpoints/last.safetensors", "results": "results.json"}
    path = run / files.get(damage, "policy.safetensors")
    (run / "checkpoints/previous.safetensors").unlink()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError) as error:
        exported(path if damage == "policy" else run)
    assert "\n" not in str(error.value)
    assert not (run / "export").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"checkpoint": "worst"}, "must be last or best, got 'worst'"),
        ({"noise": "none"}, "must be input or inside, got 'none'"),
        ({"mode_of": 0}, "mode_of must be at least 1"),
        ({"mode_of": 8, "noise": "input"}, "the mode of 8 samples takes no noise"),
        ({"formats": ["tflite"]}, r"formats must be of onnx and torch, got \['tflite'\]"),
        ({"formats": []}, "formats must be of"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ExportConfig(run="run", **options)
