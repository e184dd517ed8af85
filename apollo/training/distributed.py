"""The processes of a training run, through torch.distributed; a single process works without it."""

import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class DistributedContext:
    """Device, rank and collectives of this process; collectives are no-ops in a run of one process.

    Args:
        device: Device of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        initialized = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if initialized else 0
        self.world_size = distributed.get_world_size() if initialized else 1

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """Wrap a module in DistributedDataParallel; a single process gets the module itself."""
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        # strides of dimensions of size 1 may differ, which costs nothing
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with warnings.catch_warnings():  # torch 2.11 has no replacement yet
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            return DistributedDataParallel(module, devices, broadcast_buffers=False)

    def shard(self, positions: Iterable[int]) -> list[int]:
        """Return this rank's positions: those with position % world_size == rank."""
        return [position for position in positions if position % self.world_size == self.rank]

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place; the result is bitwise the same on each."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def all_gather(self, items: list[str]) -> list[str]:
        """Concatenate the lists of all ranks, in the order of ranks."""
        if self.world_size == 1:
            return items
        parts = [items if rank == self.rank else [] for rank in range(self.world_size)]
        return [item for rank, part in enumerate(parts) for item in self._broadcast_json(rank, part)]

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value, which must be JSON-serializable."""
        return value if self.world_size == 1 else self._broadcast_json(0, value)

    def _broadcast_json(self, rank: int, value: Any) -> Any:
        """Return a rank's value, sent as JSON: torch's object collectives unpickle what arrives on a port."""
        content = torch.tensor([*json.dumps(value).encode()], dtype=torch.uint8, device=self.device)
        length = torch.tensor([len(content)], device=self.device)
        distributed.broadcast(length, rank)
        if rank != self.rank:
            content = content.new_zeros(int(length))
        distributed.broadcast(content, rank)
        return json.loads(bytes(content.tolist()))

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            distributed.barrier()


@contextmanager
def no_sync(module: nn.Module, enabled: bool) -> Iterator[None]:
    """Skip the gradient all-reduce of a DDP-wrapped module; does nothing if disabled or not wrapped."""
    if enabled and isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    else:
        yield
