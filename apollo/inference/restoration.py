"""Restoring audio of any length at bounded memory: in chunks, with the result of the whole.

Chunks do not overlap and are not cross-faded. What a chunk's frames leave in the time convolutions is carried
to the next one (`Generator.step`), so the result is that of one pass over everything, to float rounding, and
no frame is computed twice.
"""

import math

import torch
from torch import Tensor

from apollo.inference.streaming import StreamRestorer
from apollo.model.generator import Generator

CHUNK_SECONDS = 10.0


def receptive_field_frames(generator: Generator) -> tuple[int, int]:
    """Give how many frames before and after a frame can change it."""
    return generator.past_frames, generator.lookahead_frames


def receptive_field_samples(generator: Generator) -> tuple[int, int]:
    """Give how many samples before and after a sample can change it.

    A sample lies in two frames, each of which sees a window; a periodic Hann window begins with a zero, so
    that a window's reach is a sample less than a hop to either side.
    """
    hop = generator.config.hop_samples
    past, future = receptive_field_frames(generator)
    return past * hop + 2 * (hop - 1), future * hop + 2 * (hop - 1)


@torch.no_grad()
def restore(generator: Generator, degraded: Tensor, *, chunk_seconds: float = CHUNK_SECONDS) -> Tensor:
    """Restore audio of any length.

    Args:
        generator: In float32, or as `Generator.with_precision` gives it, on any device.
        degraded: [..., samples], at the generator's sample rate; channels are restored independently.
        chunk_seconds: How much is computed at a time. Memory grows with it; the result does not depend on it.

    Returns:
        The same shape, dtype and device, on the scale of the input.

    Raises:
        ValueError: there are no samples, a sample is not finite or no floating-point number, or chunk_seconds
            is not positive.
    """
    if not degraded.dim() or not degraded.numel():
        raise ValueError(f"nothing to restore: the shape is {tuple(degraded.shape)}")
    if not 0 < chunk_seconds < math.inf:
        raise ValueError(f"chunk_seconds is {chunk_seconds}: it must be positive and finite")
    if not degraded.is_floating_point():
        raise ValueError(f"the audio is {degraded.dtype}: convert it to floating point, full scale being 1")
    if not bool(torch.isfinite(degraded).all()):
        raise ValueError("the audio holds samples that are no numbers (NaN or infinite)")
    rows = degraded.reshape(-1, degraded.shape[-1])
    restorer = StreamRestorer(generator)
    state = restorer.start(len(rows))
    restored, given = torch.empty_like(rows), 0
    for chunk in rows.split(max(int(chunk_seconds * generator.config.sample_rate), 1), 1):
        part, state = restorer.push(state, chunk)
        restored[:, given : given + part.shape[1]] = part
        given += part.shape[1]
    restored[:, given:] = restorer.finish(state)
    return restored.reshape(degraded.shape)
