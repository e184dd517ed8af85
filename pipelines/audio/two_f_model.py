"""The 2f-model of restored music: predicted MUSHRA score, 0 to 100 (Kastner and Herre, 2019).

From two outputs of PEAQ's basic version (ITU-R BS.1387): AvgModDiff1, the difference of the modulation of
envelopes, and ADB, the average distorted block. Of 12 measures the best for coded music in Torcoli et al.
(2021). Equation numbers are the recommendation's, annex 2; where it is not definite, this follows Kabal
(2003). It is not validated with the recommendation's conformance files: both outputs equal gstpeaq's to 1e-8
(tests/pipelines/audio/test_two_f_model.py).

Shape legend: samples [channels, samples] at 48 kHz; patterns [channels, frames, bands], of frames of 2,048
samples every 1,024.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from pipelines.audio.scored_pair import check_shapes, is_finite

SAMPLE_RATE = 48_000
_FRAME, _HOP = 2_048, 1_024
_BANDS = 109
_BAND_BARK = 0.25  # width of a band
_LISTENING_DB = 92.0  # of a full-scale sine
_GAMMA = 0.84971762641205  # loss of a sine between bins by the window (Kabal)
_SPREADING_POWER = 0.4
_MODULATION_POWER = 0.3
_FIRST_FRAME = 24  # modulation differences count after half a second
_SILENCE = 200 / 32_768  # sum of five samples where the signal begins and ends
_BLOCK_FRAMES = 128  # bounds memory
_MIN_SAMPLES = SAMPLE_RATE

Floats = NDArray[np.float64]


class _EarModel(NamedTuple):
    """Constants of the FFT ear model.

    Args:
        grouping: Weights of bins in bands, [bands, bins], outer and middle ear included.
        centres_hz: [bands].
        internal_noise: Power, [bands].
        spreading_norm: [bands].
    """

    grouping: Floats
    centres_hz: Floats
    internal_noise: Floats
    spreading_norm: Floats


class _Patterns(NamedTuple):
    """Patterns of a signal, [channels, frames, bands]: excitation, modulation, and mean loudness."""

    excitation: Floats
    modulation: Floats
    loudness: Floats


def score(clean: NDArray[np.float32], restored: NDArray[np.float32], sample_rate: int) -> float | None:
    """Return the 2f-model's score of restored audio against the clean one.

    Modulation differences are averaged over channels; a distortion is detected in the channel where it is
    easiest (the recommendation's binaural detection).

    Args:
        clean: [channels, samples], full scale 1, heard at 92 dB SPL.
        restored: The same shape, at the same level.
        sample_rate: Hz; both are resampled to 48 kHz.

    Returns:
        The score, or None where it is undefined: the clean audio is silent, a non-finite sample, or less than
        1 s. Never NaN.

    Raises:
        ValueError: the shapes differ or are not [channels, samples].
    """
    check_shapes(clean, restored)
    if not is_finite(clean, restored):
        return None
    pair = [
        np.asarray(soxr.resample(samples.T, sample_rate, SAMPLE_RATE), np.float64).T
        for samples in (clean, restored)
    ]
    if pair[0].shape[1] < _MIN_SAMPLES:
        return None
    found = measure(*pair)
    if found is None:
        return None
    modulation_difference, distorted_block = found
    value = 56.1345 / (1 + (-0.0282 * modulation_difference - 0.8628) ** 2) - 27.1451 * distorted_block
    return float(np.clip(value + 86.3515, 0, 100))


def measure(clean: Floats, restored: Floats) -> tuple[float, float] | None:
    """Compute AvgModDiff1 and ADB of [channels, samples] at 48 kHz; None if the clean audio is silent."""
    counted = _find_signal(_frames(clean))
    if not counted.any():
        return None
    reference, estimate = (_analyze(samples) for samples in (clean, restored))
    difference = _modulation_difference(reference, estimate, counted)
    if difference is None:
        return None
    return difference, _average_distorted_block(reference, estimate, counted)


def _frames(samples: Floats) -> Floats:
    """Return the frames [channels, frames, 2048] of samples, padded with zeros to whole frames."""
    count = max(math.ceil((samples.shape[1] - _FRAME) / _HOP), 0) + 1
    padded = np.pad(samples, ((0, 0), (0, (count - 1) * _HOP + _FRAME - samples.shape[1])))
    return np.lib.stride_tricks.sliding_window_view(padded, _FRAME, axis=1)[:, ::_HOP]


def _find_signal(frames: Floats) -> NDArray[np.bool_]:
    """Return which frames lie between the beginning and the end of the signal (5.2.4.4), [frames]."""
    total = np.cumsum(np.abs(np.pad(frames, ((0, 0), (0, 0), (1, 0)))), axis=-1)
    loud = ((total[..., 5:] - total[..., :-5])[..., 1:] >= _SILENCE).any(axis=(0, 2))
    places = np.flatnonzero(loud)
    numbers = np.arange(len(loud))
    return (numbers >= places[0]) & (numbers <= places[-1]) if places.size else np.zeros(len(loud), bool)


@cache
def _ear_model() -> _EarModel:
    lowest, highest = (7 * math.asinh(edge / 650) for edge in (80, 18_000))
    edges_bark = np.minimum(lowest + _BAND_BARK * np.arange(_BANDS + 1), highest)
    edges = 650 * np.sinh(edges_bark / 7)
    centres = 650 * np.sinh((edges_bark[:-1] + edges_bark[1:]) / 2 / 7)
    bins = np.arange(_FRAME // 2 + 1)
    low, high = (edges[:, None] * _FRAME / SAMPLE_RATE for edges in (edges[:-1], edges[1:]))
    overlap = np.minimum(bins + 0.5, high) - np.maximum(bins - 0.5, low)
    khz = np.maximum(bins, 1e-9) * SAMPLE_RATE / _FRAME / 1_000
    ear_db = -0.6 * 3.64 * khz**-0.8 + 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) - 1e-3 * khz**3.6  # (7)
    grouping = np.clip(overlap, 0, 1) * 10 ** (np.maximum(ear_db, -300) / 10)
    noise = 10 ** (0.4 * 0.364 * (centres / 1_000) ** -0.8)  # (13)
    norm = _spread(np.ones((1, _BANDS)), centres)[0]
    return _EarModel(grouping, centres, noise, norm)


def _spread(power: Floats, centres_hz: Floats) -> Floats:
    """Spread the power of bands over frequency without normalization (15 to 19), [frames, bands]."""
    lower = -2.7 * _BAND_BARK * math.log(10)
    upper = (-2.4 - 23 / centres_hz) * _BAND_BARK * math.log(10) + 0.2 * _BAND_BARK * np.log(power)
    number = np.arange(_BANDS)
    total = (1 - np.exp(lower * (number + 1))) / (1 - math.exp(lower))
    total = total + (1 - np.exp(upper * (_BANDS - number))) / (1 - np.exp(upper)) - 1
    steps = number - number[:, None]  # from a band (row) to another
    slopes = np.where(steps > 0, upper[:, :, None], -lower) * steps
    spread = np.exp(_SPREADING_POWER * (np.log(power / total)[:, :, None] + slopes)).sum(1)
    result: Floats = spread ** (1 / _SPREADING_POWER)
    return result


def _time_constants(slowest_seconds: float) -> Floats:
    """Return the coefficients of smoothing over frames (21, 56), [bands]."""
    seconds = 0.008 + 100 / _ear_model().centres_hz * (slowest_seconds - 0.008)
    coefficients: Floats = np.exp(-_HOP / SAMPLE_RATE / seconds)
    return coefficients


def _smooth(values: Floats, coefficients: Floats) -> Floats:
    """Smooth over frames with a first-order low-pass that begins at 0."""
    smoothed, state = np.empty_like(values), np.zeros_like(values[:, 0])
    for frame in range(values.shape[1]):
        state = coefficients * state + (1 - coefficients) * values[:, frame]
        smoothed[:, frame] = state
    return smoothed


def _analyze(samples: Floats) -> _Patterns:
    model = _ear_model()
    frames = _frames(samples)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / (_FRAME - 1))
    scale = 10 ** (_LISTENING_DB / 10) / (_GAMMA / 4 * (_FRAME - 1)) ** 2
    unsmeared = np.empty((*frames.shape[:2], _BANDS))
    for channel in range(len(frames)):
        for first in range(0, frames.shape[1], _BLOCK_FRAMES):
            block = slice(first, first + _BLOCK_FRAMES)
            spectrum = scale * np.abs(np.fft.rfft(frames[channel, block] * window)) ** 2
            power = np.maximum(spectrum @ model.grouping.T, 1e-12) + model.internal_noise
            unsmeared[channel, block] = _spread(power, model.centres_hz) / model.spreading_norm
    excitation = np.maximum(_smooth(unsmeared, _time_constants(0.03)), unsmeared)
    loudness = unsmeared**_MODULATION_POWER
    change = np.abs(np.diff(loudness, axis=1, prepend=0)) * SAMPLE_RATE / _HOP
    coefficients = _time_constants(0.05)
    mean = _smooth(loudness, coefficients)
    modulation = _smooth(change, coefficients) / (1 + mean / _MODULATION_POWER)  # (57)
    return _Patterns(excitation, modulation, mean)


def _modulation_difference(
    reference: _Patterns, estimate: _Patterns, counted: NDArray[np.bool_]
) -> float | None:
    """Compute AvgModDiff1 (63 to 65), mean over channels; None without a frame."""
    chosen = counted & (np.arange(len(counted)) >= _FIRST_FRAME)
    if not chosen.any():
        return None
    difference = np.abs(reference.modulation - estimate.modulation) / (1 + reference.modulation)
    threshold = 100 * _ear_model().internal_noise ** _MODULATION_POWER
    weight = (reference.loudness / (reference.loudness + threshold)).sum(-1)[:, chosen]
    values = 100 * difference.mean(-1)[:, chosen]
    return float(((weight * values).sum(1) / weight.sum(1)).mean())


def _average_distorted_block(reference: _Patterns, estimate: _Patterns, counted: NDArray[np.bool_]) -> float:
    """Compute ADB (73 to 84): the log of the mean number of steps above the threshold in detected frames."""
    clean, found = (10 * np.log10(patterns.excitation[:, counted]) for patterns in (reference, estimate))
    level = 0.3 * np.maximum(clean, found) + 0.7 * found
    positive = np.where(level > 0, level, 1.0)
    fit = 9.01033e-11, 5.05622e-6, -0.00102438, 0.0550197, -0.198719
    step = 5.95072 * (6.39468 / positive) ** 1.71332 + np.polyval(fit, positive)
    step = np.where(level > 0, step, 1e30)
    error = clean - found
    missed = 0.5 ** (np.abs(error / step) ** np.where(error > 0, 4, 6))  # probability of no detection
    detected = 1 - missed.min(0).prod(-1) > 0.5
    steps = (np.abs(np.trunc(error)) / step).max(0).sum(-1)[detected]
    if not steps.size:
        return 0.0
    return math.log10(steps.mean()) if steps.any() else -0.5
