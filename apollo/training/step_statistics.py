"""Statistics of one optimizer step: means over the examples of all ranks, and non-finite values."""

import torch
from torch import Tensor

from apollo.training.data import Batch
from apollo.training.distributed import DistributedContext

SKIPPED = "step/skipped"


class StepStatistics:
    """Sums of one step's losses, reduced over ranks once at the end."""

    def __init__(self, context: DistributedContext, examples: int) -> None:
        self._context, self._examples = context, examples
        self._sums: dict[str, Tensor] = {}
        self._finite: list[tuple[Tensor, list[str]]] = []
        self.norms: dict[str, float] = {}

    def add(self, batch: Batch, values: dict[str, Tensor]) -> None:
        """Add the means of a micro-batch, without device synchronization."""
        self._finite.append(
            (torch.isfinite(torch.stack([value.detach() for value in values.values()])).all(), batch.names)
        )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().double() * len(batch)

    def non_finite_examples(self) -> list[str]:
        """Return the names of this rank's examples in micro-batches with a non-finite value so far."""
        flags = torch.stack([flag for flag, _ in self._finite]).tolist()
        found = [
            name
            for finite, (_, names) in zip(flags, self._finite, strict=True)
            if not finite
            for name in names
        ]
        return list(dict.fromkeys(found))

    def reduce(self, *, skipped: bool) -> dict[str, float]:
        """Return the means over the examples of all ranks."""
        sums = self._context.all_reduce(torch.stack(list(self._sums.values())))
        means = dict(zip(self._sums, (sums / self._examples).tolist(), strict=True))
        return {**means, **self.norms, SKIPPED: float(skipped)}
