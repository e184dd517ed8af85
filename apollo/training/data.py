"""What training eats: examples, and the order in which they come.

The order is a pure function of (epoch, position): any process may ask for any positions, so the number of
processes decides nothing about what is learned, and a run that was stopped goes on exactly where it was.

Shape legend: samples [channels, samples], float32, 44,100 Hz; batches [examples, channels, samples].
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One pair to learn from, of equal level and without lag.

    Args:
        clean: [channels, samples], float32.
        degraded: The same shape.
        name: Where it comes from, for messages and logs: recipe id and degradation.
    """

    clean: Tensor
    degraded: Tensor
    name: str


@dataclass(frozen=True)
class Batch:
    """Examples of one length, side by side.

    Args:
        clean: [examples, channels, samples], float32.
        degraded: The same shape.
        names: Of the examples.
    """

    clean: Tensor
    degraded: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> "Batch":
        """Give the same on a device."""
        clean, degraded = (samples.to(device, non_blocking=True) for samples in (self.clean, self.degraded))
        return Batch(clean, degraded, self.names)


class ExampleSource(Protocol):
    """Where examples come from."""

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Give the examples at these positions of an epoch, one each, in their order.

        Args:
            epoch: From 0.
            positions: Rising, from 0; an epoch has no end, so what there is comes again.
        """


class ValidationExamples(ExampleSource, Protocol):
    """Where examples for validation come from: the same ones in every epoch."""

    def __len__(self) -> int:
        """Count them."""


def collate(examples: Iterable[Example]) -> Batch:
    """Put examples side by side."""
    listed = list(examples)
    return Batch(
        torch.stack([example.clean for example in listed]),
        torch.stack([example.degraded for example in listed]),
        [example.name for example in listed],
    )
