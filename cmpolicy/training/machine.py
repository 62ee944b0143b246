"""What a run was computed on, in words that tell one machine's speed from another's."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
GENERATION = {"family": "cpu family", "model": "model"}


def cpu_name() -> str:
    """The processor by its own name and, where the system tells, its generation.

    Virtual machines hide the name's end: "AMD EPYC" is a family whose members differ twofold.
    """
    first = CPUINFO.read_text().partition("\n\n")[0] if CPUINFO.is_file() else ""
    lines = (line.partition(":") for line in first.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name") or platform.processor() or platform.machine()
    generation = [f"{word} {facts[key]}" for word, key in GENERATION.items() if key in facts]
    return f"{name} ({', '.join(generation)})" if generation else name


def machine_name(device: torch.device | None = None) -> str:
    """Processor and threads of this process, with a GPU where `device` is one."""
    threads = torch.get_num_threads()
    cpu = f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    if device is None or device.type != "cuda":
        return cpu
    return f"{torch.cuda.get_device_name(device)}, {cpu}"
