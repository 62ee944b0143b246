"""Write a policy as ONNX and torch.export: `python -m cmpolicy.export run=RUN`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmpolicy.cli.command import run, starting

with starting():
    import torch
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING

    from cmpolicy.cli.run_config import check_checkpoint, check_positive
    from cmpolicy.errors import InputError
    from cmpolicy.policy.action_chunks import Window
    from cmpolicy.policy.consistency_policy import ConsistencyPolicy
    from cmpolicy.policy.export_graph import FORMATS, PolicyGraph, checked_form, save_form
    from cmpolicy.rl.trained_agent import load_agent, read_record
    from cmpolicy.training.run_directory import RunDirectory

log = logging.getLogger("cmpolicy")


@dataclass
class ExportConfig:
    """`python -m cmpolicy.export run=RUN`.

    Attributes:
        run: a run directory, or a file that `ConsistencyPolicy.save` wrote.
        checkpoint: ``last`` or ``best``, of a run directory.
        steps: network calls an action; null for what the policy was trained with.
        mode_of: samples whose mode is taken, always of the same noise; null for as many as the run
            was evaluated with, 1 for a plain sample.
        noise: of a plain sample: ``input``, so that actions can be reproduced, or ``inside``,
            drawn in the graph.
        formats: ``onnx`` and ``torch``, or one of them.
        output_dir: where the files go; null for the directory `export` in the run.
    """

    run: str = MISSING
    checkpoint: str = "last"
    steps: int | None = None
    mode_of: int | None = None
    noise: str | None = None
    formats: list[str] = field(default_factory=lambda: ["onnx", "torch"])
    output_dir: str | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_positive(self, "steps")
        if self.mode_of is not None:
            check_positive(self, "mode_of")
        check_checkpoint(self.checkpoint)
        if self.noise not in (None, "input", "inside"):
            raise ValueError(f"noise must be input or inside, got {self.noise!r}")
        if self.noise is not None and (self.mode_of or 1) > 1:
            raise ValueError(f"the mode of {self.mode_of} samples takes no noise; leave noise out")
        if not self.formats or not set(self.formats) <= {"onnx", "torch"}:
            raise ValueError(f"formats must be of onnx and torch, got {list(self.formats)}")


ConfigStore.instance().store(name="export_schema", node=ExportConfig)


def export(config: ExportConfig, overrides: list[str]) -> None:
    """Write every form after all have been compared with the policy; print how to run them."""
    policy, mode_of, about = load_policy(config)
    graph = PolicyGraph(policy, config.steps, config.noise == "inside", mode_of)
    about |= graph.description()
    checked = {name: checked_form(name, graph, about) for name in dict.fromkeys(config.formats)}
    print(signature(graph))
    for name, (content, difference) in checked.items():
        path = file_path(config, name, graph)
        save_form(path, content)
        print(f"{name}: {path} ({len(content) / 1e3:.0f} kB)")
        print(f"  largest difference from the policy: {difference:.0e} of half an action's range")
        print("  run it:")
        print("".join(f"    {line}\n" for line in snippet(name, path, graph)), end="")


def load_policy(config: ExportConfig) -> tuple[ConsistencyPolicy, int, dict[str, Any]]:
    """Load the policy that acts, the number of samples of its mode, and metadata.

    Raises:
        InputError: if there is none, or none of so many network calls.
    """
    path = Path(config.run)
    if path.is_file():
        if config.checkpoint != "last":
            raise InputError(f"{path} is one policy; checkpoint=best needs a run directory")
        policy = ConsistencyPolicy.load(path)
        return policy, config.mode_of or (1 if config.noise else policy.mode_of), {}
    directory = RunDirectory.existing(path)
    spaces = read_record(directory).spaces
    agent, step = load_agent(directory, spaces, config.checkpoint, torch.device("cpu"))
    agent.check_steps(config.steps)
    mode_of = config.mode_of or (1 if config.noise else agent.average_policy.mode_of)
    if agent.candidates > 1:
        log.warning(
            "agent %s takes one of %d actions by its critic; the exported policy %s.",
            agent.config.name,
            agent.candidates,
            "draws one" if mode_of == 1 else f"takes the mode of {mode_of}",
        )
    about = {"agent": agent.config.name, "checkpoint": config.checkpoint, "updates": step}
    return agent.average_policy, mode_of, about


def file_path(config: ExportConfig, name: str, graph: PolicyGraph) -> Path:
    """Path of a form, named after its settings."""
    path = Path(config.run)
    single = path.is_file()
    directory = path.parent if single else path / "export"
    if config.output_dir is not None:
        directory = Path(config.output_dir)
    stem = path.stem if single else f"policy-{config.checkpoint}"
    kind = f"-mode{graph.mode_of}" if graph.mode_of > 1 else "-noise_inside" if graph.draws else ""
    return directory / f"{stem}-{graph.steps}step{kind}{FORMATS[name][2]}"


def signature(graph: PolicyGraph) -> str:
    """Inputs and outputs in one line."""
    inputs = ", ".join(
        f"{name} (batch, {', '.join(map(str, shape))})" for name, shape in graph.inputs.items()
    )
    bound, window = graph.policy.bound, graph.policy.window
    size = len(bound.low) // window.horizon
    low, high = bound.low[:size].tolist(), bound.high[:size].tolist()
    text = f"{inputs} → actions (batch, {len(bound.low)}) in {low} … {high}, float32"
    if window == Window():
        return text
    return (
        f"{text}; {window.history} observations, the oldest first, and {window.horizon} actions, "
        f"{window.execute} of them to be executed"
    )


def snippet(name: str, path: Path, graph: PolicyGraph) -> list[str]:
    """Three lines of Python that run a form."""
    shapes = {key: (1, *shape) for key, shape in graph.inputs.items()}
    noise = shapes.get("noise")
    if name == "onnx":
        feed = [f'"observations": np.zeros({shapes["observations"]}, np.float32)']
        if noise:
            feed.append(f'"noise": np.random.default_rng(0).standard_normal({noise}, np.float32)')
        return [
            "import numpy as np, onnxruntime",
            f"session = onnxruntime.InferenceSession({str(path)!r})",
            f"[actions] = session.run(None, {{{', '.join(feed)}}})",
        ]
    arguments = [f"torch.zeros{shapes['observations']}"]
    if noise:
        arguments.append(f"torch.randn{noise}")
    return [
        "import torch",
        f"policy = torch.export.load({str(path)!r}).module()",
        f"actions = policy({', '.join(arguments)})",
    ]


def main() -> None:
    """The command."""
    run(export, "export")


if __name__ == "__main__":
    main()
