"""Zimtohrli of restored music: predicted mean opinion score, 0 to 5 (Alakuijala et al., 2025).

The package zimtohrli requires samples at 48 kHz; it takes a full-scale sine as 78.3 dB SPL and has filters up
to 20.4 kHz. There are wheels for Linux on x86-64 only.
"""

import logging
import math
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from pipelines.audio.scored_pair import check_shapes, is_finite

logger = logging.getLogger(__name__)

SAMPLE_RATE = 48_000
_MIN_SAMPLES = 24_000  # at its rate; below 0.1 s the package writes beyond its memory


def score(clean: NDArray[np.float32], restored: NDArray[np.float32], sample_rate: int) -> float | None:
    """Return the mean opinion score of restored audio against the clean one.

    The distances of the channels are combined as their root mean square, as in Zimtohrli's own command
    `compare`. Channels that are silent in the clean audio are ignored.

    Args:
        clean: [channels, samples], full scale 1.
        restored: The same shape, at the same level.
        sample_rate: Hz; both are resampled to 48 kHz.

    Returns:
        The score, or None where it is undefined: the clean audio is silent, a non-finite sample, less than
        0.5 s, or Zimtohrli not installed. Never NaN.

    Raises:
        ValueError: the shapes differ or are not [channels, samples].
    """
    check_shapes(clean, restored)
    if not is_finite(clean, restored):
        return None
    package = _load()
    distances = []
    for reference, estimate in zip(clean, restored):
        if not np.ptp(reference) > 0 or package is None:
            continue
        pair = [
            soxr.resample(np.asarray(samples, np.float32), sample_rate, SAMPLE_RATE)
            for samples in (reference, estimate)
        ]
        if len(pair[0]) < _MIN_SAMPLES:
            return None
        distances.append(package.Pyohrli().distance(*pair))
    if not distances or package is None:
        return None
    found = float(package.mos_from_zimtohrli(math.sqrt(float(np.mean(np.square(distances))))))
    return found if math.isfinite(found) else None


def installed_version() -> str:
    """Return the version of the package, or `not installed`."""
    try:
        return version("zimtohrli")
    except PackageNotFoundError:
        return "not installed"


@cache
def _load() -> Any:
    """Load the package once per process; None, with one warning, where it is not installed."""
    try:
        import zimtohrli
    except ImportError as error:
        logger.warning(f"Zimtohrli is missing, its column stays empty ({error}): pip install zimtohrli")
        return None
    return zimtohrli
