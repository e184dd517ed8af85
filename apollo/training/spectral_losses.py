"""Training losses on the generator's own spectra, for outputs with noise.

Noise counts with its expected power, so nothing is synthesized and no random number is drawn. All losses are
relative to the signal, hence independent of its level, and means over rows, hence independent of how a batch
is split. Bins above the frequency up to which the clean audio is known count nothing.

Notation: X degraded, C clean, D the deterministic part of the output, N the amplitude of its noise; A the
level, which is the mean power of a bin of X over the frames around a frame. P = (|D|^2 + N^2) / A and
Q = |C|^2 / A are the expected and the wanted power.

Source: docs/compact.md.

Shape legend: spectra [rows, frames, bins], complex64; powers the same shape, float32; rows are examples times
channels. Every loss is a scalar.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from apollo.model.config import GeneratorConfig
from apollo.training import phase_losses
from apollo.training.spectral_pair import SpectralPair, power_of

SPECTRAL_LOSSES = (
    "g/envelope",
    "g/nsim",
    "g/transients",
    "g/tones",
    "g/complex",
    "g/error",
    "g/noise_error",
    "g/magnitude",
    "g/phase",
    "g/compressed_complex",
    "g/consistency",
)
FLOOR = 1e-8  # of a bin's power relative to the level: -80 dB
_LEAST_MAGNITUDE = 1e-3  # of the mean magnitude of a clean bin relative to the level
ENVELOPE_RANGE = 1e-9  # of the frame's strongest band: 90 dB below it, all is equally silent, as in ViSQOL
ENVELOPE_FRAMES, ENVELOPE_HOP = 8, 2
MIN_BAND_HZ = 100.0
NSIM_FLOOR = 1e-7  # of a band's power relative to that of all bins: -70 dB
NSIM_INTENSITY = 1e-4  # as in ViSQOL
NSIM_STRUCTURE = 0.02  # ViSQOL's 4.5e-4 has steep gradients where both are almost flat
_LEAST_VARIANCE = 1e-3  # of a neurogram, in dB^2: keeps the gradient of the root finite
_NSIM_WINDOW = (0.0838251475442633, 0.619485845753726)  # ViSQOL's 3 x 3 window: beside the centre, and there
TRANSIENT_POOL, TONE_POOL = (2, 20), (6, 4)  # frames, bins


def check_weights(weights: Mapping[str, float], config: GeneratorConfig) -> None:
    """Check that a generator has what the losses with weight compare.

    Raises:
        ValueError: a loss is of noise, and the output has none.
    """
    if weights["g/noise_error"] and config.output != "mask_and_noise":
        raise ValueError(
            f"g/noise_error is a loss of noise, and output {config.output!r} has none: leave its weight at 0"
        )


def spectral_losses(
    pair: SpectralPair, weights: Mapping[str, float], config: GeneratorConfig
) -> dict[str, Tensor]:
    """Compute the losses of this module whose weight is not 0; unweighted, by name."""
    losses: dict[str, Callable[[SpectralPair], Tensor]] = {
        "g/envelope": partial(envelope_loss, config=config),
        "g/nsim": partial(nsim_loss, config=config),
        "g/transients": partial(pooled_power_loss, pool=TRANSIENT_POOL),
        "g/tones": partial(pooled_power_loss, pool=TONE_POOL),
        "g/complex": complex_loss,
        "g/error": error_loss,
        "g/noise_error": noise_error_loss,
        "g/magnitude": partial(_compare, phase_losses.compressed_magnitude_loss),
        "g/phase": partial(_compare, phase_losses.phase_loss),
        "g/compressed_complex": partial(_compare, phase_losses.compressed_complex_loss),
        "g/consistency": consistency_loss,
    }
    return {name: compute(pair) for name, compute in losses.items() if weights[name]}


def _compare(loss: Callable[..., Tensor], pair: SpectralPair) -> Tensor:
    return loss(estimate=pair.deterministic, reference=pair.clean, mask=pair.mask)


def consistency_loss(pair: SpectralPair) -> Tensor:
    """Compute the compressed difference of D and the spectrum of the samples that it makes."""
    if pair.consistent is None:
        raise ValueError("the spectrum of the output's samples was not computed")
    return phase_losses.compressed_complex_loss(
        estimate=pair.deterministic, reference=pair.consistent, mask=pair.mask
    )


def envelope_loss(pair: SpectralPair, config: GeneratorConfig) -> Tensor:
    """Compute the mean difference of log10 of powers in bands of the ear's resolution, over 8 frames."""
    bands = _band_matrix(config.bins, config.sample_rate / config.window_samples).to(pair.mask)
    estimated, wanted = (_envelope(power, bands) for power in (pair.estimated_power, pair.wanted_power))
    floor = wanted.amax(1, keepdim=True) * ENVELOPE_RANGE + FLOOR
    difference = ((estimated + floor).log10() - (wanted + floor).log10()).abs().mean(2)
    return _mean_of_known_bands(difference, pair, bands)


def nsim_loss(pair: SpectralPair, config: GeneratorConfig) -> Tensor:
    """Compute 1 - NSIM of neurograms: levels in decibels of the bands of `envelope_loss`, above a floor.

    ViSQOL compares them by it, its "decibels" being 10 log10 of an amplitude.
    """
    bands = _band_matrix(config.bins, config.sample_rate / config.window_samples).to(pair.mask)
    widths = (bands > 0).sum(0)[:, None]
    floor = NSIM_FLOOR * config.bins
    estimated, wanted = (
        5.0 * (1.0 + _envelope(power, bands) * widths / floor).log10()
        for power in (pair.estimated_power, pair.wanted_power)
    )
    return _mean_of_known_bands(1.0 - nsim(estimated, wanted).mean(2), pair, bands)


def nsim(estimated: Tensor, wanted: Tensor) -> Tensor:
    """Compute the similarity of neurograms (NSIM; Hines and Harte, 2012) at every point.

    It is the product of closeness (intensity) and correlation (structure) of the 3 x 3 points around it.

    Args:
        estimated: [rows, bands, frames], decibels above the floor.
        wanted: The same shape.

    Returns:
        The same shape; 1 where they are equal.
    """
    centre = wanted.mean((1, 2), keepdim=True)  # variances do not depend on it, but their rounding does
    estimated, wanted = estimated - centre, wanted - centre
    mean, mean_wanted = _smooth_3x3(estimated), _smooth_3x3(wanted)
    variance = _smooth_3x3(estimated.square()) - mean.square()
    variance_wanted = _smooth_3x3(wanted.square()) - mean_wanted.square()
    covariance = _smooth_3x3(estimated * wanted) - mean * mean_wanted
    mean, mean_wanted = mean + centre, mean_wanted + centre
    intensity = (2 * mean * mean_wanted + NSIM_INTENSITY) / (
        mean.square() + mean_wanted.square() + NSIM_INTENSITY
    )
    deviations = (variance.clamp_min(0) + _LEAST_VARIANCE) * (variance_wanted.clamp_min(0) + _LEAST_VARIANCE)
    structure = (covariance + _LEAST_VARIANCE + NSIM_STRUCTURE) / (deviations.sqrt() + NSIM_STRUCTURE)
    return intensity * structure


def _envelope(power: Tensor, bands: Tensor) -> Tensor:
    """Average powers over bands and frames to [rows, bands, frames]."""
    return F.avg_pool1d((power @ bands).transpose(1, 2), min(ENVELOPE_FRAMES, power.shape[1]), ENVELOPE_HOP)


def _mean_of_known_bands(values: Tensor, pair: SpectralPair, bands: Tensor) -> Tensor:
    """Average [rows, bands] over bands that are mostly known, then over rows."""
    known = (pair.mask @ bands > 0.5).float()[:, 0]  # [rows or 1, bands]
    return ((values * known).sum(1) / known.sum(1).clamp_min(1.0)).mean()


def _smooth_3x3(values: Tensor) -> Tensor:
    """Average [rows, bands, frames] with the window of NSIM; the edges are repeated."""
    beside, centre = _NSIM_WINDOW
    padded = F.pad(values[:, None], (1, 1, 1, 1), mode="replicate")
    corner = (1.0 - centre - 4 * beside) / 4
    window = values.new_tensor([[corner, beside, corner], [beside, centre, beside], [corner, beside, corner]])
    return F.conv2d(padded, window[None, None])[:, 0]


def pooled_power_loss(pair: SpectralPair, pool: tuple[int, int]) -> Tensor:
    """Compute the difference of the 8th roots of powers pooled over (frames, bins), relative to the wanted.

    Pooling makes the energy right: compared bin by bin, noise against noise, the best gain is too low.
    """
    frames, bins = pair.clean.shape[1:]
    pool = (min(pool[0], frames), min(pool[1], bins))
    estimated, wanted = (
        eighth_root(F.avg_pool2d(power[:, None], pool)) for power in (pair.estimated_power, pair.wanted_power)
    )
    known = (F.avg_pool2d(pair.mask[:, None], (1, pool[1])) > 0.5).float()  # pools that are mostly known
    difference = ((estimated - wanted).abs() * known).sum((1, 2, 3))
    return (difference / (wanted * known).sum((1, 2, 3)).clamp_min(FLOOR)).mean()


def eighth_root(power: Tensor) -> Tensor:
    """Return power^(1/8), floored; three square roots cost a tenth of `pow` on a CPU."""
    return (power + FLOOR).sqrt().sqrt().sqrt()


def complex_loss(pair: SpectralPair) -> Tensor:
    """Compute the difference of complex spectra, each bin divided by the 4th root of its power; relative."""
    with torch.no_grad():
        wanted = power_of(pair.clean)
        weight = ((power_of(pair.deterministic) + wanted) / 2 + FLOOR).sqrt().sqrt().reciprocal()
        scale = (wanted.sqrt() * weight).mean((1, 2)) + _LEAST_MAGNITUDE
    difference = (power_of(pair.deterministic - pair.clean) + FLOOR**2).sqrt()
    return ((difference * weight).mean((1, 2)) / scale).mean()


def error_loss(pair: SpectralPair) -> Tensor:
    """Compute the log of the deterministic part's error relative to the input's, averaged over rows."""
    error = power_of(pair.deterministic - pair.clean).sum((1, 2))
    floor, before = _input_error(pair)
    return ((error + floor) / before).log().mean()


def noise_error_loss(pair: SpectralPair) -> Tensor:
    """Compute relu(log(error of the whole output / error of the input)), averaged over rows.

    Only the noise's gains get gradients; 0 where the output's error does not exceed the input's.
    """
    error = power_of(pair.deterministic - pair.clean).sum((1, 2)).detach() + pair.noise_power.sum((1, 2))
    floor, before = _input_error(pair)
    return ((error + floor) / before).log().relu().mean()


def _input_error(pair: SpectralPair) -> tuple[Tensor, Tensor]:
    """Return a floor 60 dB below each row's clean energy, and the error of the input above it."""
    floor = 1e-6 * power_of(pair.clean).sum((1, 2)) + FLOOR
    return floor, power_of(pair.degraded - pair.clean).sum((1, 2)) + floor


@lru_cache(4)
def _band_matrix(bins: int, bin_hz: float) -> Tensor:
    """Return [bins, bands] that averages bins over bands of one ERB (Glasberg and Moore, 1990)."""
    with torch.inference_mode(False):  # the cached tensor must be usable in training
        return _make_band_matrix(bins, bin_hz)


def _make_band_matrix(bins: int, bin_hz: float) -> Tensor:
    edges = [0.0]
    while edges[-1] < bins * bin_hz:
        edges.append(edges[-1] + max(24.7 * (4.37e-3 * edges[-1] + 1.0), MIN_BAND_HZ))
    centres = torch.arange(bins) * bin_hz
    rows = [(centres >= low) & (centres < high) for low, high in pairwise(edges)]
    members = torch.stack([row.float() for row in rows if row.any()], 1)
    return members / members.sum(0)
