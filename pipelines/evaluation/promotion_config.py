"""Configuration of the promotion rule, and why its margins are what they are.

The measure of what is good is the published model on its own demonstration clips, one of 6 s at each of 24,
32, 48, 64 and 96 kbps:

- ViSQOL may not be worse by an interval, and intervals may reach down to 0.1 MOS worse: between the MP3s of
  64 and 96 kbps it rises by 0.9 MOS, so that is worth 4 kbps.
- SI-SNR may be 1 dB worse.
- Spectral flatness above the cut-off may be 1.5 dB off: the published model is within 0.7 dB; constant tones
  of the same energy, horizontal lines of a spectrogram, are 35 dB off.
- Levels above 4 kHz may be 6 dB off, a factor of 2: the published model is within 4.8 dB; constant noise or
  tones are 5 to 28 dB off. A band that the model leaves as it is, such as one that the codec emptied, is not
  judged. Noise with the envelope of the music is within 3 dB: models may add it.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import UsageError
from pipelines.evaluation.analysis.bootstrap import LEVEL, RESAMPLES
from pipelines.evaluation.analysis.scores import ZERO_IS_BEST, least_difference
from pipelines.schema import LEVEL_BANDS, METRICS


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition on a candidate.

    Args:
        metric: Column of the table of scores.
        against: Models to compare with, item by item.
        kind: `better`: at one degradation at least, the interval of the mean improvement lies above `margin`.
            `non_inferior`: at every degradation it lies above minus `margin`. `not_worse`: the same, and at
            no degradation it lies wholly below minus the least difference. `close`: at every degradation the
            mean distance to the clean recording, whatever `against`, is at most `margin`; for flatness_high
            and level_error_….
        margin: In the metric's unit; at least the least difference, 0.01 dB or MOS.
    """

    metric: str = "visqol"
    against: Literal["champion", "untouched", "both"] = "both"
    kind: Literal["better", "not_worse", "non_inferior", "close"] = "better"
    margin: float = 0.0

    def __post_init__(self) -> None:
        to_clean = (*ZERO_IS_BEST, *LEVEL_BANDS)
        allowed = to_clean if self.kind == "close" else [name for name in METRICS if name not in ZERO_IS_BEST]
        if self.metric not in allowed:
            raise UsageError(
                f"metric is {self.metric!r}: for {self.kind} it must be one of {', '.join(allowed)}"
            )
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UsageError(f"margin is {self.margin}: it must be 0 or more")

    @property
    def least(self) -> float:
        """The margin, but at least the difference below which values are equal."""
        return max(self.margin, least_difference(self.metric))


@dataclass(frozen=True, kw_only=True)
class PromotionConfig:
    """When a candidate becomes champion: when all rules hold.

    Args:
        rules: Default: ViSQOL better than the champion's and the untouched codec's at one degradation, and at
            none worse, neither for certain nor possibly by 0.1 MOS; SI-SNR at none worse by 1 dB; above the
            cut-off, flatness within 1.5 dB and levels within 6 dB of the clean recording's.
        level: Confidence level of the intervals.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
    """

    rules: tuple[Rule, ...] = (
        Rule(metric="visqol", kind="better"),
        Rule(metric="visqol", kind="not_worse", margin=0.1),
        Rule(metric="si_snr", kind="non_inferior", margin=1.0),
        Rule(metric="flatness_high", kind="close", margin=1.5),
        *(Rule(metric=name, kind="close", margin=6.0) for name in LEVEL_BANDS[1:]),
    )
    level: float = LEVEL
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rules:
            raise UsageError(
                "promotion has no rules, so every candidate would become champion: set at least one"
            )
        if not 0 < self.level < 1 or self.resamples < 1:
            raise UsageError(
                f"level is {self.level}, resamples {self.resamples}: level must be between 0 and 1, "
                "resamples 1 or more"
            )
