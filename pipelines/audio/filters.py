"""Degradations without a codec. They keep length and alignment.

Shape legend: samples are [frames, channels], float32, full scale 1, 44,100 Hz.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.audio.degradations import Step
from pipelines.schema import SAMPLE_RATE

_TAPS = 1_025  # of the low-pass: a transition of about 200 Hz


def apply_filter(step: Step, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply a step that is no codec."""
    if step.kind == "resample":
        return _resample(samples, step.value)
    if step.kind == "lowpass":
        return _low_pass(samples, step.value)
    if step.kind == "clip":
        scale = np.float32(10 ** (step.value / 20) / max(float(np.abs(samples).max(initial=0.0)), 1e-9))
        return np.asarray((samples * scale).clip(-1, 1) / scale, np.float32)
    levels = np.float32(2 ** (step.value - 1))
    return np.asarray(np.rint(samples * levels).clip(-levels, levels - 1) / levels, np.float32)


def _resample(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    import soxr

    there = soxr.resample(samples, SAMPLE_RATE, rate)
    back = soxr.resample(there, rate, SAMPLE_RATE)
    missing = len(samples) - len(back)
    return np.asarray(np.pad(back, ((0, max(missing, 0)), (0, 0)))[: len(samples)], np.float32)


def _low_pass(samples: NDArray[np.float32], cutoff_hz: int) -> NDArray[np.float32]:
    """Filter with a symmetric windowed sinc, in float64, so that rounding is the same everywhere."""
    times = np.arange(_TAPS) - _TAPS // 2
    kernel = np.sinc(2 * cutoff_hz / SAMPLE_RATE * times) * np.blackman(_TAPS)
    size = 1 << math.ceil(math.log2(len(samples) + _TAPS))
    spectrum = np.fft.rfft(samples.astype(np.float64), size, axis=0)
    filtered = np.fft.irfft(spectrum * np.fft.rfft(kernel / kernel.sum(), size)[:, None], size, axis=0)
    start = _TAPS // 2
    return filtered[start : start + len(samples)].astype(np.float32)
