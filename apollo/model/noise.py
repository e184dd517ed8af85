"""Noise as a function of seed, channel and sample position, whatever the machine and the chunks.

Its spectra have the phases of white noise and the same magnitude everywhere. In bands of the ear's resolution
its level then fluctuates by 0.08 dB, where that of white noise fluctuates by 0.5 dB: what fluctuates is the
predicted envelope alone (docs/compact.md).

Shape legend: spectrum [batch, frames, bins], complex64; samples [samples], float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apollo import rng
from apollo.model import stft

KEPT_POWER = 0.918  # by overlap-add of frames with equal magnitudes, which contradict one another a little
LEAST_MAGNITUDE = 1e-6  # keeps a bin without noise from dividing by zero
UNIT_VARIANCE = 2.0 * 3.0**0.5  # width of the uniform distribution whose variance is 1


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """How noise is added.

    Args:
        strength: Factor on the predicted gains, 0 to 1.5; 1 has the predicted energy; None takes the
            generator's.
        seed: Another seed gives other noise.
        channels: Channels of an item: consecutive rows of a batch. Two are treated as left and right.
        separate: Return noise at strength 1 as rows of its own, after those of the output without noise; of
            a generator with noise.
    """

    strength: float | None = None
    seed: int = 0
    channels: int = 1
    separate: bool = False


def white_noise(seed: int, channel: int, start: int, samples: int) -> Tensor:
    """Draw uniform noise of zero mean and unit variance.

    Args:
        seed: Of the noise.
        channel: Of the noise.
        start: Position of the first sample; may be negative.
        samples: How many.

    Returns:
        [samples], float32, on the CPU: SplitMix64 of the position, so any stretch can be drawn alone.
    """
    words = random_words(start, samples, seed, "noise", channel)
    return (_shift(words, 40).to(torch.float32) * 2.0**-24 - 0.5) * UNIT_VARIANCE


def random_words(start: int, samples: int, *keys: rng.Key) -> Tensor:
    """Draw 64 random bits for each of the positions from `start` on, as `rng.random_bits` does for one.

    Returns:
        [samples], int64, on the CPU.
    """
    words = torch.arange(start + 1, start + 1 + samples, dtype=torch.int64)
    words = words * _signed(rng.STEP) + _signed(rng.stream_seed(*keys))
    words = (words ^ _shift(words, 30)) * _signed(rng.MULTIPLIERS[0])
    words = (words ^ _shift(words, 27)) * _signed(rng.MULTIPLIERS[1])
    return words ^ _shift(words, 31)


def noise_spectra(options: NoiseOptions, first_frame: int, frames: int, window: Tensor) -> tuple[Tensor, ...]:
    """Compute the noise under given frames; overlap-add makes samples of it that have unit power a bin.

    Args:
        options: Seed and channels; two channels have two independent noises, any other number one.
        first_frame: Index of the first frame; frame k is centred on sample k * hop.
        frames: How many.
        window: The generator's window.

    Returns:
        One spectrum [frames, bins] a noise, of equal magnitudes.
    """
    hop = window.numel() // 2
    noises = []
    for channel in range(2 if options.channels == 2 else 1):
        samples = white_noise(options.seed, channel, (first_frame - 1) * hop, (frames + 1) * hop)
        white = stft.analyze(samples.to(window, non_blocking=True)[None], window)[0]
        noises.append(white / (white.abs().clamp_min(LEAST_MAGNITUDE) * KEPT_POWER**0.5))
    return tuple(noises)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(words: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros, where int64 would fill with the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
