"""Training losses on compressed magnitudes and on phases.

Sources: the published description of MPASCNet (2026); for the phases Ai and Ling (2023), "Neural Speech Phase
Prediction based on Parallel Estimation Architecture and Anti-Wrapping Losses". Spectra are relative to the
level of the degraded signal, so all losses are independent of it.

Shape legend: estimate and reference [rows, frames, bins], complex64; mask [rows or 1, 1, bins], 1 for bins
that count, else 0. Every loss is a mean over what counts of a row, then over rows.
"""

import math

import torch
from torch import Tensor

from apollo.model.config import COMPRESSION
from apollo.model.outputs import POWER_FLOOR
from apollo.training.spectral_pair import power_of

_LEAST_POWER = 1e-16  # of a bin that has a phase, relative to the level: -160 dB


def compressed_magnitude_loss(*, estimate: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean squared difference of magnitudes to the power 0.3."""
    difference = _compression(estimate, COMPRESSION) - _compression(reference, COMPRESSION)
    return _mean_of_known(difference.square(), mask)


def compressed_complex_loss(*, estimate: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean squared difference of complex numbers whose magnitudes are to the power 0.3."""
    found, expected = (one * _compression(one, COMPRESSION - 1) for one in (estimate, reference))
    return _mean_of_known(power_of(found - expected), mask)


def phase_loss(*, estimate: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Compute the sum of the mean differences of phases, group delays and instantaneous frequencies.

    The last two are the differences of phases from bin to bin and from frame to frame. All are wrapped to at
    most half a turn, in radians.
    """
    difference = _phase(estimate) - _phase(reference)
    terms = (
        _mean_of_known(_wrap(difference), mask),
        _mean_of_known(_wrap(difference.diff(dim=2)), mask[..., 1:] * mask[..., :-1]),
        _mean_of_known(_wrap(difference.diff(dim=1)), mask),
    )
    return torch.stack(terms).sum()


def _compression(spectrum: Tensor, exponent: float) -> Tensor:
    """Return |spectrum|^exponent, floored."""
    return (power_of(spectrum) + POWER_FLOOR) ** (exponent / 2)


def _phase(spectrum: Tensor) -> Tensor:
    """Return the phases; where there is nothing 0, without a gradient, which would be infinite."""
    has_phase = power_of(spectrum) > _LEAST_POWER
    real, imaginary = torch.where(has_phase, spectrum.real, 1), torch.where(has_phase, spectrum.imag, 0)
    return torch.atan2(imaginary, real)


def _wrap(angle: Tensor) -> Tensor:
    """Return the distance of an angle from the next whole number of turns."""
    turn = 2 * math.pi
    return (angle - turn * (angle / turn).round()).abs()


def _mean_of_known(values: Tensor, mask: Tensor) -> Tensor:
    known = mask.expand(len(values), values.shape[1], -1)
    return ((values * known).sum((1, 2)) / known.sum((1, 2)).clamp_min(1.0)).mean()
