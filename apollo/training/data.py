"""Training examples, batches, and the interface of their sources.

Examples are a pure function of (epoch, position), so results do not depend on the number of processes, and a
run is resumed exactly.

Shape legend: samples [channels, samples], float32, 44,100 Hz; batches [examples, channels, samples].
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A pair of clean and degraded audio, time-aligned.

    Args:
        clean: [channels, samples], float32.
        degraded: The same shape.
        name: Name for logs: recipe id and degradation.
        bandwidth_hz: Frequency up to which the clean audio is known; infinite if all of it is.
    """

    clean: Tensor
    degraded: Tensor
    name: str
    bandwidth_hz: float = math.inf


@dataclass(frozen=True)
class Batch:
    """Stacked examples of equal length.

    Args:
        clean: [examples, channels, samples], float32.
        degraded: The same shape.
        names: Names of the examples.
        bandwidth_hz: [examples], float32: frequency up to which each clean example is known; None if all are
            known completely.
    """

    clean: Tensor
    degraded: Tensor
    names: list[str]
    bandwidth_hz: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; a GPU gets it from pinned memory, without a wait for earlier work."""

        def move(values: Tensor) -> Tensor:
            return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)

        edges = None if self.bandwidth_hz is None else move(self.bandwidth_hz)
        return Batch(move(self.clean), move(self.degraded), self.names, edges)


class ExampleSource(Protocol):
    """Source of training examples."""

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Yield the example at each position of an epoch, in order.

        Args:
            epoch: From 0.
            positions: Ascending, from 0; positions beyond the data repeat it.
        """


class ValidationExamples(ExampleSource, Protocol):
    """Source of validation examples: a fixed number, the same in every epoch."""

    def __len__(self) -> int:
        """Return the number of examples."""


def collate(examples: Iterable[Example]) -> Batch:
    """Stack examples into a batch."""
    listed = list(examples)
    edges = [example.bandwidth_hz for example in listed]
    return Batch(
        torch.stack([example.clean for example in listed]),
        torch.stack([example.degraded for example in listed]),
        [example.name for example in listed],
        None if math.inf == min(edges) else torch.tensor(edges, dtype=torch.float32),
    )
