"""Loudness by ITU-R BS.1770-4, and the gains that make versions of one item equally loud.

Shape legend: samples are [channels, samples], mono or left and right, full scale at 1.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# The standard tabulates its two filters at 48 kHz only; these analogue parameters give that table through the
# bilinear transform, and so the same filter at any rate.
_SHELF_HZ, _SHELF_Q, _SHELF_DB, _SHELF_BAND = (
    1681.974450955533,
    0.7071752369554196,
    3.999843853973347,
    0.4996667741545416,
)
_HIGH_PASS_HZ, _HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773
_TABLE_HZ = 48_000
_OFFSET_LUFS = -0.691
_BLOCK_SECONDS, _STEP_SECONDS = 0.4, 0.1
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_SILENT_BELOW_LOUDEST_LU = -60.0
_FULL_SCALE = 32_767 / 32_768  # of 16 bit
Coefficients = tuple[tuple[float, float, float], tuple[float, float, float]]


def k_weighting(sample_rate: int) -> tuple[Coefficients, Coefficients]:
    """Give the K-weighting at a sample rate: (numerator, denominator) of the shelf and of the high-pass."""
    warped = math.tan(math.pi * _SHELF_HZ / sample_rate)
    high = 10 ** (_SHELF_DB / 20)
    band = high**_SHELF_BAND
    scale = 1 + warped / _SHELF_Q + warped**2
    shelf = (
        (
            (high + band * warped / _SHELF_Q + warped**2) / scale,
            2 * (warped**2 - high) / scale,
            (high - band * warped / _SHELF_Q + warped**2) / scale,
        ),
        (1.0, 2 * (warped**2 - 1) / scale, (1 - warped / _SHELF_Q + warped**2) / scale),
    )
    warped = math.tan(math.pi * _HIGH_PASS_HZ / sample_rate)
    scale = _high_pass_scale(sample_rate)
    gain = _high_pass_scale(_TABLE_HZ) / scale  # the table's numerator is not scaled, so neither is its gain
    high_pass = (
        (gain, -2 * gain, gain),
        (1.0, 2 * (warped**2 - 1) / scale, (1 - warped / _HIGH_PASS_Q + warped**2) / scale),
    )
    return shelf, high_pass


def _high_pass_scale(sample_rate: int) -> float:
    warped = math.tan(math.pi * _HIGH_PASS_HZ / sample_rate)
    return 1 + warped / _HIGH_PASS_Q + warped**2


def loudness_lufs(samples: NDArray[np.float32], sample_rate: int) -> float | None:
    """Measure the integrated, gated loudness.

    Beyond the standard: a clip shorter than one block of 400 ms, or of which the gates leave nothing, has the
    loudness of its ungated mean.

    Args:
        samples: Finite; [channels, samples].
        sample_rate: Hz.

    Returns:
        LUFS, or None for silence and for no samples.

    Raises:
        ValueError: there are more channels than two, whose weights would depend on the speaker layout.
    """
    from scipy.signal import lfilter

    if samples.ndim != 2 or samples.shape[0] not in (1, 2):
        raise ValueError(
            f"samples have the shape {samples.shape}; it must be [channels, samples] with 1 or 2 channels"
        )
    weighted = samples.astype(np.float64)
    for numerator, denominator in k_weighting(sample_rate):
        weighted = lfilter(numerator, denominator, weighted, axis=1)
    energy = np.concatenate(([0.0], np.cumsum(np.sum(weighted**2, axis=0))))  # [samples + 1], channels summed
    block, step = round(_BLOCK_SECONDS * sample_rate), round(_STEP_SECONDS * sample_rate)
    starts = np.arange(0, samples.shape[1] - block + 1, step)
    blocks = (energy[starts + block] - energy[starts]) / block
    gated = blocks[blocks > _power(_ABSOLUTE_GATE_LUFS)]
    if gated.size:
        gated = gated[gated > gated.mean() * 10 ** (_RELATIVE_GATE_LU / 10)]
    power = float(gated.mean() if gated.size else energy[-1] / max(samples.shape[1], 1))
    return _OFFSET_LUFS + 10 * math.log10(power) if power > 0 else None


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - _OFFSET_LUFS) / 10))


def equal_gains(versions: Mapping[str, NDArray[np.float32]], sample_rate: int) -> dict[str, float]:
    """Return the gains at which all versions are as loud as the quietest, and none clips.

    No gain exceeds 1: louder versions are attenuated to the quietest, then all by the same gain if a peak
    still exceeds full scale. A version 60 LU below the loudest counts as silent and keeps its level:
    otherwise it would make all others inaudible.

    Args:
        versions: By name; finite, [channels, samples] each.
        sample_rate: Hz.

    Returns:
        Linear gains by the same names.

    Raises:
        ValueError: as `loudness_lufs`.
    """
    measured = {name: loudness_lufs(samples, sample_rate) for name, samples in versions.items()}
    levels = {name: level for name, level in measured.items() if level is not None}
    loudest = max(levels.values(), default=0.0)
    audible = {name: level for name, level in levels.items() if level > loudest + _SILENT_BELOW_LOUDEST_LU}
    quietest = min(audible.values(), default=0.0)
    gains = {name: 10 ** ((quietest - audible.get(name, quietest)) / 20) for name in versions}
    peak = max(
        (gains[name] * float(np.abs(one).max(initial=0.0)) for name, one in versions.items()), default=0.0
    )
    common = min(1.0, _FULL_SCALE / peak) if peak else 1.0
    return {name: common * gain for name, gain in gains.items()}
