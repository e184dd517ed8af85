"""Objective metrics of restored audio, computed in float64; results are never NaN, except where stated.

Ratios are in dB, clamped to ±100: 100 for identical signals, also for silence restored as silence; -100 for a
signal where the reference is silent. A silent estimate of a signal gives 0 dB of SNR, by its definition, and
-100 for metrics that fit a scale or filter.

Shape legend: estimate and reference [..., samples], of equal shape; results [...], float64, one per channel.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LIMIT_DB = 100.0
SDR_TAPS = 512
_WINDOW = 2048  # samples of a frame
_HANN_GAIN = 3.0  # of a Hann window: sum over bins of squared amplitudes over the mean square of the samples
_LSD_FLOOR_DB = -100.0
_LEVEL_FLOOR = 1e-9  # mean square, -90 dBFS
_FLATNESS_BINS = 46  # of a band whose flatness is computed: 1 kHz at 44.1 kHz
_FLATNESS_LEVEL = (
    1e-10  # least mean square of the reference in it, -100 dBFS: 14 dB above 16-bit rounding noise
)
_FLATNESS_SHARE = 0.01  # least power of the estimate in it over the reference's
_FLATNESS_FLOOR = 1e-6  # least power of a bin over the mean of its band


def _prepared(estimate: Tensor, reference: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    if estimate.shape != reference.shape or not estimate.numel():
        raise ValueError(
            f"estimate {tuple(estimate.shape)} and reference {tuple(reference.shape)} must have the same "
            "shape and at least one sample"
        )
    if not (torch.isfinite(estimate).all() and torch.isfinite(reference).all()):
        raise ValueError("estimate or reference hold non-finite samples (NaN or infinity)")
    estimate, reference = estimate.double(), reference.double()
    if centred:
        estimate = estimate - estimate.mean(-1, keepdim=True)
        reference = reference - reference.mean(-1, keepdim=True)
    return estimate, reference


def _ratio_db(signal: Tensor, noise: Tensor) -> Tensor:
    """Return 10 log10(signal / noise) of energies, clamped to ±LIMIT_DB; 0 / 0 gives the maximum."""
    ratio = 10 * torch.log10(signal / noise)
    ratio = torch.where(noise == 0, math.inf, ratio)
    return torch.where((signal == 0) & (noise > 0), -math.inf, ratio).clamp(-LIMIT_DB, LIMIT_DB)


def snr(*, estimate: Tensor, reference: Tensor) -> Tensor:
    """Compute the signal-to-noise ratio in dB, without fitting a scale, mean or filter.

    Raises:
        ValueError: the shapes differ, there are no samples, or one is not finite.
    """
    estimate, reference = _prepared(estimate, reference, centred=False)
    return _ratio_db(reference.square().sum(-1), (estimate - reference).square().sum(-1))


def si_snr(*, estimate: Tensor, reference: Tensor) -> Tensor:
    """Compute the scale-invariant signal-to-noise ratio in dB, of zero-mean signals (Le Roux et al., 2019).

    Raises:
        ValueError: the shapes differ, there are no samples, or one is not finite.
    """
    estimate, reference = _prepared(estimate, reference, centred=True)
    energy = reference.square().sum(-1, keepdim=True)
    scale = (estimate * reference).sum(-1, keepdim=True) / torch.where(energy == 0, 1.0, energy)
    projection = scale * reference
    return _ratio_db(projection.square().sum(-1), (estimate - projection).square().sum(-1)).where(
        _is_defined(estimate, reference), -LIMIT_DB
    )


def _is_defined(estimate: Tensor, reference: Tensor) -> Tensor:
    """Return where a fitted ratio is defined: the estimate is not silent, or the reference is."""
    return (estimate.square().sum(-1) > 0) | (reference.square().sum(-1) == 0)


def sdr(*, estimate: Tensor, reference: Tensor, taps: int = SDR_TAPS) -> Tensor:
    """Compute BSS Eval v3's signal-to-distortion ratio in dB (Vincent et al., 2006), of zero-mean signals.

    Invariant to a filter of `taps` coefficients between reference and estimate, so to most of a low-pass.

    Raises:
        ValueError: the shapes differ, there are no samples, or one is not finite.
    """
    estimate, reference = _prepared(estimate, reference, centred=True)
    rows = zip(estimate.reshape(-1, estimate.shape[-1]), reference.reshape(-1, reference.shape[-1]))
    values = torch.stack([_sdr(found, expected, taps) for found, expected in rows])
    return values.reshape(estimate.shape[:-1]).where(_is_defined(estimate, reference), -LIMIT_DB)


def _sdr(estimate: Tensor, reference: Tensor, taps: int) -> Tensor:
    found, expected = estimate.norm(), reference.norm()
    if found == 0 or expected == 0:
        return _ratio_db(expected, found)
    estimate, reference = estimate / found, reference / expected
    size = 2 ** math.ceil(math.log2(len(reference) + taps))
    spectrum = torch.fft.rfft(reference, size)
    auto = torch.fft.irfft(spectrum.abs().square(), size)[:taps]
    cross = torch.fft.irfft(spectrum.conj() * torch.fft.rfft(estimate, size), size)[:taps]
    lags = torch.arange(taps, device=auto.device)
    toeplitz = auto[(lags[:, None] - lags).abs()]
    solution, failed = torch.linalg.solve_ex(toeplitz, cross)
    if failed or not torch.isfinite(solution).all():  # a reference of few frequencies has many best filters
        solution = torch.linalg.lstsq(toeplitz, cross[:, None], driver="gelsd").solution[:, 0]
    explained = (cross * solution).sum().clamp(0, 1)
    return _ratio_db(explained, 1 - explained)


def log_spectral_distance(
    *,
    estimate: Tensor,
    reference: Tensor,
    sample_rate: int,
    cutoff_hz: float = 0.0,
    bandwidth_hz: float = math.inf,
) -> Tensor:
    """Compute the log-spectral distance in dB above a frequency, such as a codec's cutoff.

    Root mean square of level differences over bins, mean over frames of 2,048 samples every 512. Levels are
    in dB relative to a full-scale sine, at least -100, so that it is defined for silence.

    Args:
        estimate: Restored audio.
        reference: Clean audio.
        sample_rate: Hz.
        cutoff_hz: Lowest frequency of the bins compared.
        bandwidth_hz: Highest frequency of the bins compared.

    Raises:
        ValueError: the shapes differ, there are no samples, one is not finite, or no bin is between cutoff_hz
            and bandwidth_hz.
    """
    estimate, reference = _prepared(estimate, reference, centred=False)
    bins = _select_bins(cutoff_hz, bandwidth_hz, sample_rate)
    levels = []
    for samples in (estimate, reference):
        padded = torch.nn.functional.pad(samples, (_WINDOW // 2, _WINDOW // 2))
        amplitudes = _amplitudes(padded)[:, bins]
        levels.append(20 * amplitudes.clamp_min(10 ** (_LSD_FLOOR_DB / 20)).log10())
    distance = (levels[0] - levels[1]).square().mean(1).sqrt().mean(-1)
    return distance.reshape(estimate.shape[:-1])


def _select_bins(low_hz: float, high_hz: float, sample_rate: int) -> slice:
    """Return the bins of `_amplitudes` from one frequency to another."""
    first = math.ceil(low_hz * _WINDOW / sample_rate)
    if not 0 <= first <= _WINDOW // 2:
        raise ValueError(f"cutoff_hz is {low_hz}: it must be between 0 and {sample_rate / 2:g}")
    end = math.floor(min(high_hz, sample_rate / 2) * _WINDOW / sample_rate) + 1
    if end <= first:
        raise ValueError(f"bandwidth_hz is {high_hz}: no bin is between cutoff_hz {low_hz} and it")
    return slice(first, end)


def _amplitudes(samples: Tensor) -> Tensor:
    """Compute the amplitudes [rows, bins, frames] of samples [..., samples]: 1 for a full-scale sine.

    Frames begin and end inside the samples, since zeros beyond the ends would make a click; samples shorter
    than a frame are padded.
    """
    rows = samples.reshape(-1, samples.shape[-1])
    rows = torch.nn.functional.pad(rows, (0, max(_WINDOW - rows.shape[-1], 0)))
    window = torch.hann_window(_WINDOW, dtype=rows.dtype, device=rows.device)
    spectrum = torch.stft(rows, _WINDOW, _WINDOW // 4, window=window, center=False, return_complex=True)
    return spectrum.abs() / (window.sum() / 2)


def flatness_difference(
    *,
    estimate: Tensor,
    reference: Tensor,
    sample_rate: int,
    cutoff_hz: float = 0.0,
    bandwidth_hz: float = math.inf,
) -> Tensor:
    """Compute by how much the estimate's spectrum is flatter than the reference's, in dB.

    Spectral flatness is the geometric over the arithmetic mean of the power of bins, here in bands of 1 kHz,
    so that it depends on tones and noise but not on the envelope: 0 dB for a click, -2.5 dB for white noise,
    far less for tones. Positive is noisier than the reference, 0 is best, negative more tonal.

    Mean over the bands in which the reference has at least -100 dBFS and the estimate is at most 20 dB below
    it; median over the frames of 2,048 samples every 512 in which these are at least half of the reference's
    bands: what is missing is neither noise nor tone.

    Args:
        estimate: Restored audio.
        reference: Clean audio.
        sample_rate: Hz.
        cutoff_hz: Lowest frequency of the bins compared.
        bandwidth_hz: Highest frequency of the bins compared.

    Returns:
        dB; NaN without such a frame.

    Raises:
        ValueError: the shapes differ, there are no samples, one is not finite, or no bin is between cutoff_hz
            and bandwidth_hz.
    """
    estimate, reference = _prepared(estimate, reference, centred=False)
    bins = _select_bins(cutoff_hz, bandwidth_hz, sample_rate)
    found, expected = (_power_by_band(_amplitudes(samples)[:, bins]) for samples in (estimate, reference))
    wanted = expected.sum(-1)
    audible = wanted >= _FLATNESS_LEVEL * _HANN_GAIN
    compared = audible & (found.sum(-1) >= _FLATNESS_SHARE * wanted)
    enough = 2 * compared.sum(1, keepdim=True) >= audible.sum(1, keepdim=True)
    difference = (_flatness_db(found) - _flatness_db(expected)).where(compared & enough, math.nan)
    return difference.nanmean(1).nanquantile(0.5, -1).reshape(estimate.shape[:-1])


def _power_by_band(amplitudes: Tensor) -> Tensor:
    """Return the power of bins [rows, bins, frames] in bands of equal width: [rows, bands, frames, bins]."""
    width = min(_FLATNESS_BINS, amplitudes.shape[1])
    return amplitudes.square().unfold(1, width, width)


def _flatness_db(power: Tensor) -> Tensor:
    """Return the spectral flatness in dB of the power of bins [..., bins]."""
    mean = power.mean(-1, keepdim=True)
    relative = power / mean.where(mean > 0, 1.0)
    return 10 * relative.clamp_min(_FLATNESS_FLOOR).log10().mean(-1)


def level_error(
    *,
    estimate: Tensor,
    reference: Tensor,
    sample_rate: int,
    bands_hz: Sequence[tuple[float, float]],
) -> Tensor:
    """Compute the error of the level in frequency bands, in dB.

    Mean absolute difference of the levels of frames of 2,048 samples every 512: noise that is too loud at one
    time and too quiet at another has an error. Levels are at least -90 dBFS, so that it is defined for
    silence.

    Args:
        estimate: Restored audio.
        reference: Clean audio.
        sample_rate: Hz.
        bands_hz: Lowest and highest frequency of each band.

    Returns:
        [..., bands], dB.

    Raises:
        ValueError: the shapes differ, there are no samples, one is not finite, or a band has no bin.
    """
    estimate, reference = _prepared(estimate, reference, centred=False)
    powers = [_amplitudes(samples).square() / _HANN_GAIN for samples in (estimate, reference)]
    errors = []
    for low_hz, high_hz in bands_hz:
        bins = _select_bins(low_hz, high_hz, sample_rate)
        found, expected = (10 * power[:, bins].sum(1).clamp_min(_LEVEL_FLOOR).log10() for power in powers)
        errors.append((found - expected).abs().mean(-1))
    return torch.stack(errors, -1).reshape(*estimate.shape[:-1], len(bands_hz))


def mid_side(samples: Tensor) -> Tensor:
    """Convert stereo [..., 2, samples] to mid and side, (left ± right) / 2.

    Raises:
        ValueError: there are not two channels.
    """
    if samples.dim() < 2 or samples.shape[-2] != 2:
        raise ValueError(f"mid and side require two channels, not shape {tuple(samples.shape)}")
    left, right = samples.unbind(-2)
    return torch.stack(((left + right) / 2, (left - right) / 2), -2)
