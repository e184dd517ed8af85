"""Resample a stream to another rate, to an exact length.

Shape legend: blocks are [channels, samples], float32.
"""

from typing import Any

import torch
from torch import Tensor

_HELD = 8  # the end is known to be the end only when it has come
_ROUNDING = 2  # samples by which the lengths at two rates may differ


class Resampler:
    """Resample blocks with soxr; the result does not depend on their sizes.

    Args:
        source_rate: Hz of the blocks.
        rate: Hz of the result.
        channels: Number of channels.
    """

    def __init__(self, source_rate: int, rate: int, channels: int) -> None:
        self._stream: Any = None
        if rate != source_rate:
            import soxr

            self._stream = soxr.ResampleStream(source_rate, rate, channels, dtype="float32", quality="VHQ")
        self._held = torch.zeros(channels, 0)
        self._num_given = 0

    def push(self, block: Tensor) -> Tensor:
        """Resample a block, and return what is ready."""
        if self._stream is None:
            return block
        ready = self._resample(block, last=False)
        self._held = ready[:, -_HELD:] if ready.shape[1] >= _HELD else ready
        ready = ready[:, : ready.shape[1] - self._held.shape[1]]
        self._num_given += ready.shape[1]
        return ready

    def finish(self, samples: int | None) -> Tensor:
        """Return the rest.

        Args:
            samples: Length of the whole at the new rate, if known; met where it differs by rounding alone.
        """
        if self._stream is None:
            return self._held
        rest = self._resample(self._held[:, :0], last=True)
        wanted = rest.shape[1] if samples is None else samples - self._num_given
        if abs(wanted - rest.shape[1]) > _ROUNDING:
            return rest
        return torch.nn.functional.pad(rest, (0, wanted - rest.shape[1]))

    def _resample(self, block: Tensor, *, last: bool) -> Tensor:
        found = self._stream.resample_chunk(block.T.contiguous().numpy(), last=last)
        return torch.cat([self._held, torch.from_numpy(found).T], 1)
