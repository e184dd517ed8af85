"""The losses of the paper as pure functions that return named parts.

Source: Li and Luo (2024), section II-D, equations 4 to 9. Reconstruction and feature matching are relative,
as in the released code. Differs from it by taking every ratio per example with a floored denominator, and the
mean over examples last: equal at one example, independent of how a batch is cut over devices, and never NaN
for silence.

The parts' names are the keys of the weight table. Terms beyond the paper, of weight 0 by default:
`g/waveform` and `g/spectrum`, which hold the phase inside the band that the codec kept.

Shape legend: estimate and reference [batch, channels, samples], float32; every loss is a scalar.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from apollo.config import GeneratorConfig
from apollo.discriminator import Judgement

WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)  # samples; the hop is half of each
WEIGHTS = {  # the paper's, and 0 for what it does not have
    "g/stft": 1.0,
    "g/adversarial": 1.0,
    "g/feature": 1.0,
    "g/waveform": 0.0,
    "g/spectrum": 0.0,
    "d/real": 1.0,
    "d/fake": 1.0,
}
FLOOR = 1e-5  # of mean magnitudes: about -100 dB
_SPECTRUM_WINDOW = 2048


def _spectrum(samples: Tensor, window_samples: int) -> Tensor:
    """Transform [batch, channels, samples] to [batch, channels, bins, frames], complex."""
    window = torch.hann_window(window_samples, dtype=samples.dtype, device=samples.device)
    rows = samples.reshape(-1, samples.shape[-1])
    spectrum = torch.stft(rows, window_samples, window_samples // 2, window=window, return_complex=True)
    return spectrum.reshape(*samples.shape[:2], *spectrum.shape[1:])


def _relative(difference: Tensor, reference: Tensor) -> Tensor:
    """Mean over examples of mean |difference| / mean |reference|."""
    scale = reference.abs().flatten(1).mean(1).clamp_min(FLOOR)
    return (difference.abs().flatten(1).mean(1) / scale).mean()


def magnitude_loss(*, estimate: Tensor, reference: Tensor, windows: Sequence[int] = WINDOWS) -> Tensor:
    """Compare magnitudes at several resolutions: relative mean absolute error, averaged over windows (eq.
    4).
    """
    terms = []
    for window in windows:
        expected = _spectrum(reference, window).abs()
        terms.append(_relative(_spectrum(estimate, window).abs() - expected, expected))
    return torch.stack(terms).mean()


def waveform_loss(*, estimate: Tensor, reference: Tensor) -> Tensor:
    """Compare samples: relative mean absolute error."""
    return _relative(estimate - reference, reference)


def spectrum_loss(*, estimate: Tensor, reference: Tensor, cutoff_hz: float, sample_rate: int) -> Tensor:
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
    expected = _spectrum(reference, _SPECTRUM_WINDOW)[..., :bins, :]
    return _relative(_spectrum(estimate, _SPECTRUM_WINDOW)[..., :bins, :] - expected, expected)


def adversarial_loss(fake: Sequence[Judgement]) -> Tensor:
    """Ask the generator to be judged real: least squares (eq. 7), averaged over windows."""
    return torch.stack([F.mse_loss(one.logits, torch.ones_like(one.logits)) for one in fake]).mean()


def feature_loss(*, real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """Match features (eq. 8): relative to each layer's own level, averaged over layers and windows.

    No gradient flows into the real side.
    """
    terms = [
        _relative(found - expected.detach(), expected.detach())
        for one, other in zip(real, fake, strict=True)
        for expected, found in zip(one.features, other.features, strict=True)
    ]
    return torch.stack(terms).mean()


def discriminator_losses(*, real: Sequence[Judgement], fake: Sequence[Judgement]) -> dict[str, Tensor]:
    """Ask the discriminator to tell them apart: least squares (eq. 9), averaged over windows.

    Args:
        real: Judgements of clean audio.
        fake: Judgements of restored audio, which the caller has detached from the generator.

    Returns:
        `d/real` and `d/fake`; their sum is the published loss.
    """
    return {
        "d/real": adversarial_loss(real),
        "d/fake": torch.stack([one.logits.square().mean() for one in fake]).mean(),
    }


def generator_losses(
    *,
    estimate: Tensor,
    reference: Tensor,
    real: Sequence[Judgement],
    fake: Sequence[Judgement],
    weights: Mapping[str, float] = WEIGHTS,
    cutoff_hz: float = 16_000.0,
    sample_rate: int = GeneratorConfig.sample_rate,
) -> dict[str, Tensor]:
    """Give the published losses, whose sum is the published loss, and what else has a weight.

    Args:
        estimate: Restored audio.
        reference: Clean audio.
        real: Judgements of the reference.
        fake: Judgements of the estimate, with its graph.
        weights: Of the losses by name; `g/waveform` and `g/spectrum` are computed where theirs is not 0.
        cutoff_hz: Of `g/spectrum`.
        sample_rate: Hz.

    Returns:
        The losses by name, before their weights.
    """
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
    return losses
