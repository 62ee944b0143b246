"""A policy as one graph that runs without this library: normaliser, sampling and bounds inside.

Each form, ONNX and torch.export, is given as the bytes of a file, and can be held against the
policy that it was made of.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cmpolicy.atomic_file import write_atomically
from cmpolicy.consistency.sampling import few_step_levels
from cmpolicy.errors import InputError
from cmpolicy.policy.consistency_policy import ConsistencyPolicy

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-5  # of half an action's range
BATCHES = (1, 2, 129)  # that a form is tried with
# observations (B, obs_dim) and, where the graph takes it, noise (B, steps, action_dim)
# → actions (B, action_dim) and the noise that was given or drawn, if any
Run = Callable[..., tuple[Tensor, Tensor | None]]


class PolicyGraph(nn.Module):
    """A frozen copy of a policy, on the CPU, for one number of steps.

    Args:
        policy: left as it is.
        steps: network calls an action, on a Karras grid; None for the policy's own levels.
        noise_inside: draw the noise in the graph; else it is an input.
        mode_of: samples whose mode is taken, which needs no noise; 1 for a plain sample.
    """

    def __init__(
        self,
        policy: ConsistencyPolicy,
        steps: int | None = None,
        noise_inside: bool = False,
        mode_of: int = 1,
    ) -> None:
        super().__init__()
        policy = copy.deepcopy(policy).cpu().float().requires_grad_(False)
        policy.target_network = None
        if steps is not None:
            policy.sampler = policy.sampler_at(few_step_levels(steps, policy.parameterization))
        self.policy, self.steps, self.mode_of = policy, policy.sampler.steps, mode_of
        self.draws = noise_inside and mode_of == 1
        # Names and shapes of what the graph takes, batch first.
        self.inputs: dict[str, tuple[int, ...]] = {"observations": (policy.obs_dim,)}
        if not noise_inside and mode_of == 1:
            self.inputs["noise"] = (self.steps, policy.action_dim)

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, obs_dim), (B, steps, action_dim) → (B, action_dim)"""
        if self.mode_of > 1:
            return self.policy.mode(observations, self.mode_of)
        noise = self.draw(observations.shape[0]) if noise is None else noise
        actions: Tensor = self.policy(observations, noise=noise)
        return actions

    def description(self) -> dict[str, Any]:
        """What a file says of itself."""
        return {
            "steps": self.steps,
            "mode_of": self.mode_of,
            "noise_inside": self.draws,
            **self.policy.window._asdict(),
            "inputs": {name: ["batch", *shape] for name, shape in self.inputs.items()},
            "action_low": self.policy.bound.low.tolist(),
            "action_high": self.policy.bound.high.tolist(),
            "cmpolicy": version("cmpolicy"),
        }

    def draw(self, batch: int) -> Tensor:
        """Noise of every step, (batch, steps, action_dim), drawn as the policy draws it."""
        shape = batch, self.policy.action_dim
        return torch.stack([torch.randn(shape) for _ in range(self.steps)], dim=1)

    def program(self) -> ExportedProgram:
        """The graph, for a batch of any size."""
        batch = Dim("batch")
        if self.mode_of > 1:
            self(torch.zeros(1, self.policy.obs_dim))  # even noise is made once, never in a trace
        with quiet():
            program = torch.export.export(
                self,
                tuple(torch.zeros(2, *shape) for shape in self.inputs.values()),
                dynamic_shapes={name: {0: batch} for name in self.inputs},
            )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names files of this machine
        return program


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that torch's exporters give of their own code."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def to_torch(graph: PolicyGraph, about: Mapping[str, Any]) -> bytes:
    """A file for `torch.export.load`, with `about` as its extra file ``about.json``."""
    file = io.BytesIO()
    with quiet():
        torch.export.save(graph.program(), file, extra_files={"about.json": json.dumps(about)})
    return file.getvalue()


def to_onnx(graph: PolicyGraph, about: Mapping[str, Any]) -> bytes:
    """An ONNX model, with `about` as its metadata.

    Raises:
        InputError: where the packages for it are not installed.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX needs {', '.join(missing)}: pip install -e '.[export]', or give formats=[torch]"
        )
    import onnx

    with quiet():
        exported = torch.onnx.export(
            graph.program(),
            dynamo=True,
            verbose=False,
            input_names=list(graph.inputs),
            output_names=["actions"],
            dynamic_shapes={name: {0: "batch"} for name in graph.inputs},
        )
    assert exported is not None
    model = exported.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def run_torch(content: bytes, graph: PolicyGraph) -> Run:
    """How to run what `to_torch` gave."""
    with quiet():
        module = torch.export.load(io.BytesIO(content)).module()

    def run(observations: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            actions = module(observations, *noise)
            torch.manual_seed(0)
            drawn = graph.draw(len(observations)) if graph.draws else None
            return actions, noise[0] if noise else drawn

    return run


def run_onnx(content: bytes, graph: PolicyGraph) -> Run:
    """How to run what `to_onnx` gave; noise that it draws inside is made an output."""
    import onnx
    import onnxruntime

    model = onnx.load_from_string(content)
    drawn = [n.output[0] for n in model.graph.node if n.op_type.startswith("Random")]
    for name in drawn:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def run(observations: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor | None]:
        tensors = zip(graph.inputs, (observations, *noise), strict=True)
        arrays = session.run(None, {name: tensor.numpy() for name, tensor in tensors})
        actions, *seen = (torch.from_numpy(array) for array in arrays)
        drawn = torch.stack(seen, dim=1) if seen else None
        return actions, noise[0] if noise else drawn

    return run


@torch.no_grad()
def largest_difference(run: Run, graph: PolicyGraph) -> float:
    """How far actions are from the policy's, as a fraction of half their range.

    Observations are drawn about the data's, wide enough to reach the bounds. Where a mode is
    taken, the worst of them is left out: rounding decides between two that are equally dense.
    """
    policy, generator = graph.policy, torch.Generator().manual_seed(0)
    half_range = (policy.bound.high - policy.bound.low) / 2
    differences: list[Tensor] = []
    for batch in BATCHES:
        tensors = [
            torch.randn(batch, *shape, generator=generator) for shape in graph.inputs.values()
        ]
        tensors[0] = policy.obs_mean + 3 * policy.obs_std * tensors[0]
        actions, noise = run(*tensors)
        differences.append((actions - graph(tensors[0], noise)) / half_range)
    worst = torch.cat(differences).abs().amax(1).sort().values
    return worst[-1 if graph.mode_of == 1 else -2].item()


FORMATS = {"onnx": (to_onnx, run_onnx, ".onnx"), "torch": (to_torch, run_torch, ".pt2")}


def checked_form(name: str, graph: PolicyGraph, about: dict[str, Any]) -> tuple[bytes, float]:
    """Content of a file, and its largest difference from the policy.

    Raises:
        RuntimeError: if the difference exceeds TOLERANCE.
    """
    make, run_form, _ = FORMATS[name]
    content = make(graph, about)
    difference = largest_difference(run_form(content, graph), graph)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"the {name} form differs from the policy by {difference:.1e} of half an action's "
            f"range, more than {TOLERANCE:.0e}; nothing is written"
        )
    return content, difference


def save_form(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; choose another output_dir=") from error
    return path
