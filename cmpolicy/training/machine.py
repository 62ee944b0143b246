"""Names of processors and GPUs for results, precise enough to compare speeds."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
GENERATION = {"family": "cpu family", "model": "model"}


def cpu_name() -> str:
    """Name of the processor, with family and model number where /proc/cpuinfo has them.

    Virtual machines shorten names: processors called "AMD EPYC" differ twofold in speed.
    """
    first = CPUINFO.read_text().partition("\n\n")[0] if CPUINFO.is_file() else ""
    lines = (line.partition(":") for line in first.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name") or platform.processor() or platform.machine()
    generation = [f"{word} {facts[key]}" for word, key in GENERATION.items() if key in facts]
    return f"{name} ({', '.join(generation)})" if generation else name


def machine_name(device: torch.device | None = None) -> str:
    """Processor and threads of this process, after the GPU if `device` is one."""
    threads = torch.get_num_threads()
    cpu = f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    if device is None or device.type != "cuda":
        return cpu
    return f"{torch.cuda.get_device_name(device)}, {cpu}"
