"""The hybrid filter bank of MPEG-1 Layer III: 32 polyphase subbands, an MDCT of 18 lines in each.

Source: ISO/IEC 11172-3; its window was measured from a decoder's output. Blocks of the long kind are computed
(those around and in transients have other windows), at every position of the granules' grid.

Shape legend: signals are [samples]; lines [offsets, granules, subbands, 18].
"""

import math
from functools import cache

import torch
from torch import Tensor

GRANULE = 576
_SUBBANDS, _LINES, _TAPS = 32, 18, 512
_BLOCK = 2 * _LINES
_BUTTERFLIES = (-0.6, -0.535, -0.33, -0.185, -0.095, -0.041, -0.0142, -0.0037)
# the first half of the prototype low-pass, in units of 2^-16, its middle included; without the signs that the
# standard's table has from the modulation
# fmt: off
_PROTOTYPE = (
    0, -1, -1, -1, -1, -1, -1, -2, -2, -2, -2, -3, -3, -4, -4, -5, -5, -6, -7, -7, -8, -9, -10, -11,
    -13, -14, -16, -17, -19, -21, -24, -26, -29, -31, -35, -38, -41, -45, -49, -53, -58, -63, -68, -73,
    -79, -85, -91, -97, -104, -111, -117, -125, -132, -139, -147, -154, -161, -169, -176, -183, -190,
    -196, -202, -208, -213, -218, -222, -225, -227, -228, -228, -227, -224, -221, -215, -208, -200,
    -189, -177, -163, -146, -127, -106, -83, -57, -29, 2, 36, 72, 111, 153, 197, 244, 294, 347, 401,
    459, 519, 581, 645, 711, 779, 848, 919, 991, 1064, 1137, 1210, 1283, 1356, 1428, 1498, 1567, 1634,
    1698, 1759, 1817, 1870, 1919, 1962, 2001, 2032, 2057, 2075, 2085, 2087, 2080, 2063, 2037, 2000,
    1952, 1893, 1822, 1739, 1644, 1535, 1414, 1280, 1131, 970, 794, 605, 402, 185, -45, -288, -545,
    -814, -1095, -1388, -1692, -2006, -2330, -2663, -3004, -3351, -3705, -4063, -4425, -4788, -5153,
    -5517, -5879, -6237, -6589, -6935, -7271, -7597, -7910, -8209, -8491, -8755, -8998, -9219, -9416,
    -9585, -9727, -9838, -9916, -9959, -9966, -9935, -9863, -9750, -9592, -9389, -9139, -8840, -8492,
    -8092, -7640, -7134, -6574, -5959, -5288, -4561, -3776, -2935, -2037, -1082, -70, 998, 2122, 3300,
    4533, 5818, 7154, 8540, 9975, 11455, 12980, 14548, 16155, 17799, 19478, 21189, 22929, 24694, 26482,
    28289, 30112, 31947, 33791, 35640, 37489, 39336, 41176, 43006, 44821, 46617, 48390, 50137, 51853,
    53534, 55178, 56778, 58333, 59838, 61289, 62684, 64019, 65290, 66494, 67629, 68692, 69679, 70590,
    71420, 72169, 72835, 73415, 73908, 74313, 74630, 74856, 74992, 75038,
)
# fmt: on


def needed_samples(granules: int) -> int:
    """Return how many samples the lines of some granules at all offsets need."""
    return GRANULE * (granules + 2) + _TAPS


def lines_at_all_offsets(signal: Tensor, granules: int, subbands: range) -> Tensor:
    """Transform a signal on every one of the 576 possible grids of granules.

    Args:
        signal: At least `needed_samples` long.
        granules: Number of granules of each grid.
        subbands: Which of the 32 to compute; of the outermost two, aliases remain.

    Returns:
        Lines [576, granules, subbands, 18]; white noise keeps its power.
    """
    filters, blocks = _bases()
    streams = signal.unfold(0, _TAPS, 1) @ filters[:, subbands.start : subbands.stop]  # [samples, subbands]
    step = streams.stride(0)
    samples = streams.as_strided(
        (GRANULE, granules, len(subbands), _BLOCK), (step, GRANULE * step, streams.stride(1), 32 * step)
    )
    lines = samples.new_empty(GRANULE, granules, len(subbands), _LINES)
    for parity in (0, 1):
        chosen = slice((subbands.start + parity) % 2, None, 2)
        lines[:, :, chosen] = samples[:, :, chosen] @ blocks[parity]
    return _reduce_aliases(lines)


@cache
def _bases() -> tuple[Tensor, Tensor]:
    """Return the filters of the subbands [512, 32], and the MDCTs [2, 36, 18] of the even and odd ones."""
    half = torch.tensor(_PROTOTYPE, dtype=torch.float64)
    prototype = torch.cat((half, half[1:-1].flip(0)))
    subband, tap = torch.arange(_SUBBANDS), torch.arange(_TAPS)
    phase = (2 * subband + 1) * (tap[:, None] - 16) * math.pi / 64
    filters = prototype[:, None] * torch.cos(phase)
    filters = (filters / filters.norm(dim=0)).flip(0)
    time, line = torch.arange(_BLOCK)[:, None], torch.arange(_LINES)
    even = torch.sin(math.pi / _BLOCK * (time + 0.5)) * torch.cos(
        math.pi / (2 * _BLOCK) * (2 * time + 1 + _LINES) * (2 * line + 1)
    )
    odd = even * (1 - 2 * (time % 2))  # the subband's spectrum is reversed
    return filters.float(), torch.stack((even, odd)).float() / math.sqrt(_LINES / 2)


def _reduce_aliases(lines: Tensor) -> Tensor:
    """Apply the butterflies between neighbouring subbands."""
    factors = torch.tensor(_BUTTERFLIES)
    cosines = 1 / torch.sqrt(1 + factors**2)
    sines = factors * cosines
    reach = len(_BUTTERFLIES)
    below = lines[:, :, :-1, -reach:].flip(-1)
    above = lines[:, :, 1:, :reach].clone()
    lines[:, :, 1:, :reach] = above * cosines - below * sines
    lines[:, :, :-1, -reach:] = (below * cosines + above * sines).flip(-1)
    return lines
