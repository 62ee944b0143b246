"""The processes that `torchrun` starts, which train one model together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from cmpolicy.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """One of `size` processes that perform the same updates.

    Each draws the whole batch and its noise from equal generators, and computes on its part.
    Gradients are averaged once per update. So the number of processes changes only rounding.
    """

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @classmethod
    def join(cls, device: str = "auto") -> Ranks:
        """Join the process group of torchrun's environment; one process without torchrun.

        Args:
            device: ``cpu``, or each process uses a GPU, if there are any.

        Raises:
            InputError: if there are fewer GPUs than processes.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        backend = "gloo"
        if device != "cpu" and torch.cuda.is_available():
            local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local >= count:
                raise InputError(
                    f"{count} GPUs for more than {local} processes; start fewer, or give device=cpu"
                )
            torch.cuda.set_device(local)
            backend = "cpu:gloo,cuda:nccl"  # signals are exchanged on the CPU
        distributed.init_process_group(backend)
        return cls(distributed.get_rank(), size)

    def leave(self) -> None:
        """End the process group."""
        if self.size > 1:
            distributed.destroy_process_group()

    def parts(self, batch_size: int, accumulate: int = 1) -> list[slice]:
        """This process's part of a batch, in `accumulate` equal pieces.

        Raises:
            InputError: if the batch cannot be divided equally.
        """
        pieces = self.size * accumulate
        if batch_size % pieces:
            raise InputError(
                f"batch_size={batch_size} must be a multiple of {pieces}: {self.size} processes "
                f"with accumulate={accumulate}"
            )
        length = batch_size // pieces
        first = self.rank * accumulate
        return [slice(i * length, (i + 1) * length) for i in range(first, first + accumulate)]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, with one all-reduce."""
        if self.size == 1:
            return
        message = torch.cat([tensor.reshape(-1) for tensor in tensors]) / self.size
        distributed.all_reduce(message)
        begin = 0
        for tensor in tensors:
            tensor.copy_(message[begin : begin + tensor.numel()].view_as(tensor))
            begin += tensor.numel()

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.size == 1:
            return value
        message = torch.tensor(value)
        distributed.all_reduce(message, distributed.ReduceOp.MAX)
        return int(message)
