"""Bandwidth of a recording, and low-pass cut-off of a codec.

Shape legend: samples are [frames, channels], 44,100 Hz; spectra [bins].
"""

import numpy as np
from numpy.typing import NDArray

from pipelines import schema

WINDOW = 2_048
_CUTOFF_DB = -20.0
_FLOOR = 1e-8
_SPECTRUM = 4_096
_WINDOWS_PER_BLOCK = 8
_ROUNDING_NOISE = 2.0**-30 / 12  # power of rounding to 16 bits
_ABOVE_NOISE_DB = 9.0


class BandwidthMeter:
    """Measure the bandwidth of a recording that is read in blocks.

    Eight windows, spread over a block, are taken of each: of blocks of 3 s, a quarter of all samples.
    """

    def __init__(self) -> None:
        self._window = np.hanning(_SPECTRUM).astype(np.float32)
        self._power = np.zeros(_SPECTRUM // 2 + 1)
        self._num_windows = 0

    def add(self, samples: NDArray[np.float32]) -> None:
        """Add a block of samples: [frames, channels], full scale 1."""
        if len(samples) < _SPECTRUM:
            return
        starts = np.linspace(0, len(samples) - _SPECTRUM, _WINDOWS_PER_BLOCK).astype(int)
        windows = np.stack([samples[start : start + _SPECTRUM].mean(axis=1) for start in starts])
        self._power += (np.abs(np.fft.rfft(windows * self._window)) ** 2).sum(axis=0)
        self._num_windows += len(starts)

    def bandwidth_hz(self, sample_rate: int = schema.SAMPLE_RATE) -> int:
        """Return the highest frequency, in Hz, where the mean power is 9 dB above 16-bit rounding noise."""
        noise = _ROUNDING_NOISE / schema.CHANNELS * float((self._window**2).sum())
        limit = 10 ** (_ABOVE_NOISE_DB / 10) * noise * max(self._num_windows, 1)
        loud = np.flatnonzero(self._power > limit)
        return round(float(loud[-1]) * sample_rate / _SPECTRUM) if loud.size else 0


def power_spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the power spectrogram of the channels' mean: [bins, windows]."""
    mono = samples.mean(axis=1, dtype=np.float64)
    if len(mono) < WINDOW:
        mono = np.pad(mono, (0, WINDOW - len(mono)))
    frames = np.lib.stride_tricks.sliding_window_view(mono, WINDOW)[:: WINDOW // 2]
    power: NDArray[np.float64] = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))).T ** 2
    return power


def measure_cutoff_hz(clean: NDArray[np.float64], decoded: NDArray[np.float64]) -> float:
    """Return the frequency, in Hz, above which the codec kept less than a hundredth of the energy.

    Energies above a frequency are compared, not single bins: in the highest bins, which are nearly empty, the
    ratio is one of two noises.

    Args:
        clean: Mean power spectrum of the codec's input: [bins].
        decoded: That of its output.
    """
    audible = clean > _FLOOR * np.max(clean)
    above = [np.cumsum(np.where(audible, power, 0.0)[::-1])[::-1] for power in (clean, decoded)]
    removed = np.flatnonzero((above[1] < 10 ** (_CUTOFF_DB / 10) * above[0]) & audible)
    cutoff = removed[0] if removed.size else np.flatnonzero(audible)[-1] if audible.any() else 0
    return float(cutoff) * schema.SAMPLE_RATE / WINDOW
