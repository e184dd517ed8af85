"""Bandwidth of a recording and of a mix of them, and low-pass cut-off of a codec.

Shape legend: samples are [frames, channels], 44,100 Hz; spectra [bins].
"""

import math
from collections.abc import Iterable

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
_FULL_BAND_HZ = {False: 20_000, True: 21_900}  # by lossy: ADCs and masters end above 20 kHz too
_GUARD_HZ, _BAND_HZ = 250, 1_000  # a low-pass falls within 500 Hz
_NEGLIGIBLE_DB = -20.0


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


def known_bandwidth_hz(measured_hz: int | None, *, lossy: bool) -> float:
    """Return the frequency, in Hz, up to which a source is known; infinite if it is known completely.

    Args:
        measured_hz: Bandwidth of the recording; None or 0 if it was not measured.
        lossy: Whether the recording is coded lossily. One that is not is complete from 20 kHz on.
    """
    return math.inf if not measured_hz or measured_hz >= _FULL_BAND_HZ[lossy] else float(measured_hz)


def mix_bandwidth_hz(
    components: Iterable[tuple[NDArray[np.float32], float]], mix: NDArray[np.float32]
) -> float:
    """Return the frequency, in Hz, up to which a mix is known; infinite if it is known completely.

    Above its bandwidth, a component lacks a part that is at most as strong as what it has just below. It
    limits the mix, unless that part is 20 dB weaker than what the mix has just above, or weaker than the
    rounding to 16 bits.

    Args:
        components: Samples [frames, channels], as added to the mix, and bandwidth in Hz of each.
        mix: Their sum, [frames, channels].
    """
    limited = [(samples, bandwidth) for samples, bandwidth in components if math.isfinite(bandwidth)]
    if not limited:
        return math.inf
    whole, rounding = _density(mix), _ROUNDING_NOISE * _BAND_HZ / (schema.SAMPLE_RATE / 2)
    found = math.inf
    for samples, bandwidth in limited:
        missing = _band_power(_density(samples), bandwidth - _GUARD_HZ - _BAND_HZ)
        present = _band_power(whole, bandwidth + _GUARD_HZ)
        if missing > max(10 ** (_NEGLIGIBLE_DB / 10) * present, schema.CHANNELS * rounding):
            found = min(found, bandwidth)
    return found


def _density(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean square of samples [frames, channels] by frequency, summed over channels: [bins]."""
    window = np.hanning(len(samples)).astype(np.float32)
    power = (np.abs(np.fft.rfft(samples * window[:, None], axis=0)).astype(np.float64) ** 2).sum(axis=1)
    density: NDArray[np.float64] = power * (
        2 / (len(samples) * float((window.astype(np.float64) ** 2).sum()))
    )
    return density


def _band_power(density: NDArray[np.float64], low_hz: float) -> float:
    """Return the mean square in the band of 1 kHz from a frequency on; 0 above half the sample rate."""
    bins_per_hz = (len(density) - 1) / (schema.SAMPLE_RATE / 2)
    first, end = (max(round(edge * bins_per_hz), 0) for edge in (low_hz, low_hz + _BAND_HZ))
    return float(density[first:end].sum())


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
