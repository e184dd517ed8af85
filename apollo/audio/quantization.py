"""Round samples to integers: 24 bits plainly, 16 bits with dither.

The dither is triangular noise of two steps from peak to peak (Lipshitz, Wannamaker and Vanderkooy, 1992): the
error's mean and power do not depend on the signal. It is a function of channel and position alone, so that
the same samples become the same bytes. Digital silence gets none and stays digital silence.

Shape legend: blocks are [channels, samples].
"""

import torch
from torch import Tensor

from apollo.model.noise import random_words

_SILENCE = 2.0**-24  # half a step of 24 bits
_WORD_BITS = {16: 16, 24: 32}
_DTYPES = {16: torch.int16, 24: torch.int32}


def quantize(block: Tensor, bits: int, start: int, *, dither: bool) -> Tensor:
    """Round samples, and clip those beyond full scale.

    Args:
        block: Samples, full scale 1.
        bits: 16 or 24.
        start: Position of the first sample in the file.
        dither: Whether 16 bits get dither; not if the samples are of 16 bits already.

    Returns:
        int16; of 24 bits int32, in the upper bits.
    """
    limit = 1 << (bits - 1)
    scaled = block.to(torch.float64) * limit
    if bits == 16 and dither:
        scaled += _dither(len(block), block.shape[1], start) * (block.abs() >= _SILENCE)
    rounded = scaled.round_().clamp_(-limit, limit - 1).to(_DTYPES[bits])
    return rounded << (_WORD_BITS[bits] - bits)


def _dither(channels: int, samples: int, start: int) -> Tensor:
    """Return triangular noise between -1 and 1, [channels, samples], float64."""
    words = torch.stack([random_words(start, samples, "dither", channel) for channel in range(channels)])
    high, low = words >> 40 & 0xFF_FFFF, words >> 8 & 0xFF_FFFF
    return (high + low).to(torch.float64) * 2.0**-24 - 1
