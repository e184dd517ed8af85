"""Trunks without parameters, to be compared with: nothing, and what a decoder could do by itself.

Shape legend: spectrum [batch, frames, bins], complex64; powers the same shape, float32.
"""

import torch
from torch import Tensor, nn

from apollo.model.config import GeneratorConfig
from apollo.model.level import LEVEL_FRAMES, AverageState, moving_average

EDGE_POWER = 1e-6  # of the mean power of a bin: the last bin above it is the highest that the codec kept
ROLL_OFF_DB = 18.0  # an octave above that bin, about that of music at 24 and 32 kbps (docs/model.md)
_LEAST_POWER = 1e-30  # keeps silence from dividing by zero


class IdentityTrunk(nn.Module):
    """Predict zeros: a correction that changes nothing.

    Args:
        config: Shape of the generator.
    """

    normalizes_level = has_noise = False
    lookahead_frames = past_frames = 0

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.features_per_frame = 2 * config.bins

    def initial_state(self, spectrum: Tensor) -> tuple[Tensor, ...]:
        """Return no state."""
        return ()

    def forward(
        self, spectrum: Tensor, state: tuple[Tensor, ...], **_: object
    ) -> tuple[Tensor, None, tuple[Tensor, ...]]:
        """Compute the next chunk of frames; see `Trunk`."""
        return torch.zeros_like(spectrum), None, state


class ReplicationTrunk(nn.Module):
    """Predict, as a correction, the empty band as copies of the band below it.

    The upper half of the band that the codec kept is divided by its own envelope, repeated upwards, and
    shaped by a fixed roll-off from the level of that half. Powers are averages over the frames around a
    frame.

    Args:
        config: Shape of the generator.
    """

    normalizes_level = has_noise = False
    past_frames = LEVEL_FRAMES

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.lookahead_frames = 0 if config.causal else LEVEL_FRAMES
        self.features_per_frame = (LEVEL_FRAMES + 1 + self.lookahead_frames) * config.bins

    def initial_state(self, spectrum: Tensor) -> tuple[Tensor, ...]:
        """Return the state before the first chunk: no frames that wait, no powers."""
        return spectrum[:, :0], spectrum.real[:, :0]

    def forward(
        self, spectrum: Tensor, state: tuple[Tensor, ...], *, final: bool, first_frame: int, **_: object
    ) -> tuple[Tensor, None, tuple[Tensor, ...]]:
        """Compute the next chunk of frames; see `Trunk`."""
        waiting, powers = state
        power = spectrum.real.square() + spectrum.imag.square()
        average, after = moving_average(
            power,
            AverageState(powers, first_frame - waiting.shape[1]),
            lookahead=self.lookahead_frames,
            final=final,
        )
        pending, frames = torch.cat((waiting, spectrum), 1), average.shape[1]
        return _replicate(pending[:, :frames], average), None, (pending[:, frames:], after.values)


def _replicate(spectrum: Tensor, average: Tensor) -> Tensor:
    """Return what is added above the last bin that the codec kept, from averages of the powers."""
    bins = torch.arange(spectrum.shape[-1], device=spectrum.device)
    kept = average > EDGE_POWER * average.mean(-1, keepdim=True)
    last = (kept * bins).amax(-1, keepdim=True).clamp_min(3)
    width = (last + 1) // 4 * 2  # even: from frame to frame, phases of odd shifts would change signs
    is_source = (bins > last - width) & (bins <= last)
    source = torch.where(bins > last, last - width + 1 + (bins - last - 1) % width, bins)
    level = (average * is_source).sum(-1, keepdim=True) / width
    envelope = average.gather(-1, source).clamp_min(_LEAST_POWER)
    octaves = (bins.clamp_min(1) / last).log2()
    gain = (level / envelope).sqrt() * 10 ** (-ROLL_OFF_DB / 20 * octaves)
    return torch.where(bins > last, spectrum.gather(-1, source) * gain, 0)
