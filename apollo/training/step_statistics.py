"""Results of an optimizer step: means over the examples of all ranks, gradient norms, non-finite values.

They stay on the device until the host reads them, since reading makes the host wait for the device.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from apollo.training.data import Batch
from apollo.training.distributed import DistributedContext

SKIPPED = "step/skipped"


@dataclass(frozen=True)
class _Update:
    """What is known of one network's update, in one tensor on the device.

    Args:
        values: Non-finite ranks, sums of the losses over all ranks, norm, and for each micro-batch of this
            rank whether it is finite; [values], float64.
        losses: Names of the losses.
        norm: Name of the norm.
        batches: Names of the examples of each micro-batch.
    """

    values: Tensor
    losses: list[str]
    norm: str
    batches: list[list[str]]


class StepStatistics:
    """Sums of one step's losses, and whether they are finite, without waiting for the device."""

    def __init__(self, context: DistributedContext, examples: int) -> None:
        self._context, self._examples = context, examples
        self._sums: dict[str, Tensor] = {}
        self._finite: list[tuple[Tensor, list[str]]] = []
        self._all_finite: Tensor | None = None
        self._updates: list[_Update] = []

    def add(self, batch: Batch, values: dict[str, Tensor]) -> None:
        """Add the means of a micro-batch."""
        self._finite.append(
            (torch.isfinite(torch.stack([value.detach() for value in values.values()])).all(), batch.names)
        )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().double() * len(batch)

    def end_update(self, name: str, norm: Tensor) -> Tensor:
        """End a network's update with its gradient norm.

        Returns:
            Whether all ranks have finite values only, in this update and those before; boolean, [].
        """
        flags = torch.stack([flag for flag, _ in self._finite])
        is_non_finite = ~(flags.all() & torch.isfinite(norm))
        reduced = self._context.all_reduce(torch.stack([is_non_finite.double(), *self._sums.values()]))
        values = torch.cat((reduced, norm.double()[None], flags.double()))
        self._updates.append(
            _Update(values, list(self._sums), f"norm/{name}", [names for _, names in self._finite])
        )
        self._sums, self._finite = {}, []
        finite = reduced[0] == 0
        self._all_finite = finite if self._all_finite is None else finite & self._all_finite
        return self._all_finite

    def result(self) -> "StepResult":
        """Return the results of the step, unread."""
        return StepResult(self._updates, self._examples)


class StepResult(Mapping[str, float]):
    """Results of a step by name; on the device until one of them is accessed, or `read_results` is called."""

    def __init__(self, updates: list[_Update], examples: int) -> None:
        self._updates, self._examples = updates, examples
        self._numbers: dict[str, float] | None = None
        self._non_finite_examples: list[str] = []

    @property
    def non_finite_examples(self) -> list[str]:
        """Names of this rank's examples in micro-batches with a non-finite loss."""
        read_results([self])
        return self._non_finite_examples

    def __getitem__(self, name: str) -> float:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, float]:
        if self._numbers is None:
            read_results([self])
        return self._numbers or {}

    def _take(self, values: Iterator[float]) -> None:
        """Take this step's values; of those of an update that was skipped because of the one before, none."""
        numbers: dict[str, float] = {}
        norms: dict[str, float] = {}
        names: list[str] = []
        skipped = False
        for update in self._updates:
            is_non_finite = next(values) > 0
            sums = {name: next(values) for name in update.losses}
            norm = next(values)
            suspects = [name for batch in update.batches if not next(values) for name in batch]
            if not skipped:
                numbers |= {name: value / self._examples for name, value in sums.items()}
                norms[update.norm] = norm
                names += suspects
            skipped |= is_non_finite
        self._numbers = {**numbers, **norms, SKIPPED: float(skipped)}
        self._non_finite_examples = list(dict.fromkeys(names))
        self._updates = []  # nothing stays on the device


def read_results(results: Iterable[StepResult]) -> None:
    """Read the results of steps from the device, all in one transfer."""
    unread = [result for result in results if result._numbers is None]
    if unread:
        values = [update.values for result in unread for update in result._updates]
        numbers = iter(torch.cat(values).tolist())  # the only time that the host waits
        for result in unread:
            result._take(numbers)
