"""The low-pass edge of a codec: where the decoded spectrum ends.

Shape legend: samples are [frames, channels], 44,100 Hz; spectra [bins].
"""

import numpy as np
from numpy.typing import NDArray

from pipelines import schema

WINDOW = 2_048
_EDGE_DB = -20.0
_FLOOR = 1e-8


def power_spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Power of the channels' mean: [bins, windows]."""
    mono = samples.mean(axis=1, dtype=np.float64)
    if len(mono) < WINDOW:
        mono = np.pad(mono, (0, WINDOW - len(mono)))
    frames = np.lib.stride_tricks.sliding_window_view(mono, WINDOW)[:: WINDOW // 2]
    power: NDArray[np.float64] = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))).T ** 2
    return power


def find_edge_hz(clean: NDArray[np.float64], decoded: NDArray[np.float64]) -> float:
    """Find the frequency above which the codec left less than a hundredth of the energy, in Hz.

    Energies above a frequency are compared, not bins: far up, where hardly anything sounds, a bin's ratio is
    that of two noises.

    Args:
        clean: Mean power spectrum of what the codec was given.
        decoded: That of what it left.
    """
    sounding = clean > _FLOOR * np.max(clean)
    above = [np.cumsum(np.where(sounding, power, 0.0)[::-1])[::-1] for power in (clean, decoded)]
    gone = np.flatnonzero((above[1] < 10 ** (_EDGE_DB / 10) * above[0]) & sounding)
    edge = gone[0] if gone.size else np.flatnonzero(sounding)[-1] if sounding.any() else 0
    return float(edge) * schema.SAMPLE_RATE / WINDOW
