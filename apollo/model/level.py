"""The level of a signal around each frame: a moving average of power that carries state between chunks.

Shape legend: spectrum [batch, frames, bins]; values [batch, frames, quantities].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEVEL_FRAMES = 21  # frames to either side in the average: 0.2 s
LEVEL_FLOOR = 1e-20  # of the mean power of a bin: keeps silence from dividing by zero


@dataclass(frozen=True)
class AverageState:
    """Moving-average state carried between chunks.

    Args:
        values: The last values, from `LEVEL_FRAMES` before the next frame to average on.
        frames: Frames averaged so far.
    """

    values: Tensor
    frames: int


def moving_average(
    values: Tensor, state: AverageState | None, *, lookahead: int, final: bool
) -> tuple[Tensor, AverageState]:
    """Average values over the frames around each frame that exist.

    Args:
        values: [batch, frames, quantities], the next frames; frames may be 0.
        state: What the last chunk returned; None before the first.
        lookahead: Frames after a frame in its average: LEVEL_FRAMES, or 0 for causal ones.
        final: Whether no frames follow, so that frames near the end average over fewer.

    Returns:
        Averages [batch, frames out, quantities] and the next state. Without `final` there are up to
        `lookahead` fewer frames in all than came in.
    """
    done = 0 if state is None else state.frames
    if state is not None:
        values = torch.cat((state.values, values), 1)
    before = min(done, LEVEL_FRAMES)  # kept frames that precede the next one
    frames = values.shape[1] - before - (0 if final else lookahead)
    if frames <= 0:
        return values[:, :0], AverageState(values, done)
    ones, window = values.new_ones(1, values.shape[1], 1), LEVEL_FRAMES + 1 + lookahead
    padding = (0, 0, LEVEL_FRAMES - before, lookahead if final else 0)
    sums, counts = (_windowed_sums(F.pad(one, padding), window)[:, :frames] for one in (values, ones))
    kept = max(before + frames - LEVEL_FRAMES, 0)
    return sums / counts, AverageState(values[:, kept:].clone(), done + frames)


def _windowed_sums(values: Tensor, window: int) -> Tensor:
    """Sum [batch, frames, quantities] over every window of frames, each in the same order."""
    return values.unfold(1, window, 1).sum(-1)


def measure_power(spectrum: Tensor, channels: int) -> Tensor:
    """Measure frames: mean power of a bin; for two channels, power of both and of the side.

    Returns:
        [batch, frames, 1 or 3]. Powers of mid and side are weighted with the square of the frequency, because
        noise replaces highs.
    """
    power = (spectrum.real.square() + spectrum.imag.square()).mean(-1, keepdim=True)
    if channels != 2:
        return power
    weights = torch.linspace(0.0, 1.0, spectrum.shape[-1], dtype=power.dtype, device=power.device).square()
    left, right = spectrum[0::2], spectrum[1::2]
    mid, side = (
        ((one.real.square() + one.imag.square()) * weights).mean(-1, keepdim=True)
        for one in (left + right, left - right)
    )
    both = torch.cat((mid + side, side), -1).repeat_interleave(2, 0)
    return torch.cat((power, both), -1)
