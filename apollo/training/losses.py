"""Training losses as pure functions of estimate and reference.

Source: Li and Luo (2024), section II-D, equations 4 to 9. Reconstruction and feature losses are relative, as
in the released code. Unlike it, ratios are taken per example, with a floored denominator, and averaged over
examples last: equal for one example, independent of how a batch is split, and finite for silence.

Loss names are the keys of the weight table. Losses beyond the paper have weight 0 by default: `g/waveform`
and `g/spectrum` preserve the phase in the band that the codec kept, `g/compressed` weighs quiet bins more.

Shape legend: estimate and reference [batch, channels, samples], float32, as tensors or `Spectra`; every loss
is a scalar.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from apollo.model.config import LOSS_WEIGHTS, GeneratorConfig
from apollo.training.discriminator import DiscriminatorOutput
from apollo.training.spectra import Spectra, as_spectra

Signal = Tensor | Spectra

SAMPLE_LOSSES = ("g/stft", "g/waveform", "g/spectrum", "g/compressed")  # they need no discriminator
WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)  # samples; the hop is half of each
FLOOR = 1e-5  # floor of mean magnitudes: about -100 dB
COMPRESSED_WINDOWS = (512, 2048)
_SPECTRUM_WINDOW = 2048
_POWER, _SOFT_FLOOR = 0.3, 1e-3


def _relative(difference: Tensor, reference: Tensor) -> Tensor:
    """Mean over examples of mean |difference| / mean |reference|."""
    scale = reference.abs().flatten(1).mean(1).clamp_min(FLOOR)
    return (difference.abs().flatten(1).mean(1) / scale).mean()


def magnitude_loss(*, estimate: Signal, reference: Signal, windows: Sequence[int] = WINDOWS) -> Tensor:
    """Compute the multi-resolution STFT magnitude loss: relative L1, averaged over windows (eq. 4)."""
    found, expected = as_spectra(estimate), as_spectra(reference)
    terms = []
    for window in windows:
        magnitude = expected[window].abs()
        terms.append(_relative(found[window].abs() - magnitude, magnitude))
    return torch.stack(terms).mean()


def compressed_loss(
    *, estimate: Signal, reference: Signal, windows: Sequence[int] = COMPRESSED_WINDOWS
) -> Tensor:
    """Compute the relative L1 of magnitudes to the power 0.3, averaged over windows.

    A bin 60 dB below the loudest ones counts an eighth of them instead of a thousandth, which penalizes an
    empty band above the codec's cutoff.
    """
    found, expected = as_spectra(estimate), as_spectra(reference)
    terms = []
    for window in windows:
        soft = _compress(expected[window])
        terms.append(_relative(_compress(found[window]) - soft, soft))
    return torch.stack(terms).mean()


def _compress(spectrum: Tensor) -> Tensor:
    """Return |spectrum|^0.3; the floor keeps the gradient finite at silence."""
    return (torch.view_as_real(spectrum).square().sum(-1) + _SOFT_FLOOR**2) ** (_POWER / 2)


def waveform_loss(*, estimate: Signal, reference: Signal) -> Tensor:
    """Compute the relative L1 of samples."""
    found, expected = as_spectra(estimate).samples, as_spectra(reference).samples
    return _relative(found - expected, expected)


def spectrum_loss(*, estimate: Signal, reference: Signal, cutoff_hz: float, sample_rate: int) -> Tensor:
    """Compute the relative L1 of complex spectra below a frequency.

    Args:
        estimate: Restored audio.
        reference: Clean audio.
        cutoff_hz: Highest frequency compared: the band that the codec kept.
        sample_rate: Hz.

    Raises:
        ValueError: cutoff_hz is not between 0 and half the sample rate.
    """
    if not 0 <= cutoff_hz <= sample_rate / 2:
        raise ValueError(f"cutoff_hz is {cutoff_hz}: it must be between 0 and {sample_rate / 2:g}")
    bins = int(cutoff_hz * _SPECTRUM_WINDOW / sample_rate) + 1
    expected = as_spectra(reference)[_SPECTRUM_WINDOW][..., :bins, :]
    return _relative(as_spectra(estimate)[_SPECTRUM_WINDOW][..., :bins, :] - expected, expected)


def wasserstein_loss(outputs: Sequence[DiscriminatorOutput]) -> Tensor:
    """Compute the negative mean of logits, averaged over windows: less for what is taken for real."""
    return -torch.stack([one.logits.float().mean() for one in outputs]).mean()


def adversarial_loss(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Compute the generator's least-squares adversarial loss (eq. 7), averaged over windows."""
    return torch.stack([(one.logits.float() - 1).square().mean() for one in fake]).mean()


def feature_loss(*, real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Compute the feature matching loss (eq. 8): relative L1, averaged over layers and windows.

    No gradient flows into the real features.
    """
    terms = [
        _relative(found.float() - expected.detach().float(), expected.detach().float())
        for one, other in zip(real, fake, strict=True)
        for expected, found in zip(one.features, other.features, strict=True)
    ]
    return torch.stack(terms).mean()


def discriminator_losses(
    *,
    real: Sequence[DiscriminatorOutput],
    fake: Sequence[DiscriminatorOutput],
    adversarial: str = "least_squares",
) -> dict[str, Tensor]:
    """Compute the discriminator's losses, averaged over windows.

    Args:
        real: Discriminator outputs for clean audio.
        fake: Discriminator outputs for restored audio, which the caller has detached from the generator.
        adversarial: `least_squares`, as published (eq. 9), or `wasserstein`.

    Returns:
        `d/real` and `d/fake`; their sum is the published loss.
    """
    if adversarial == "wasserstein":
        return {"d/real": wasserstein_loss(real), "d/fake": -wasserstein_loss(fake)}
    return {
        "d/real": adversarial_loss(real),
        "d/fake": torch.stack([one.logits.float().square().mean() for one in fake]).mean(),
    }


def generator_losses(
    *,
    estimate: Signal,
    reference: Signal,
    real: Sequence[DiscriminatorOutput] = (),
    fake: Sequence[DiscriminatorOutput] = (),
    weights: Mapping[str, float] = LOSS_WEIGHTS,
    adversarial: str = "least_squares",
    cutoff_hz: float = 16_000.0,
    sample_rate: int = GeneratorConfig.sample_rate,
) -> dict[str, Tensor]:
    """Compute the generator's losses on samples whose weight is not 0.

    Args:
        estimate: Restored audio.
        reference: Clean audio.
        real: Discriminator outputs for the reference; empty in a step without discriminator.
        fake: Discriminator outputs for the estimate, with its graph.
        weights: Weights by loss name.
        adversarial: See `discriminator_losses`.
        cutoff_hz: See `spectrum_loss`.
        sample_rate: Hz.

    Returns:
        Unweighted losses by name.
    """
    estimate, reference = as_spectra(estimate), as_spectra(reference)
    losses = {}
    if weights["g/stft"]:
        losses["g/stft"] = magnitude_loss(estimate=estimate, reference=reference)
    if real:
        losses["g/adversarial"] = (
            wasserstein_loss(fake) if adversarial == "wasserstein" else adversarial_loss(fake)
        )
        losses["g/feature"] = feature_loss(real=real, fake=fake)
    if weights["g/waveform"]:
        losses["g/waveform"] = waveform_loss(estimate=estimate, reference=reference)
    if weights["g/spectrum"]:
        losses["g/spectrum"] = spectrum_loss(
            estimate=estimate, reference=reference, cutoff_hz=cutoff_hz, sample_rate=sample_rate
        )
    if weights["g/compressed"]:
        losses["g/compressed"] = compressed_loss(estimate=estimate, reference=reference)
    return losses
