"""Agreement of all ranks to stop a training run."""

import time

import torch

from apollo.training.distributed import DistributedContext

_MOST_SECONDS = 10.0


class StopRequests:
    """Collects stop requests of all ranks, who must stop after the same step.

    A process alone and ranks on CPUs decide after every step. Ranks on GPUs would wait for the device each
    time: they decide after steps in which they have waited for it anyway, after the first, and about every
    10 s.

    Args:
        context: Device and processes of the run.
        waits: Whether a decision makes the host wait for the device.
    """

    def __init__(self, context: DistributedContext, *, waits: bool) -> None:
        self._context, self._waits = context, waits
        self._interval, self._steps, self._requested = 1, 0, False
        self._began = time.monotonic()

    def agree(self, requested: bool, *, has_waited: bool) -> bool:
        """Return, after a step, whether to stop; the same on all ranks.

        Args:
            requested: Whether this rank requests a stop.
            has_waited: Whether the hosts have waited for their devices in this step; the same on all ranks.
        """
        if self._context.world_size == 1:
            return requested
        self._requested |= requested
        self._steps += 1
        if self._waits and not has_waited and self._steps < self._interval:
            return False
        seconds = (time.monotonic() - self._began) / self._steps
        local = torch.tensor(
            [float(self._requested), seconds], dtype=torch.float64, device=self._context.device
        )
        requests, total = self._context.all_reduce(local).tolist()
        mean = max(total / self._context.world_size, 1e-9)  # the same on all ranks, and so the interval
        self._interval = max(1, int(_MOST_SECONDS / mean))
        self._steps, self._began = 0, time.monotonic()
        return bool(requests)
