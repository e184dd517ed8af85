"""Spectra of an output and of the clean audio, relative to the level, for losses on spectra.

Notation: X degraded, C clean, D the deterministic part of the output, N the amplitude of its noise; A the
level, which is the mean power of a bin of X over the frames around a frame.

Shape legend: spectra [rows, frames, bins], complex64; powers the same shape, float32; rows are examples times
channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apollo.model.config import GeneratorConfig
from apollo.model.generator_state import OutputParts
from apollo.model.level import LEVEL_FRAMES, measure_power, moving_average
from apollo.training.spectra import EDGE_MARGIN_HZ

_QUIETEST = 1e-6  # of a level relative to the row's mean: frames of digital silence must not outweigh it
_LEVEL_FLOOR = 1e-12  # of the level: keeps silence from dividing by zero


@dataclass(frozen=True)
class SpectralPair:
    """Spectra of an output and of the clean audio, relative to the level; see the module.

    Args:
        degraded: X / sqrt(A).
        clean: C / sqrt(A).
        deterministic: D / sqrt(A).
        noise_power: N^2 / A; zeros where the output has no noise.
        mask: [rows, 1, bins]: 1 for bins that count, else 0. The other fields are 0 where it is.
        consistent: The spectrum of the samples that D makes, relative to the level; None if it is not needed.
    """

    degraded: Tensor
    clean: Tensor
    deterministic: Tensor
    noise_power: Tensor
    mask: Tensor
    consistent: Tensor | None = None

    @property
    def estimated_power(self) -> Tensor:
        """Expected power of the output (P)."""
        return power_of(self.deterministic) + self.noise_power

    @property
    def wanted_power(self) -> Tensor:
        """Power of the clean audio (Q)."""
        return power_of(self.clean)


def make_pair(
    parts: OutputParts,
    clean: Tensor,
    config: GeneratorConfig,
    bandwidth_hz: Tensor | None = None,
    consistent: Tensor | None = None,
) -> SpectralPair:
    """Divide spectra by the level and remove the bins that do not count.

    Args:
        parts: Output of the generator.
        clean: Spectrum of the clean audio.
        config: Shape of the generator.
        bandwidth_hz: [rows]: frequency up to which the clean audio is known; None for all.
        consistent: Spectrum of the samples that the deterministic part makes, if it is needed.
    """
    level, _ = moving_average(measure_power(parts.degraded, 1), None, lookahead=LEVEL_FRAMES, final=True)
    frequencies = torch.arange(config.bins, device=clean.device) * (
        config.sample_rate / config.window_samples
    )
    if bandwidth_hz is None:
        mask = torch.ones(1, 1, config.bins, device=clean.device)
    else:
        mask = (frequencies <= bandwidth_hz[:, None, None] - EDGE_MARGIN_HZ).float()
    floor = _QUIETEST * level.mean(1, keepdim=True) + _LEVEL_FLOOR
    scale = mask / (level + floor).sqrt()
    noise = torch.zeros_like(clean.real) if parts.amplitude is None else (parts.amplitude * scale).square()
    return SpectralPair(
        parts.degraded * scale,
        clean * scale,
        parts.deterministic * scale,
        noise,
        mask,
        None if consistent is None else consistent * scale,
    )


def power_of(spectrum: Tensor) -> Tensor:
    """Return |spectrum|^2."""
    return spectrum.real.square() + spectrum.imag.square()
