"""The processes that train together, through torch.distributed; alone without it."""

import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class World:
    """This process among those of the run.

    Args:
        device: Where it computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.size = distributed.get_world_size() if together else 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """Let a module's gradients become the mean over ranks in its backward pass."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        # those of sizes of 1 differ, which costs nothing
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with warnings.catch_warnings():  # torch 2.11 has no other name for it yet
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            return DistributedDataParallel(module, devices, broadcast_buffers=False)

    def part(self, positions: Iterable[int]) -> list[int]:
        """Give this rank's share: every position whose remainder is its rank."""
        return [position for position in positions if position % self.size == self.rank]

    def total(self, values: Tensor) -> Tensor:
        """Sum over ranks; the same numbers on each."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is up on some rank."""
        return (
            bool(self.total(torch.tensor([float(flag)], device=self.device)).item())
            if self.size > 1
            else flag
        )

    def gather(self, items: list[str]) -> list[str]:
        """Put the ranks' lists together, in the order of ranks."""
        if self.size == 1:
            return items
        parts = [items if rank == self.rank else [] for rank in range(self.size)]
        return [item for rank, part in enumerate(parts) for item in self._sent_by(rank, part)]

    def agree(self, value: Any) -> Any:
        """Take rank 0's value, which is one that JSON can say."""
        return value if self.size == 1 else self._sent_by(0, value)

    def _sent_by(self, rank: int, value: Any) -> Any:
        """Take a rank's value, as JSON: torch would send pickles, and whoever can reach a rank could too."""
        content = torch.tensor([*json.dumps(value).encode()], dtype=torch.uint8, device=self.device)
        length = torch.tensor([len(content)], device=self.device)
        distributed.broadcast(length, rank)
        if rank != self.rank:
            content = content.new_zeros(int(length))
        distributed.broadcast(content, rank)
        return json.loads(bytes(content.tolist()))

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def summed_later(module: nn.Module, later: bool) -> Iterator[None]:
    """Keep a wrapped module's gradients to this rank for now, as far as it is wrapped."""
    if later and isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    else:
        yield
