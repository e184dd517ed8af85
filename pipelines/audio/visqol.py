"""ViSQOL of restored music: predicted mean opinion score, 1 to 4.73 (Chinen et al., 2020; audio mode).

The model is the one inside the visqol-python package; nothing is downloaded. The first score of a process
takes some ten seconds more for compilation.
"""

import logging
import math
import threading
from functools import cache
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from pipelines.audio.scored_pair import check_shapes

logger = logging.getLogger(__name__)

SAMPLE_RATE = 48_000
_MIN_SAMPLES = 46_080  # one patch of ViSQOL, at its rate
_MIN_POWER = 1e-5  # -50 dBFS
_LOCK = threading.Lock()  # the compiled loops end a process that runs them in two threads at once


def score(clean: NDArray[np.float32], restored: NDArray[np.float32], sample_rate: int) -> float | None:
    """Return the mean opinion score of restored audio against the clean one.

    Channels are averaged, as in the published evaluation.

    Args:
        clean: [channels, samples].
        restored: The same shape.
        sample_rate: Hz; both are resampled to 48 kHz.

    Returns:
        The score, or None where it is undefined: clean mono below -50 dBFS, restored mono all zero, a
        non-finite sample, less than 0.96 s, or ViSQOL not installed. Never NaN.

    Raises:
        ValueError: the shapes differ or are not [channels, samples].
    """
    check_shapes(clean, restored)
    if not clean.size:
        return None
    mono = [samples.mean(0, dtype=np.float64) for samples in (clean, restored)]
    if not all(np.isfinite(samples).all() and np.any(samples) for samples in mono):
        return None
    # below some -60 dBFS ViSQOL returns its best score for any input
    if np.mean(mono[0] ** 2) < _MIN_POWER:
        return None
    reference, degraded = (soxr.resample(samples, sample_rate, SAMPLE_RATE) for samples in mono)
    scorer = _load()
    if len(reference) < _MIN_SAMPLES or scorer is None:
        return None
    with _LOCK:
        found = float(scorer.measure_from_arrays(reference, degraded, SAMPLE_RATE).moslqo)
    return found if math.isfinite(found) else None


@cache
def _load() -> Any:
    """Load the scorer once per process; None, with one warning, where it is not installed."""
    try:
        from visqol import VisqolApi
    except ImportError as error:
        logger.warning(
            f"ViSQOL is missing, its column stays empty ({error}): pip install 'visqol-python[accel]'"
        )
        return None
    scorer = VisqolApi()
    scorer.create(mode="audio")
    return scorer
