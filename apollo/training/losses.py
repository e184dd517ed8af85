"""The losses of the paper as pure functions that return named parts.

Source: Li and Luo (2024), section II-D, equations 4 to 9. Reconstruction and feature matching are relative,
as in the released code. Differs from it by taking every ratio per example with a floored denominator, and the
mean over examples last: equal at one example, independent of how a batch is cut over devices, and never NaN
for silence.

The parts' names are the keys of the weight table. Terms beyond the paper, of weight 0 by default:
`g/waveform` and `g/spectrum`, which hold the phase inside the band that the codec kept, and `g/compressed`,
which hears what is soft.

Shape legend: estimate and reference [batch, channels, samples], float32, as they are or with their spectra;
every loss is a scalar.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from apollo.model.config import LOSS_WEIGHTS, GeneratorConfig
from apollo.training.discriminator import DiscriminatorOutput
from apollo.training.spectra import Spectra, as_spectra

Signal = Tensor | Spectra

WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)  # samples; the hop is half of each
FLOOR = 1e-5  # of mean magnitudes: about -100 dB
COMPRESSED_WINDOWS = (512, 2048)
_SPECTRUM_WINDOW = 2048
_POWER, _SOFT_FLOOR = 0.3, 1e-3


def _relative(difference: Tensor, reference: Tensor) -> Tensor:
    """Mean over examples of mean |difference| / mean |reference|."""
    scale = reference.abs().flatten(1).mean(1).clamp_min(FLOOR)
    return (difference.abs().flatten(1).mean(1) / scale).mean()


def magnitude_loss(*, estimate: Signal, reference: Signal, windows: Sequence[int] = WINDOWS) -> Tensor:
    """Compare magnitudes at several resolutions: relative mean absolute error, averaged (eq. 4)."""
    found, expected = as_spectra(estimate), as_spectra(reference)
    terms = []
    for window in windows:
        magnitude = expected[window].abs()
        terms.append(_relative(found[window].abs() - magnitude, magnitude))
    return torch.stack(terms).mean()


def compressed_loss(
    *, estimate: Signal, reference: Signal, windows: Sequence[int] = COMPRESSED_WINDOWS
) -> Tensor:
    """Compare magnitudes to the power 0.3: relative mean absolute error, averaged over windows.

    What lies 60 dB below the loudest bins counts an eighth of them instead of a thousandth, so that an empty
    band above the cut-off costs something.
    """
    found, expected = as_spectra(estimate), as_spectra(reference)
    terms = []
    for window in windows:
        soft = _compress(expected[window])
        terms.append(_relative(_compress(found[window]) - soft, soft))
    return torch.stack(terms).mean()


def _compress(spectrum: Tensor) -> Tensor:
    """Give |spectrum|^0.3; the floor keeps the gradient finite at silence."""
    return (torch.view_as_real(spectrum).square().sum(-1) + _SOFT_FLOOR**2) ** (_POWER / 2)


def waveform_loss(*, estimate: Signal, reference: Signal) -> Tensor:
    """Compare samples: relative mean absolute error."""
    found, expected = as_spectra(estimate).samples, as_spectra(reference).samples
    return _relative(found - expected, expected)


def spectrum_loss(*, estimate: Signal, reference: Signal, cutoff_hz: float, sample_rate: int) -> Tensor:
    """Compare complex spectra below a frequency: relative mean absolute error.

    Args:
        estimate: Restored audio.
        reference: Clean audio.
        cutoff_hz: Bins up to this frequency count, the band that a codec kept.
        sample_rate: Hz.

    Raises:
        ValueError: cutoff_hz is not between 0 and half the sample rate.
    """
    if not 0 <= cutoff_hz <= sample_rate / 2:
        raise ValueError(f"cutoff_hz is {cutoff_hz}: it must be between 0 and {sample_rate / 2:g}")
    bins = int(cutoff_hz * _SPECTRUM_WINDOW / sample_rate) + 1
    expected = as_spectra(reference)[_SPECTRUM_WINDOW][..., :bins, :]
    return _relative(as_spectra(estimate)[_SPECTRUM_WINDOW][..., :bins, :] - expected, expected)


def adversarial_loss(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Ask the generator to be judged real: least squares (eq. 7), averaged over windows."""
    return torch.stack([(one.logits.float() - 1).square().mean() for one in fake]).mean()


def feature_loss(*, real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Match features (eq. 8): relative to each layer's own level, averaged over layers and windows.

    No gradient flows into the real side.
    """
    terms = [
        _relative(found.float() - expected.detach().float(), expected.detach().float())
        for one, other in zip(real, fake, strict=True)
        for expected, found in zip(one.features, other.features, strict=True)
    ]
    return torch.stack(terms).mean()


def discriminator_losses(
    *, real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]
) -> dict[str, Tensor]:
    """Ask the discriminator to tell them apart: least squares (eq. 9), averaged over windows.

    Args:
        real: Discriminator outputs for clean audio.
        fake: Discriminator outputs for restored audio, which the caller has detached from the generator.

    Returns:
        `d/real` and `d/fake`; their sum is the published loss.
    """
    return {
        "d/real": adversarial_loss(real),
        "d/fake": torch.stack([one.logits.float().square().mean() for one in fake]).mean(),
    }


def generator_losses(
    *,
    estimate: Signal,
    reference: Signal,
    real: Sequence[DiscriminatorOutput],
    fake: Sequence[DiscriminatorOutput],
    weights: Mapping[str, float] = LOSS_WEIGHTS,
    cutoff_hz: float = 16_000.0,
    sample_rate: int = GeneratorConfig.sample_rate,
) -> dict[str, Tensor]:
    """Give the published losses, whose sum is the published loss, and what else has a weight.

    Args:
        estimate: Restored audio.
        reference: Clean audio.
        real: Discriminator outputs for the reference.
        fake: Discriminator outputs for the estimate, with its graph.
        weights: Of the losses by name; those beyond the paper's are computed where theirs is not 0.
        cutoff_hz: Of `g/spectrum`.
        sample_rate: Hz.

    Returns:
        The losses by name, before their weights.
    """
    estimate, reference = as_spectra(estimate), as_spectra(reference)
    losses = {
        "g/stft": magnitude_loss(estimate=estimate, reference=reference),
        "g/adversarial": adversarial_loss(fake),
        "g/feature": feature_loss(real=real, fake=fake),
    }
    if weights["g/waveform"]:
        losses["g/waveform"] = waveform_loss(estimate=estimate, reference=reference)
    if weights["g/spectrum"]:
        losses["g/spectrum"] = spectrum_loss(
            estimate=estimate, reference=reference, cutoff_hz=cutoff_hz, sample_rate=sample_rate
        )
    if weights["g/compressed"]:
        losses["g/compressed"] = compressed_loss(estimate=estimate, reference=reference)
    return losses
