"""Source activity detection: find where a source is active, so that no excerpt is silent.

Source: the paper's section on data; the numbers are the published preprocessing's. A frame is 441 samples;
its power is the *sum* of squares over its samples and both channels. Differs from the published code:
the last full window and sources shorter than a window are kept, and every window has a mask of its 3 s
excerpts that are active themselves.

Shape legend: samples are [frames, channels]; power is [activity frames].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.schema import CHANNELS, EXCERPT_FRAMES, SAMPLE_RATE

FRAME = 441
WINDOW = 6 * SAMPLE_RATE
HOP = 3 * SAMPLE_RATE
START_GRID = SAMPLE_RATE // 10  # excerpts start on a grid of 100 ms inside a window
_POWER_FLOOR = 1e-3  # about -59 dBFS
_QUANTILE = 0.15
_ACTIVE_SHARE = 0.5


@dataclass(frozen=True)
class Segment:
    """An active window of a source.

    Args:
        start: First sample.
        frames: Samples.
        rms_db: Level over the window, dB below full scale.
        active_starts: Bit k is set when the 3 s from start + k * 4410 are active themselves.
    """

    start: int
    frames: int
    rms_db: float
    active_starts: int


def frame_power(samples: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Sum the squares of each whole frame of samples [frames, channels], over its samples and channels."""
    whole = len(samples) // FRAME * FRAME
    squares = np.einsum("fc,fc->f", samples[:whole], samples[:whole], dtype=np.float64)
    power: NDArray[np.float64] = squares.reshape(-1, FRAME).sum(axis=1)
    return power


def active_frames(power: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the frames above the threshold: the 15 % quantile of those that are not near silence."""
    audible = power[power > _POWER_FLOOR]
    if not audible.size:
        return np.zeros(power.shape, bool)
    marked: NDArray[np.bool_] = power > np.quantile(audible, _QUANTILE)
    return marked


def find_segments(power: NDArray[np.float64]) -> list[Segment]:
    """Find the windows of 6 s, every 3 s, in which more than half of the frames are active.

    A source of 3 to 6 s is one window; a shorter one has none.
    """
    active = active_frames(power)
    window = min(WINDOW // FRAME, len(power))
    if window < EXCERPT_FRAMES // FRAME:
        return []
    starts = range(0, len(power) - window + 1, HOP // FRAME)
    found = (_segment(power, active, start, window) for start in starts)
    return [segment for segment in found if segment is not None]


def _segment(
    power: NDArray[np.float64], active: NDArray[np.bool_], start: int, window: int
) -> Segment | None:
    inside = active[start : start + window]
    if inside.mean() <= _ACTIVE_SHARE:
        return None
    counts = np.concatenate([[0], np.cumsum(inside)])
    excerpt, grid = EXCERPT_FRAMES // FRAME, START_GRID // FRAME
    firsts = np.arange(0, window - excerpt + 1, grid)
    is_active = counts[firsts + excerpt] - counts[firsts] > _ACTIVE_SHARE * excerpt
    mask = int(sum(1 << bit for bit in np.flatnonzero(is_active)))
    if not mask:  # only a window shorter than 6 s can have none
        return None
    mean_square = power[start : start + window].sum() / (window * FRAME * CHANNELS)
    return Segment(start * FRAME, window * FRAME, 10 * float(np.log10(mean_square)), mask)
