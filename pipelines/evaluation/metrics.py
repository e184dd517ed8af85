"""The metrics of one item: the paper's three, and complements.

From `apollo.metrics`, and `visqol`, `zimtohrli` and `two_f_model` of `pipelines.audio`. Level-dependent
metrics (SNR, Zimtohrli, 2f-model, log-spectral distance, errors by band) compare with the clean audio at the
codec's gain: LAME attenuates by 5 %, which alone would limit the SNR to 26 dB.

An undefined metric is None, never NaN: the clean audio is silent, there is no side signal, less than 0.96 s
for ViSQOL, 0.5 s for Zimtohrli or 1 s for the 2f-model, nothing above the cutoff whose flatness could be
compared, or all that would be compared is above the frequency up to which the clean audio is known. Channels
that are silent in the clean audio are ignored.

Shape legend: clean and estimate [channels, samples], float32, 44,100 Hz, of one shape.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apollo import metrics
from pipelines import schema
from pipelines.audio import two_f_model, visqol, zimtohrli
from pipelines.schema import ERROR_BANDS, LEVEL_BANDS, METRICS, NOT_FINITE, SAMPLE_RATE, SCORED, SILENT

_STEREO = 2
_LEAST_HZ = 100.0  # width of a band that is compared


def score(
    clean: NDArray[np.float32],
    estimate: NDArray[np.float32],
    *,
    gain: float,
    cutoff_hz: float,
    bandwidth_hz: float = math.inf,
) -> dict[str, Any]:
    """Compute all metrics of one estimate.

    Args:
        clean: The codec's input, [channels, samples]; finite.
        estimate: The codec's output or a model's, in the same shape.
        gain: Linear gain of the codec's output over the clean audio.
        cutoff_hz: Low-pass cutoff of the codec.
        bandwidth_hz: Frequency up to which the clean audio is known: metrics by frequency end there.

    Returns:
        `status`, `reason`, and every name of METRICS, None where undefined.

    Raises:
        ValueError: the shapes differ.
    """
    if clean.shape != estimate.shape:
        raise ValueError(f"clean {clean.shape} and estimate {estimate.shape} must have one shape")
    empty: dict[str, Any] = dict.fromkeys(METRICS)
    if not np.isfinite(estimate).all():
        return {"status": NOT_FINITE, "reason": "the result has non-finite samples"} | empty
    audible = np.ptp(clean, axis=1) > 0
    if not audible.any():
        return {"status": SILENT, "reason": "the clean audio is silent"} | empty
    reference = torch.from_numpy(np.ascontiguousarray(clean[audible])).double()
    found = torch.from_numpy(np.ascontiguousarray(estimate[audible])).double()
    levelled = gain * reference
    at_one_level = levelled.float().numpy(), found.float().numpy()
    values = {
        "sdr": _mean(metrics.sdr(estimate=found, reference=reference)),
        "si_snr": _mean(metrics.si_snr(estimate=found, reference=reference)),
        "visqol": visqol.score(clean, estimate, SAMPLE_RATE),
        "zimtohrli": zimtohrli.score(*at_one_level, SAMPLE_RATE),
        "two_f": two_f_model.score(*at_one_level, SAMPLE_RATE),
        "snr": _mean(metrics.snr(estimate=found, reference=levelled)),
        **_above_cutoff(found, levelled, cutoff_hz, bandwidth_hz),
        **_mid_side(clean, estimate),
        **_error_by_band(estimate=found, reference=levelled, bandwidth_hz=bandwidth_hz),
        **_level_error_by_band(estimate=found, reference=levelled, bandwidth_hz=bandwidth_hz),
    }
    return {"status": SCORED, "reason": None} | empty | values


def _above_cutoff(
    estimate: Tensor, reference: Tensor, cutoff_hz: float, bandwidth_hz: float
) -> dict[str, float | None]:
    if not bandwidth_hz > cutoff_hz + _LEAST_HZ:
        return {}
    limits: dict[str, Any] = {
        "sample_rate": SAMPLE_RATE,
        "cutoff_hz": cutoff_hz,
        "bandwidth_hz": bandwidth_hz,
    }
    distance = metrics.log_spectral_distance(estimate=estimate, reference=reference, **limits)
    flatness = float(metrics.flatness_difference(estimate=estimate, reference=reference, **limits).nanmean())
    return {"lsd_high": _mean(distance), "flatness_high": None if math.isnan(flatness) else flatness}


def _mean(values: Tensor) -> float:
    return float(values.mean())


def _mid_side(clean: NDArray[np.float32], estimate: NDArray[np.float32]) -> dict[str, float | None]:
    if len(clean) != _STEREO:
        return {}
    reference, found = (metrics.mid_side(torch.from_numpy(samples).double()) for samples in (clean, estimate))
    return {
        f"si_snr_{name}": float(metrics.si_snr(estimate=part, reference=whole))
        if whole.max() > whole.min()
        else None
        for name, part, whole in zip(("mid", "side"), found, reference)
    }


def _error_by_band(*, estimate: Tensor, reference: Tensor, bandwidth_hz: float) -> dict[str, float | None]:
    """Return the energy of the error over the signal's by band, dB; 0 dB is a band that is missing.

    Bands end at the bandwidth; None for those above it.
    """
    error, signal = (
        torch.fft.rfft(samples).abs().square().sum(0) for samples in (estimate - reference, reference)
    )
    found: dict[str, float | None] = {}
    for name, (low_hz, high_hz) in zip(ERROR_BANDS, pairwise(schema.BANDS_HZ)):
        first = round(low_hz * estimate.shape[-1] / SAMPLE_RATE)
        end_hz = min(high_hz, bandwidth_hz)
        end = len(signal) if end_hz >= SAMPLE_RATE / 2 else round(end_hz * estimate.shape[-1] / SAMPLE_RATE)
        parts = error[first:end].sum(), signal[first:end].sum()
        known = end_hz >= low_hz + _LEAST_HZ
        found[name] = _decibels(float(parts[0]), float(parts[1]), float(signal.sum())) if known else None
    return found


def _level_error_by_band(*, estimate: Tensor, reference: Tensor, bandwidth_hz: float) -> dict[str, float]:
    """Return the error of the level by band, dB. Bands end at the bandwidth; those above it are left out."""
    bands = {
        name: (low_hz, min(high_hz, bandwidth_hz))
        for name, (low_hz, high_hz) in zip(LEVEL_BANDS, pairwise(schema.BANDS_HZ))
        if bandwidth_hz >= low_hz + _LEAST_HZ
    }
    errors = metrics.level_error(
        estimate=estimate, reference=reference, sample_rate=SAMPLE_RATE, bands_hz=list(bands.values())
    )
    return dict(zip(bands, errors.mean(0).tolist()))


def _decibels(error: float, signal: float, whole: float) -> float | None:
    if signal <= 1e-14 * whole:  # rounding of the transform
        return None
    if error == 0:
        return -metrics.LIMIT_DB
    return min(max(10 * math.log10(error / signal), -metrics.LIMIT_DB), metrics.LIMIT_DB)
