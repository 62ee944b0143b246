"""In which precision a run computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cmpolicy.errors import InputError

PRECISIONS = ("auto", "fp32", "tf32", "bf16")
EXACT = 1e-5  # largest relative error of a float32 product; bfloat16 inputs would give 4e-3


def check_precision(name: str) -> None:
    """Raise ValueError unless networks can compute in it."""
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}, expected one of {', '.join(PRECISIONS)}")


def resolve_precision(name: str, device: torch.device, auto: Sequence[str]) -> str:
    """``fp32``, ``tf32`` or ``bf16``: what `name` means on a device.

    Args:
        auto: what ``auto`` chooses from, the first that the device has instructions for.
    """
    if name != "auto":
        return name
    return next(precision for precision in auto if is_quick(precision, device))


def is_quick(precision: str, device: torch.device) -> bool:
    """Whether the device has instructions for it."""
    if precision == "fp32":
        return True
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # and so has TF32
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions
    names = ("avx512_bf16", "amx_bf16") if precision == "bf16" else ()
    return any(bool(capabilities.get(name)) for name in names)


def use_precision(precision: str, device: torch.device) -> None:
    """Set how this process computes float32 products; rounding to bfloat16 is the networks' own.

    Raises:
        InputError: for tf32 where there is none.
    """
    if precision == "tf32" and device.type != "cuda":
        raise InputError(f"precision=tf32 is for CUDA, got device {device}; give fp32 or bf16")
    if device.type == "cpu":
        use_fast_float32_products(device)
    elif precision == "tf32":
        torch.set_float32_matmul_precision("high")


def product_error(dtype: torch.dtype = torch.float32) -> float:
    """Largest error of a 256 × 256 product in `dtype`, relative to its largest entry."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    return float(((a.to(dtype) @ b.to(dtype)).double() - exact).abs().max() / exact.abs().max())


def use_fast_float32_products(device: torch.device) -> None:
    """Let oneDNN compute float32 products on a CPU where it loses nothing by it.

    "medium" permits bfloat16 inside a product and hands it from MKL to oneDNN. A CPU with AMX makes
    use of the permission, so there it is withdrawn. Others compute in float32 all the same, and
    with AVX-512, which MKL does not use on AMD's: there products take half the time.
    """
    if device.type == "cpu":
        torch.set_float32_matmul_precision("medium")
        if product_error() > EXACT:
            torch.set_float32_matmul_precision("highest")
