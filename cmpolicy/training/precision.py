"""How matrix products are computed."""

from __future__ import annotations

import torch

EXACT = 1e-5  # largest relative error of a float32 product; bfloat16 inputs would give 4e-3


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
