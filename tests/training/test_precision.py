"""Matrix products: how exact they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cmpolicy.training.precision import EXACT, product_error, use_fast_float32_products


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_fast_float32_products_are_float32_products() -> None:
    use_fast_float32_products(torch.device("cpu"))
    assert 0 < product_error() < EXACT


def test_the_measure_sees_rounding_to_bfloat16() -> None:
    assert product_error(torch.bfloat16) > EXACT


def test_a_gpu_is_left_alone() -> None:
    torch.set_float32_matmul_precision("highest")
    use_fast_float32_products(torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == "highest"
