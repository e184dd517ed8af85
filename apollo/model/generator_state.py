"""State of the generator between chunks, and the parts of its output.

Shape legend: [batch, frames, bins], complex64 or float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apollo.model.level import AverageState


@dataclass(frozen=True)
class GeneratorState:
    """State carried from one chunk of frames to the next.

    Args:
        trunk: The last inputs of every convolution.
        frames_without_output: Input frames whose output is still to come, [batch, frames, bins].
        level_and_side: Their level and, for left and right, the side's share of power: [batch, frames, 1 or
            2].
        frames_without_level: Input frames whose level is still to come, [batch, frames, bins].
        average: State of the level.
        frames: Frames returned so far.
    """

    trunk: tuple[Tensor, ...]
    frames_without_output: Tensor
    level_and_side: Tensor
    frames_without_level: Tensor
    average: AverageState | None = None
    frames: int = 0


@dataclass(frozen=True)
class OutputParts:
    """What an output is made of; each [batch, frames, bins].

    Args:
        degraded: Spectrum of the input, complex.
        deterministic: Spectrum of the output without noise, complex.
        amplitude: Amplitude of the noise at strength 1; None where the output has no noise.
        side_shares: Share of the side in left and right, [batch, frames, 0 or 1].
        shape: Shape of the samples.
    """

    degraded: Tensor
    deterministic: Tensor
    amplitude: Tensor | None
    side_shares: Tensor
    shape: torch.Size
