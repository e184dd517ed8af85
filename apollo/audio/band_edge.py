"""Bandwidth of a recording, and the edge of a low-pass filter, from its mean spectra.

Shape legend: samples are [channels, samples], full scale 1; levels [bins], in dB above the density of the
noise that rounding to 16 bits makes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING_NOISE = 2.0**-30 / 12  # power of rounding to 16 bits
ABOVE_NOISE_DB = 9.0  # of what counts as signal
_WINDOW, _HOP = 4_096, 4_096
_SMOOTH_HZ = 100.0
_PASSED_HZ, _STOPPED_HZ = (
    (-500.0, -60.0),
    160.0,
)  # relative to an edge: what it passes, and from where it stops
_TONE_HZ = 400.0  # a lone tone above an edge is no signal that a filter passed
_MIN_DROP_DB = 18.0
_MIN_EDGE_HZ = 2_000.0
_LAST = 0.985  # of half the sample rate: above, resamplers and converters roll off
_TOLERANCE_HZ = 200.0


@dataclass(frozen=True)
class BandEdge:
    """Where the spectrum of a recording ends.

    Args:
        bandwidth_hz: Highest frequency with signal above the rounding noise of 16 bits; 0 for silence.
        edge_hz: Edge of a low-pass filter, None if the spectrum has no steep end.
        drop_db: How far the level falls there within 220 Hz.
        constant: Whether the edge is at the same place in most seconds.
    """

    bandwidth_hz: int
    edge_hz: int | None = None
    drop_db: float = 0.0
    constant: bool = False


def measure_band_edge(windows: Sequence[Tensor], sample_rate: int) -> BandEdge:
    """Measure where the spectrum ends, over windows of a recording."""
    parts = [part for window in windows for part in window.split(sample_rate, 1)]
    levels = [_levels_db(part, sample_rate) for part in parts if part.shape[1] >= _WINDOW]
    if not levels:
        return BandEdge(0)
    mean = 10 * torch.stack([10 ** (level / 10) for level in levels]).mean(0).log10()
    loud = (mean > ABOVE_NOISE_DB).nonzero()
    if not len(loud):
        return BandEdge(0)
    hz_per_bin = sample_rate / _WINDOW
    bandwidth_hz = round(float(loud[-1]) * hz_per_bin)
    found = _find_edge(mean, hz_per_bin)
    if found is None:
        return BandEdge(bandwidth_hz)
    edge_hz, drop_db = found
    edges = [edge for level in levels if (edge := _find_edge(level, hz_per_bin)) is not None]
    near = [edge for edge, _ in edges if abs(edge - edge_hz) <= _TOLERANCE_HZ]
    constant = len(levels) > 1 and len(near) >= 0.8 * len(levels)
    return BandEdge(bandwidth_hz, round(edge_hz), round(drop_db, 1), constant)


def _levels_db(samples: Tensor, sample_rate: int) -> Tensor:
    """Return the smoothed mean level of all channels."""
    window = torch.hann_window(_WINDOW)
    frames = samples.float().unfold(1, _WINDOW, _HOP) * window  # [channels, frames, samples]
    power = torch.fft.rfft(frames).abs().square().mean((0, 1))
    power = power / (ROUNDING_NOISE * window.square().sum())
    smooth = _average(power, _SMOOTH_HZ * _WINDOW / sample_rate)
    return 10 * smooth.clamp(min=1e-2).log10()


def _average(values: Tensor, bins: float) -> Tensor:
    """Return the mean over an odd number of bins around each."""
    reach = max(round(bins / 2), 1)
    padded = torch.nn.functional.pad(values[None, None], (reach, reach), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 2 * reach + 1, 1)[0, 0]


def _find_edge(levels: Tensor, hz_per_bin: float) -> tuple[float, float] | None:
    """Return frequency and drop of the steepest end of a spectrum, None if there is no steep one.

    The drop is how far everything above is below the mean level just under the edge.
    """
    low, high, stopped = (round(at / hz_per_bin) for at in (*_PASSED_HZ, _STOPPED_HZ + _TONE_HZ / 2))
    first, last = round(_MIN_EDGE_HZ / hz_per_bin), int((len(levels) - 1) * _LAST)
    end = last - stopped
    if end <= first or first + low < 0:
        return None
    passed = levels.unfold(0, high - low, 1).mean(1)[first + low : end + low]
    above = _average(levels[:last], _TONE_HZ / hz_per_bin).flip(0).cummax(0).values.flip(0)
    drops = passed - above[first + stopped :]
    at = int(drops.argmax())
    drop_db = float(drops[at])
    if not drop_db >= _MIN_DROP_DB or math.isinf(drop_db):  # samples near the largest number overflow
        return None
    return (first + at) * hz_per_bin, drop_db
