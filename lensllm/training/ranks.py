"""A cell on several processes, each with a share of the weights and of every batch.

Weights, gradients and optimiser are sharded by torch's ``fully_shard`` (FSDP2), block by block.
Every rank runs the same program; ranks exchange values only by the methods of ``Ranks``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_PATIENCE = timedelta(minutes=30)  # of a rank that waits for another; longer than any step


@dataclass(frozen=True)
class Ranks:
    """This process's number among those of a cell; a single process by default."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True for the process that decides, writes and reports."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """True if there is only this process."""
        return self.size == 1

    def share(self, items: Sequence[T]) -> tuple[list[T], int]:
        """This rank's items, equally many on all, and the number that are no duplicates."""
        mine = list(items[self.rank :: self.size])
        count = len(mine)
        return mine + list(items[:1]) * (math.ceil(len(items) / self.size) - count), count

    def sum(self, value: Tensor) -> Tensor:
        """Sum of ``value`` over all ranks, in place."""
        if not self.alone:
            dist.all_reduce(value)
        return value

    def broadcast(self, value: bool) -> bool:
        """The first rank's ``value``."""
        if self.alone:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, mine: list[T]) -> list[T]:
        """The items of all ranks in the order that ``share`` took them from."""
        if self.alone:
            return mine
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        longest = max(map(len, found))
        return [part[i] for i in range(longest) for part in found if i < len(part)]

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if not self.alone:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def joined(rank: int, size: int, meeting: Path, device: torch.device) -> Iterator[Ranks]:
    """Context in which this process is one of ``size`` ranks that meet at the file ``meeting``."""
    if device.type == "cuda":
        torch.cuda.set_device(rank)
    backend, url = "nccl" if device.type == "cuda" else "gloo", f"file://{meeting}"
    dist.init_process_group(backend, init_method=url, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()


def shard(model: Any, ranks: Ranks, device: torch.device) -> Any:
    """Move ``model`` to ``device``, its weights sharded over the ranks block by block."""
    if ranks.alone:
        return model.to(device)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.size,))
    blocks = set(model._no_split_modules or ())  # transformers' name of the blocks' class
    for module in list(model.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh).to(device)


def local(tensor: Tensor) -> Tensor:
    """This rank's share of a sharded tensor; any other tensor unchanged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A copy of all ranks' shares together, on the host; every rank must call this."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.to("cpu", copy=True)


def share_of(full: Tensor, like: Any) -> Tensor:
    """This rank's share of ``full``, sharded as ``like`` is; ``full`` where that is not sharded."""
    if not hasattr(like, "placements"):
        return full
    from torch.distributed.tensor import distribute_tensor

    return local(distribute_tensor(full.to(like.device), like.device_mesh, like.placements))
