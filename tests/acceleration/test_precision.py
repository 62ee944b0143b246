"""Matrix products: how exact they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cmpolicy.acceleration import precision as precision_module
from cmpolicy.acceleration.precision import (
    EXACT,
    PRECISIONS,
    check_precision,
    product_error,
    resolve_precision,
    use_fast_float32_products,
    use_precision,
)
from cmpolicy.cli.run_config import RunConfig
from cmpolicy.errors import InputError
from cmpolicy.images.config import ImageConfig
from cmpolicy.toys.config import ToyConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_fast_float32_products_are_float32_products() -> None:
    use_fast_float32_products(CPU)
    assert 0 < product_error() < EXACT < product_error(torch.bfloat16)


def test_a_gpu_takes_tf32_only_if_told() -> None:
    torch.set_float32_matmul_precision("highest")
    use_fast_float32_products(CUDA)
    for name, expected in (("fp32", "highest"), ("bf16", "highest"), ("tf32", "high")):
        use_precision(name, CUDA)
        assert torch.get_float32_matmul_precision() == expected


def test_names_mean_themselves_and_others_are_refused() -> None:
    with pytest.raises(InputError, match="tf32 is for CUDA, got device cpu"):
        use_precision("tf32", CPU)
    with pytest.raises(ValueError, match="unknown precision 'float32', expected one of auto, fp32"):
        check_precision("float32")
    for name in PRECISIONS[1:]:
        assert resolve_precision(name, CPU, ("fp32",)) == name


@pytest.mark.parametrize(
    ("auto", "device", "quick", "chosen"),
    [
        (RunConfig.AUTO_PRECISION, CPU, {"tf32"}, "tf32"),
        (RunConfig.AUTO_PRECISION, CUDA, {"tf32", "bf16"}, "tf32"),
        (RunConfig.AUTO_PRECISION, CPU, {"bf16"}, "bf16"),
        (RunConfig.AUTO_PRECISION, CPU, set(), "fp32"),
        (ImageConfig.AUTO_PRECISION, CPU, {"bf16"}, "bf16"),
        (ImageConfig.AUTO_PRECISION, CPU, set(), "fp32"),
        (ToyConfig.AUTO_PRECISION, CUDA, {"bf16", "tf32"}, "fp32"),
    ],
)
def test_auto_is_the_first_that_the_device_is_quick_in(
    auto: tuple[str, ...],
    device: torch.device,
    quick: set[str],
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision_module, "is_quick", lambda p, _: p == "fp32" or p in quick)
    assert resolve_precision("auto", device, auto) == chosen


def test_toys_refuse_to_be_rounded() -> None:
    with pytest.raises(ValueError, match="toys train in fp32, got precision=bf16"):
        ToyConfig(precision="bf16")
