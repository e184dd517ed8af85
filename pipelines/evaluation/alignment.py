"""The lag between two versions of a recording, by cross-correlation: decoders may keep an encoder's delay.

Shape legend: samples are [channels, samples], float32, 44,100 Hz.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from pipelines.schema import SAMPLE_RATE

MAX_LAG = SAMPLE_RATE // 10  # samples; the delays of codecs are 529 to 3,000
_EXCERPT = 20 * SAMPLE_RATE
_ROUNDING = 1e-9
_LEAST_GAIN = 2.0  # 3 dB of SI-SNR
_MUCH_MORE, _LEAST_EXPLAINED = 4.0, 0.1


def measure_lag(reference: NDArray[np.float32], samples: NDArray[np.float32]) -> int:
    """Return by how many samples a version is late; negative if it is early, 0 if it is aligned.

    A lag counts only if to take it out improves the SI-SNR by 3 dB, or explains four times as much of the
    energy where that is little: a tone correlates as well a period later.

    Args:
        reference: [channels, samples].
        samples: The version, with about as many samples.

    Returns:
        At most MAX_LAG in size, by the middle 20 s.
    """
    length = min(reference.shape[1], samples.shape[1])
    first = max(length - _EXCERPT, 0) // 2
    excerpt = slice(first, min(length, first + _EXCERPT))
    expected, found = (part[:, excerpt].mean(0, dtype=np.float64) for part in (reference, samples))
    size = next_fast_len(len(expected) + MAX_LAG, real=True)
    correlation = irfft(rfft(found, size) * rfft(expected, size).conj(), size)
    reach = min(MAX_LAG, len(expected) // 4)
    lags = np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])
    explained = np.square(correlation[lags]) / max(np.square(expected).sum() * np.square(found).sum(), 1e-30)
    best, at_zero = explained.max(), explained[0]
    clearer = 1 - at_zero > _LEAST_GAIN * max(1 - best, 0.0) + _ROUNDING
    more = best > max(_MUCH_MORE * at_zero, _LEAST_EXPLAINED)
    return int(lags[explained.argmax()]) if clearer or more else 0


def describe_lags(lags: Mapping[str, int]) -> str:
    """Say that versions are not aligned; empty if all are.

    Args:
        lags: Samples by which versions are late, by name, without those that are aligned.
    """
    if not lags:
        return ""
    return (
        f" {len(lags)} versions are not aligned with the clean audio, by {min(lags.values())} to "
        f"{max(lags.values())} samples, which spoils their scores: see `lags` in result.json. Take the lags "
        "out with --align_pairs true and another --output."
    )


def shift(samples: NDArray[np.float32], lag: int, length: int) -> NDArray[np.float32]:
    """Move samples to be earlier by a lag, and cut or pad them with silence to a length."""
    moved = samples[:, lag:] if lag >= 0 else np.pad(samples, ((0, 0), (-lag, 0)))
    return np.pad(moved[:, :length], ((0, 0), (0, max(length - moved.shape[1], 0))))
