"""Levels and augmentation of a training pair, the same for every source of examples.

`gain_compensated` removes the codec's gain, divides the pair by its joint peak and applies a random level,
because a model must work at any level. `paper` does what the public code of Apollo does instead.

Shape legend: samples [channels, samples], float32.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from apollo import rng

OLD_MODES = {"honest": "gain_compensated", "published": "paper"}  # still accepted in this release
AUDIBLE_PEAK = 1e-3  # -60 dBFS: 16-bit audio that is quieter is mostly rounding noise
_ORTHONORMAL = 0.5**0.5
_MID = 2  # of left, right, mid, side
_TILT_HZ = (1000.0, 16_000.0)  # a tilt's gain rises from 0 dB to its whole between these
_CUTOFF_HZ, _TRANSITION_HZ = (5000.0, 16_000.0), 500.0
_STOPBAND_DB = (-40.0, -10.0)
_FILTER_PADDING = 2048  # samples: longer than the response of a filter, which must not wrap around


@dataclass(frozen=True, kw_only=True)
class LevelsConfig:
    """Levels and augmentation of training pairs.

    Args:
        mode: `gain_compensated` removes the codec's gain, divides by the joint peak and draws a level;
            `paper` divides by the joint peak and does nothing else, whatever the fields below say.
        channels: `stereo` keeps both channels. `mono` takes one of left, right, mid and side of each pair, at
            random among those whose clean peak is at least -60 dBFS (the mid if none is), in both modes.
        level_db: Lowest and highest peak of a pair in dBFS; drawn uniformly in dB.
        polarity_share: Share of pairs with inverted polarity.
        swap_share: Share of stereo pairs with swapped channels.
        mid_side_share: Share of stereo pairs converted to mid and side.
        tilt_db: Lowest and highest gain at 16 kHz of a filter that both sides of a pair get, drawn uniformly;
            the gain rises from 0 dB at 1 kHz evenly per octave. For music that is duller than what will be
            restored: from it alone a model learns highs that are too low.
        low_pass_share: Share of pairs that are low-passed on both sides, by 10 to 40 dB above 5 to 16 kHz.
            Keeps a model from filling highs that the original lacks.
    """

    mode: Literal["gain_compensated", "paper", "honest", "published"] = "gain_compensated"
    channels: Literal["stereo", "mono"] = "stereo"
    level_db: tuple[float, float] = (-30.0, 0.0)
    polarity_share: float = 0.5
    swap_share: float = 0.5
    mid_side_share: float = 0.0
    tilt_db: tuple[float, float] = (0.0, 0.0)
    low_pass_share: float = 0.0

    def __post_init__(self) -> None:
        if self.mode in OLD_MODES:
            new = OLD_MODES[self.mode]
            warnings.warn(f"levels.mode {self.mode!r} is now called {new!r}", FutureWarning, stacklevel=3)
            object.__setattr__(self, "mode", new)
        if self.mode not in ("gain_compensated", "paper"):
            raise ValueError(f"levels.mode is {self.mode!r}: choose gain_compensated or paper")
        if self.channels not in ("stereo", "mono"):
            raise ValueError(f"levels.channels is {self.channels!r}: choose stereo or mono")
        low, high = self.level_db
        if not -120 <= low <= high <= 0:
            raise ValueError(
                f"levels.level_db is {list(self.level_db)}: give the lowest and the highest peak in dB, "
                "rising, from -120 to 0; [0, 0] brings every pair to full scale"
            )
        if not -60 <= self.tilt_db[0] <= self.tilt_db[1] <= 60:
            raise ValueError(
                f"levels.tilt_db is {list(self.tilt_db)}: give the lowest and the highest gain at 16 kHz in "
                "dB, rising, from -60 to 60; [0, 0] leaves spectra as they are"
            )
        for name in ("polarity_share", "swap_share", "mid_side_share", "low_pass_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"levels.{name} is {getattr(self, name)}: give a share from 0 to 1")


def find_peak(samples: Tensor) -> float:
    """Return the largest absolute value; non-finite if a sample is, 0 without samples."""
    if not samples.numel():
        return 0.0
    low, high = torch.aminmax(samples)
    return float(torch.maximum(-low, high))


def set_levels(
    clean: Tensor,
    degraded: Tensor,
    *,
    gain: float,
    config: LevelsConfig,
    seed: int,
    index: int,
    sample_rate: int,
) -> tuple[Tensor, Tensor]:
    """Set levels and augment a pair; a pure function of its arguments.

    Args:
        clean: [channels, samples], float32, finite.
        degraded: The same shape, as decoded.
        gain: Linear gain of the codec: the level of degraded over clean.
        config: Levels and augmentation.
        seed: Seed of the run.
        index: Index of the example in the run.
        sample_rate: Hz.

    Returns:
        Clean and degraded as new tensors, with the channels of the config; silence stays silent.
    """
    if config.channels == "mono" and len(clean) == 2:
        clean, degraded = _draw_channel(clean, degraded, seed, index)
    if config.mode == "paper":
        scale = _inverse(max(find_peak(clean), find_peak(degraded)))
        return clean * scale, degraded * scale
    if _occurs(config.swap_share, "swap", seed, index):
        clean, degraded = clean.flip(0), degraded.flip(0)
    if len(clean) == 2 and _occurs(config.mid_side_share, "mid/side", seed, index):
        clean, degraded = to_mid_side(clean), to_mid_side(degraded)
    is_low_passed = _occurs(config.low_pass_share, "low-pass", seed, index)
    if any(config.tilt_db) or is_low_passed:
        tilt_db = _draw(config.tilt_db, "tilt", seed, index)
        cutoff_hz = _draw(_CUTOFF_HZ, "cutoff", seed, index)
        stopband_db = _draw(_STOPBAND_DB, "stopband", seed, index) if is_low_passed else 0.0
        clean, degraded = (
            _filter(samples, tilt_db, cutoff_hz, stopband_db, sample_rate) for samples in (clean, degraded)
        )
    level_db = _draw(config.level_db, "level", seed, index)
    scale = 10 ** (level_db / 20) * _inverse(max(find_peak(clean), find_peak(degraded) / gain))
    if _occurs(config.polarity_share, "polarity", seed, index):
        scale = -scale
    return clean * scale, degraded * (scale / gain)


def to_mid_side(samples: Tensor) -> Tensor:
    """Convert left and right [2, samples] to orthonormal mid and side, or back."""
    left, right = samples
    return torch.stack([left + right, left - right]) * _ORTHONORMAL


def _filter(
    samples: Tensor, tilt_db: float, cutoff_hz: float, stopband_db: float, sample_rate: int
) -> Tensor:
    """Apply a gain that rises with log frequency, and one that drops at a cutoff; zero phase."""
    length = samples.shape[-1]
    padded = -(-(length + _FILTER_PADDING) // _FILTER_PADDING) * _FILTER_PADDING
    frequencies = torch.linspace(0.0, sample_rate / 2, padded // 2 + 1)
    low, high = _TILT_HZ
    gain_db = tilt_db * (frequencies.clamp(low, high) / low).log() / math.log(high / low)
    gain_db += stopband_db * ((frequencies - cutoff_hz) / _TRANSITION_HZ).clamp(0, 1)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(samples, padded) * 10 ** (gain_db / 20), padded)
    return filtered[..., :length]


def _draw_channel(clean: Tensor, degraded: Tensor, seed: int, index: int) -> tuple[Tensor, Tensor]:
    """Draw one of left, right, mid and side of a stereo pair: [1, samples] each."""
    views = torch.cat([clean, to_mid_side(clean)])
    audible = [place for place, view in enumerate(views) if find_peak(view) >= AUDIBLE_PEAK] or [_MID]
    place = audible[rng.integer_below(len(audible), index, seed, "channel")]
    return views[place : place + 1], torch.cat([degraded, to_mid_side(degraded)])[place : place + 1]


def _inverse(peak: float) -> float:
    return 1 / peak if peak else 1.0


def _occurs(share: float, purpose: str, seed: int, index: int) -> bool:
    return rng.uniform(index, seed, purpose) < share


def _draw(limits: tuple[float, float], purpose: str, seed: int, index: int) -> float:
    low, high = limits
    return low + (high - low) * rng.uniform(index, seed, purpose)
