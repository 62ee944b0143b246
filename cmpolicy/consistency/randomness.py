"""Where random numbers come from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Draws(NamedTuple):
    """All that a loss draws for a batch."""

    noise: Tensor  # z ~ N(0, 1), (B, …)
    uniform: Tensor  # of [0, 1), (B,), from which levels follow

    def part(self, samples: slice) -> Draws:
        """Those of some of the samples."""
        return Draws(self.noise[samples], self.uniform[samples])


# For a loss: torch's global generator, another one, or what was drawn already.
Randomness = torch.Generator | Draws | None

# For a sampler: torch's global generator, another one, or one a sample, so that a sample does not
# depend on those beside it.
Generators = torch.Generator | Sequence[torch.Generator] | None


class NoiseRequest(NamedTuple):
    """What is wanted of a generator."""

    law: str  # "normal_", "uniform_" or "exponential_", as tensors fill themselves
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def fill(self, out: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw into `out`, of this shape: bit for bit what torch's functions would draw."""
        filled: Tensor = getattr(out, self.law)(generator=generator)
        return filled


NoiseSource = Callable[[NoiseRequest], Tensor]


class GlobalGenerator:
    """Torch's global generator, or what stands in for it while `drawing_from` is entered."""

    substitute: ClassVar[NoiseSource | None] = None


@contextmanager
def drawing_from(source: NoiseSource) -> Iterator[None]:
    """Let `source` answer what would be drawn from torch's global generator."""
    before, GlobalGenerator.substitute = GlobalGenerator.substitute, source
    try:
        yield
    finally:
        GlobalGenerator.substitute = before


def normal(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """z ~ N(0, 1) of a shape, with the device and the dtype of `like`."""
    if generator is None and GlobalGenerator.substitute is not None:
        return GlobalGenerator.substitute(NoiseRequest("normal_", shape, like.dtype, like.device))
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def uniform(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Numbers of [0, 1) of a shape, with the device and the dtype of `like`."""
    if generator is None and GlobalGenerator.substitute is not None:
        return GlobalGenerator.substitute(NoiseRequest("uniform_", shape, like.dtype, like.device))
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


@functools.lru_cache
def sobol_normal(count: int, dim: int) -> npt.NDArray[np.float32]:
    """Points that cover N(0, 1) more evenly than draws do, always the same ones: (count, dim).

    Sobol's sequence, scrambled (Owen 1998), through the normal quantiles; most even where `count`
    is a power of two. The first call for a shape cannot be under vmap: the scrambling draws.
    """
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    numbers = engine.draw(count, dtype=torch.float64) + 2.0 ** -(engine.MAXBIT + 1)  # never 0
    points: npt.NDArray[np.float32] = torch.special.ndtri(numbers).float().numpy()
    points.setflags(write=False)
    return points


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def even_noise(samples: int, steps: int, dim: int) -> Tensor:
    """Noise of all steps of some samples that cover N(0, 1) evenly: (samples, steps, dim) float32.

    Compiled functions take it as a constant.
    """
    return torch.tensor(sobol_normal(samples, steps * dim)).reshape(samples, steps, dim)


def draw_softmax(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """An index a row with probability ∝ exp value: (N, n) → (N,) int64.

    As torch.multinomial, bit for bit: of exponential waiting times with those rates the least.
    """
    request = NoiseRequest("exponential_", tuple(values.shape), values.dtype, values.device)
    if generator is None and GlobalGenerator.substitute is not None:
        times = GlobalGenerator.substitute(request)
    else:
        times = request.fill(torch.empty_like(values), generator)
    return (values.softmax(1) / times).argmax(1)


def draw(x0: Tensor, randomness: Randomness = None) -> Draws:
    """The draws for x0 (B, …), in its dtype and on its device."""
    if isinstance(randomness, Draws):
        return randomness
    noise = normal(x0.shape, x0, randomness)
    return Draws(noise, uniform(x0.shape[:1], x0, randomness))


def normal_like(x: Tensor, generators: Generators) -> Tensor:
    """z ~ N(0, 1) of the shape, dtype and device of x (B, …).

    Args:
        generators: one, or B of them, on any device.
    """
    if not isinstance(generators, Sequence):
        return normal(x.shape, x, generators)
    if len(generators) != len(x):
        raise ValueError(f"got {len(generators)} generators for {len(x)} samples")
    rows = [
        torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in generators
    ]
    return torch.stack(rows).to(x.device)


def noise_requests(function: Callable[[], object]) -> list[NoiseRequest]:
    """What `function` would draw from torch's global generator, which is left as it is."""
    requests: list[NoiseRequest] = []
    generators: dict[torch.device, torch.Generator] = {}

    def note(request: NoiseRequest) -> Tensor:
        requests.append(request)
        if request.device not in generators:
            generators[request.device] = torch.Generator(request.device).manual_seed(0)
        out = torch.empty(request.shape, dtype=request.dtype, device=request.device)
        return request.fill(out, generators[request.device])

    with drawing_from(note):
        function()
    return requests


class RecordedNoise:
    """All that one call of a function draws, for R seeds, drawn before it.

    Each seed has a generator of its own, and draws from it what it would draw alone. A call
    reads the recording from its beginning to its end; the tensors stay where they are in memory.

    Attributes:
        requests: what a call for one seed draws, in order.
        numbers: the numbers, each (R, …).
    """

    def __init__(self, requests: Sequence[NoiseRequest], seeds: int) -> None:
        self.requests = list(requests)
        self.numbers = [
            torch.empty(seeds, *r.shape, dtype=r.dtype, device=r.device) for r in self.requests
        ]
        self.position = 0

    def record(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the next call's numbers, and wind back to the beginning."""
        for request, numbers in zip(self.requests, self.numbers, strict=True):
            for row, generator in zip(numbers, generators, strict=True):
                request.fill(row, generator)
        self.position = 0

    def source(self, numbers: Sequence[Tensor]) -> NoiseSource:
        """What answers with `numbers`: those of the recording, or one seed's part of them."""

        def read(request: NoiseRequest) -> Tensor:
            if self.position >= len(self.requests) or self.requests[self.position] != request:
                raise RuntimeError(
                    f"draw {self.position} is {request}, which the first call had not; seeds are "
                    "stacked where every update draws the same"
                )
            self.position += 1
            return numbers[self.position - 1]

        return read

    def check_read(self) -> None:
        """Raise RuntimeError unless a call has read the recording to its end."""
        if self.position != len(self.requests):
            raise RuntimeError(
                f"the call drew {self.position} times from a recording of {len(self.requests)}"
            )
