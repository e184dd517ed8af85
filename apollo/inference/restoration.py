"""Restore audio of any length with bounded memory: in chunks, with the result of a single pass.

Chunks neither overlap nor are cross-faded: the state of the time convolutions is carried from chunk to chunk
(`Generator.step`), so the result equals one pass over the whole audio to float rounding.
"""

import math

import torch
from torch import Tensor

from apollo.inference.streaming import StreamRestorer
from apollo.model.generator import Generator, num_channels
from apollo.model.noise import NoiseOptions

CHUNK_SECONDS = 10.0


def receptive_field_frames(generator: Generator) -> tuple[int, int]:
    """Return the number of frames before and after a frame that it depends on."""
    return generator.past_frames, generator.lookahead_frames


def receptive_field_samples(generator: Generator) -> tuple[int, int]:
    """Return the number of samples before and after a sample that it depends on.

    A sample lies in two frames of a window each. A periodic Hann window begins with a zero, so a window
    extends one sample less than a hop to either side.
    """
    hop = generator.config.hop_samples
    past, future = receptive_field_frames(generator)
    return past * hop + 2 * (hop - 1), future * hop + 2 * (hop - 1)


@torch.no_grad()
def restore(
    generator: Generator,
    degraded: Tensor,
    *,
    chunk_seconds: float = CHUNK_SECONDS,
    strength: float | None = None,
    seed: int = 0,
    keep_below_hz: float | None = None,
) -> Tensor:
    """Restore audio of any length.

    Args:
        generator: Network in float32, or from `Generator.with_precision`, on any device.
        degraded: [..., channels, samples] or [samples], at the generator's sample rate.
        chunk_seconds: Seconds per chunk. Affects memory, not the result.
        strength: Strength of the noise that replaces what the codec removed, 0 to 1.5; None takes the
            generator's default. Generators without noise ignore it.
        seed: Seed of the noise; the same seed gives the same result.
        keep_below_hz: Frequency below which the input is kept and above which it is restored; None restores
            all of it.

    Returns:
        Restored audio of the same shape, dtype, device and level.

    Raises:
        ValueError: there are no samples, samples are non-finite or not floating-point, chunk_seconds is not
            positive, or keep_below_hz is not between 0 and half the sample rate.
    """
    if not degraded.dim() or not degraded.numel():
        raise ValueError(f"nothing to restore: the shape is {tuple(degraded.shape)}")
    if not 0 < chunk_seconds < math.inf:
        raise ValueError(f"chunk_seconds is {chunk_seconds}: it must be positive and finite")
    if not degraded.is_floating_point():
        raise ValueError(f"the audio is {degraded.dtype}: convert it to floating point with full scale 1")
    if not bool(torch.isfinite(degraded).all()):
        raise ValueError("the audio holds non-finite samples (NaN or infinity)")
    if strength is not None and not 0 <= strength < math.inf:
        raise ValueError(f"strength is {strength}: it must be 0 or more")
    rows = degraded.reshape(-1, degraded.shape[-1])
    noise = NoiseOptions(strength=strength, seed=seed, channels=num_channels(degraded))
    restorer = StreamRestorer(generator, noise, keep_below_hz=keep_below_hz)
    state = restorer.start(len(rows))
    restored, written = torch.empty_like(rows), 0
    for chunk in rows.split(max(int(chunk_seconds * generator.config.sample_rate), 1), 1):
        part, state = restorer.push(state, chunk)
        restored[:, written : written + part.shape[1]] = part
        written += part.shape[1]
    restored[:, written:] = restorer.finish(state)
    return restored.reshape(degraded.shape)
