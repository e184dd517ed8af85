"""Statistics of one optimizer step: means over the examples of all ranks, and non-finite values."""

import torch
from torch import Tensor

from apollo.training.data import Batch
from apollo.training.distributed import DistributedContext

SKIPPED = "step/skipped"


class StepStatistics:
    """Sums of one step's losses on the device, and what the host has read of them.

    Reading makes the host wait for the device. So all that it needs comes in one read, once a network.
    """

    def __init__(self, context: DistributedContext, examples: int) -> None:
        self._context, self._examples = context, examples
        self._sums: dict[str, Tensor] = {}
        self._finite: list[tuple[Tensor, list[str]]] = []
        self._norms: dict[str, Tensor] = {}
        self._means: dict[str, float] = {}
        self.non_finite_examples: list[str] = []  # of this rank, in micro-batches with a non-finite value

    def add(self, batch: Batch, values: dict[str, Tensor]) -> None:
        """Add the means of a micro-batch, without device synchronization."""
        self._finite.append(
            (torch.isfinite(torch.stack([value.detach() for value in values.values()])).all(), batch.names)
        )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().double() * len(batch)

    def read(self, name: str, norm: Tensor) -> bool:
        """Add a gradient norm, and read all so far; return whether it is finite on all ranks."""
        self._norms[name] = norm
        flags, norms = torch.stack([flag for flag, _ in self._finite]), list(self._norms.values())
        is_non_finite = ~(flags.all() & torch.isfinite(norm))
        reduced = self._context.all_reduce(torch.stack([is_non_finite.double(), *self._sums.values()]))
        local = torch.stack([value.double() for value in (*norms, *flags)])
        found, *values = torch.cat((reduced, local)).tolist()  # the only time that the host waits
        sums, values = values[: len(self._sums)], values[len(self._sums) :]
        self._means = {key: value / self._examples for key, value in zip(self._sums, sums, strict=True)}
        self._means |= zip(self._norms, values[: len(norms)], strict=True)
        by_batch = zip(values[len(norms) :], self._finite, strict=True)
        names = [name for finite, (_, names) in by_batch if not finite for name in names]
        self.non_finite_examples = list(dict.fromkeys(names))
        return not found

    def result(self, *, skipped: bool) -> dict[str, float]:
        """Return what was read: means over the examples of all ranks, and norms."""
        return {**self._means, SKIPPED: float(skipped)}
