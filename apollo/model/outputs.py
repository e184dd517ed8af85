"""What the generator's output is made of, from what the trunk predicts.

X: the degraded spectrum; A: its level; P: the trunk's complex number of a bin; R: its real one.

    direct               Y = P                        the restored spectrum, as published
    correction           Y = X + P
    mask_and_noise       Y = X * (1 + P) + s * N * E  N: A * exp(R), softly limited; E: noise of unit power
    magnitude_and_phase  Y = A * M * U                M^0.3 = |X / A|^0.3 + R, at least 0;
                                                      U: Q / |Q|, Q = (X / A) |X / A|^-0.7 + P

In the first two P is relative to A if the trunk sees the spectrum divided by its level.

A deterministic network cannot know the phase above a codec's cut-off; noise with the right envelope stands in
for it. `magnitude_and_phase` is our reading of a published description (docs/model.md): a change of the
compressed magnitude, and a phase of two components, to which the input's are added; where the input has
nothing, the phase is that of P alone.

Shape legend: X, Y, P and R [batch, frames, bins]; A [batch, frames, 1].
"""

from torch import Tensor

from apollo.model.config import COMPRESSION, GeneratorConfig
from apollo.model.level import LEVEL_FLOOR

POWER_FLOOR = 1e-8  # of a bin relative to the level: magnitudes below -80 dB are not compressed further
LOG_GAIN_LIMITS = (-16.0, 3.0)
_PAIR_FLOOR = 1e-6  # of |Q|^2: keeps the gradient of the phase finite at zero


def combine(
    config: GeneratorConfig, degraded: Tensor, prediction: Tensor, real: Tensor | None, level: Tensor
) -> Tensor:
    """Compute an output without its noise.

    Args:
        config: Names the output.
        degraded: X.
        prediction: P.
        real: R, for `magnitude_and_phase`.
        level: A; [batch, frames, 0] if the trunk sees the spectrum as it is.
    """
    if config.output == "mask_and_noise":
        return degraded + degraded * prediction
    if config.output == "magnitude_and_phase" and real is not None:
        return level * _change_magnitude_and_phase(degraded / _floored(level), prediction, real)
    scaled = prediction * level if level.shape[-1] else prediction
    return scaled if config.output == "direct" else degraded + scaled


def noise_amplitude(config: GeneratorConfig, real: Tensor | None, level: Tensor) -> Tensor | None:
    """Compute the amplitude of an output's noise at strength 1 (N); None for outputs without noise."""
    if config.output != "mask_and_noise" or real is None:
        return None
    gains = real.clamp(*LOG_GAIN_LIMITS).exp()
    limit = config.noise_limit
    return (gains / (1.0 + (gains / limit).square()).sqrt() if limit else gains) * level


def _floored(level: Tensor) -> Tensor:
    return (level.square() + LEVEL_FLOOR).sqrt()


def _change_magnitude_and_phase(normalized: Tensor, pair: Tensor, change: Tensor) -> Tensor:
    power = normalized.real.square() + normalized.imag.square() + POWER_FLOOR
    magnitude = (power ** (COMPRESSION / 2) + change).relu() ** (1 / COMPRESSION)
    pair = normalized * power ** ((COMPRESSION - 1) / 2) + pair
    return pair * (magnitude / (pair.real.square() + pair.imag.square() + _PAIR_FLOOR).sqrt())
