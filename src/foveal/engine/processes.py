"""Several processes, as torchrun starts them; one is the case of a world of size 1."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from .._errors import UserError, first_line


@dataclass(frozen=True)
class Processes:
    """This process among all that train together."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether some process has the flag set; all processes must call this together."""
        if self.world == 1:
            return flag
        tensor = torch.tensor(flag, dtype=torch.int32)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return bool(tensor)

    def agree(self, error: UserError | None) -> None:
        """End all processes where one has met an error: the first one with its message, the others in silence."""
        if self.any(error is not None):
            messages = [message for message in self.gather(error and str(error)) if message]
            if self.first:
                raise UserError(messages[0])
            raise SystemExit(2)

    def gather(self, value: Any) -> list:
        """The values of all processes, in all of them."""
        if self.world == 1:
            return [value]
        values: list = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def share_buffers(self, *modules: nn.Module) -> None:
        """Give all processes the buffers of the first: BatchNorm's statistics are each process's own until then."""
        if self.world > 1:
            for module in modules:
                for buffer in module.buffers():
                    dist.broadcast(buffer, 0)


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun's environment variables describe: gloo for CPU tensors, NCCL for CUDA's.

    Raises:
        UserError: the variables are not torchrun's, or the device is one of several.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Processes()
        return
    place = torch.device(device)
    if place.index is not None:
        raise UserError(f"each process takes a device of its own: --device {place.type}, not {device}")
    try:
        local_rank = int(os.environ["LOCAL_RANK"])
        if place.type == "cuda":
            torch.cuda.set_device(local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other processes, which torchrun should start: {first_line(error)}") from None
    try:
        yield Processes(dist.get_rank(), local_rank, dist.get_world_size())
    finally:
        dist.destroy_process_group()
