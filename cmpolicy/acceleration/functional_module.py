"""Any function of a module, called with other tensors in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class FunctionalModule(nn.Module):
    """A module as one whose `forward` calls any function of it, for `functional_call`.

    Its parameters and buffers have their names after ``module.``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """What `function` returns for the inputs."""
        return function(*inputs)
