"""Precision of matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cmpolicy.errors import InputError

PRECISIONS = ("auto", "fp32", "tf32", "bf16")
EXACT = 1e-5  # largest relative error of a float32 product; bfloat16 inputs would give 4e-3


def check_precision(name: str) -> None:
    """Raise ValueError for an unknown name."""
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}, expected one of {', '.join(PRECISIONS)}")


def resolve_precision(name: str, device: torch.device, auto: Sequence[str]) -> str:
    """Choose ``fp32``, ``tf32`` or ``bf16``.

    Args:
        auto: candidates of ``auto``; it takes the first that the device has instructions for.
    """
    if name != "auto":
        return name
    return next(precision for precision in auto if is_quick(precision, device))


def is_quick(precision: str, device: torch.device) -> bool:
    """Whether the device has instructions for the precision."""
    if precision == "fp32":
        return True
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # and so has TF32
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions
    names = ("avx512_bf16", "amx_bf16") if precision == "bf16" else ()
    return any(bool(capabilities.get(name)) for name in names)


def use_precision(precision: str, device: torch.device) -> None:
    """Set how this process computes float32 products; networks round to bfloat16 themselves.

    Raises:
        InputError: for tf32 on a CPU.
    """
    if precision == "tf32" and device.type != "cuda":
        raise InputError(f"precision=tf32 is for CUDA, got device {device}; give fp32 or bf16")
    if device.type == "cpu":
        use_fast_float32_products(device)
    elif precision == "tf32":
        torch.set_float32_matmul_precision("high")


def product_error(dtype: torch.dtype = torch.float32) -> float:
    """Measure the largest error of a 256 × 256 product, relative to its largest entry."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    return float(((a.to(dtype) @ b.to(dtype)).double() - exact).abs().max() / exact.abs().max())


def use_fast_float32_products(device: torch.device) -> None:
    """Let oneDNN compute float32 products on a CPU, unless that rounds them.

    "medium" permits bfloat16 and moves products from MKL to oneDNN. Only a CPU with AMX then
    rounds, and the permission is withdrawn. oneDNN uses AVX-512 on AMD's CPUs, which MKL does not:
    products take half the time.
    """
    if device.type == "cpu":
        torch.set_float32_matmul_precision("medium")
        if product_error() > EXACT:
            torch.set_float32_matmul_precision("highest")
