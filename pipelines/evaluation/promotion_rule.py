"""The promotion rule: whether a candidate becomes champion, from the scores of the validation split."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import pyarrow as pa

from pipelines.errors import UsageError
from pipelines.evaluation.analysis.bootstrap import LEVEL, RESAMPLES, Bootstrap
from pipelines.evaluation.analysis.scores import (
    LOWER_IS_BETTER,
    ZERO_IS_BEST,
    Scores,
    count_lacking,
    difference,
    exact_mean,
    label,
    read_scores,
    unit,
)
from pipelines.schema import METRICS, NOT_FINITE, UNREADABLE, UNTOUCHED


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition on a candidate.

    Args:
        metric: Column of the table of scores.
        against: Models to compare with, item by item.
        kind: `better`: the interval of the mean improvement, over all degradations together, lies above
            `margin`. `not_worse`: the mean of no degradation is worse by more than `margin`.
        margin: In the metric's unit.
    """

    metric: str = "visqol"
    against: Literal["champion", "untouched", "both"] = "both"
    kind: Literal["better", "not_worse"] = "better"
    margin: float = 0.0

    def __post_init__(self) -> None:
        allowed = [name for name in METRICS if name not in ZERO_IS_BEST]
        if self.metric not in allowed:
            raise UsageError(f"metric is {self.metric!r}: it must be one of {', '.join(allowed)}")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UsageError(f"margin is {self.margin}: it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class PromotionConfig:
    """When a candidate becomes champion: when all rules hold.

    Args:
        rules: Default: higher ViSQOL than the champion and the untouched codec, and at most 1 dB less SI-SNR
            than either at every bitrate.
        level: Confidence level of the intervals.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
    """

    rules: tuple[Rule, ...] = (
        Rule(metric="visqol", kind="better", margin=0.0),
        Rule(metric="si_snr", kind="not_worse", margin=1.0),
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


@dataclass(frozen=True)
class Decision:
    """Result of the promotion rule.

    Args:
        promote: Whether the candidate becomes champion.
        reasons: Checks with their numbers; each starts with `passed` or `failed`.
    """

    promote: bool
    reasons: tuple[str, ...]


def decide(
    scores: pa.Table | Scores, candidate: str, champion: str | None, config: PromotionConfig
) -> Decision:
    """Decide whether the candidate becomes champion.

    Args:
        scores: Of the candidate, the champion and the untouched codec, on the same items.
        candidate: Its name in the table.
        champion: Its name in the table; None compares with the untouched codec only.
        config: The rules.

    Raises:
        ValueError: the candidate is the champion or the untouched codec, or one of them was not scored.
    """
    columns = scores if isinstance(scores, Scores) else read_scores(scores)
    if candidate in (champion, UNTOUCHED) or champion == UNTOUCHED:
        raise ValueError(f"candidate {candidate!r} and champion {champion!r} must be two models")
    for name in (candidate, champion or UNTOUCHED, UNTOUCHED):
        if name not in columns.models:
            raise ValueError(f"{name!r} has no scores; there are those of {', '.join(columns.models)}")
    references = {UNTOUCHED: "the untouched codec"}
    if champion is not None:
        references = {champion: f"the champion ({champion})"} | references
    found = [
        reason
        for rule in config.rules
        for name, text in references.items()
        if rule.against == "both" or (rule.against == "untouched") == (name == UNTOUCHED)
        for reason in _Comparison(columns, rule, candidate, name, text).reasons(config)
    ]
    reasons = (
        *_failures(columns, candidate),
        *_incomplete(columns, {candidate: "the candidate"} | references),
        *(found or ["failed: no rule applies, since there is no champion yet"]),
    )
    return Decision(all(reason.startswith("passed") for reason in reasons), reasons)


def _failures(scores: Scores, candidate: str) -> list[str]:
    """Count results of the candidate that cannot be scored where the untouched codec's can."""
    reasons = []
    for status in (NOT_FINITE, UNREADABLE):
        own = _count_missing(_keys(scores, candidate, status), _keys(scores, UNTOUCHED, status))
        if own:
            reasons.append(f"failed: {own} of the candidate's results are {status.replace('_', ' ')}")
    return reasons


def _incomplete(scores: Scores, names: Mapping[str, str]) -> list[str]:
    """Return which models lack scores that the untouched codec has."""
    expected = _keys(scores, UNTOUCHED)
    lacking = {text: _count_missing(expected, _keys(scores, name)) for name, text in names.items()}
    return [
        f"failed: {text} lacks {number} of {len(expected)} scores: the evaluation is not complete"
        for text, number in lacking.items()
        if number
    ]


def _keys(scores: Scores, model: str, status: str | None = None) -> pd.MultiIndex:
    """Return the degradations and items on which a model was scored, or got a status."""
    rows = scores.select(model)
    if status is not None:
        rows = rows[rows["status"] == status]
    return pd.MultiIndex.from_frame(rows[["degradation", "item"]])


def _count_missing(keys: pd.MultiIndex, others: pd.MultiIndex) -> int:
    return int((~keys.isin(others)).sum())


@dataclass(frozen=True)
class _Comparison:
    """A rule, applied to the candidate and one reference, which `text` names."""

    scores: Scores
    rule: Rule
    candidate: str
    reference: str
    text: str

    def reasons(self, config: PromotionConfig) -> list[str]:
        if self.rule.kind == "better":
            return self._better(config)
        return [
            reason
            for degradation in self.scores.degradations
            if len(self.scores.select(self.reference, degradation))
            for reason in self._not_worse(degradation)
        ]

    def _better(self, config: PromotionConfig) -> list[str]:
        bootstrap = Bootstrap(resamples=config.resamples, seed=config.seed, level=config.level)
        pairs = self.scores.pairs(self.candidate, self.reference)
        found = self.scores.interval(difference(pairs, self.rule.metric), pairs, bootstrap)
        name = f"{label(self.rule.metric)} against {self.text}"
        undefined = self._undefined(pairs, name)
        if found.mean is None or found.low is None or found.high is None:
            mean = "" if found.mean is None else f"{self._words(found.mean)} on average, but "
            return [*undefined, f"failed: {name}: {mean}no interval: {found.reason}"]
        low, high = sorted((self._sign * found.low, self._sign * found.high))
        return [
            *undefined,
            f"{_word(low > self.rule.margin)}: {name}: {self._words(found.mean)}, improvement within "
            f"[{low:+.3f}, {high:+.3f}] over {found.items} pairs of {found.songs} songs; it must lie above "
            f"{self.rule.margin:g}",
        ]

    def _not_worse(self, degradation: str) -> list[str]:
        pairs = self.scores.pairs(self.candidate, self.reference, degradation)
        name = f"{label(self.rule.metric)} against {self.text} at {degradation}"
        differences = difference(pairs, self.rule.metric)
        mean = exact_mean(differences)
        if mean is None:
            return [f"failed: {name}: no item has this score in both"]
        return [
            *self._undefined(pairs, name),
            f"{_word(self._sign * mean >= -self.rule.margin)}: {name}: {self._words(mean)} over "
            f"{differences.count()} items; at most {self.rule.margin:g} {unit(self.rule.metric)} worse is "
            "allowed",
        ]

    def _undefined(self, pairs: pd.DataFrame, name: str) -> list[str]:
        """Refuse a candidate that lacks scores of the reference: they might be its worst."""
        number = count_lacking(pairs, self.rule.metric)
        return [f"failed: {name}: the candidate lacks {number} of the reference's scores"] if number else []

    @property
    def _sign(self) -> int:
        return -1 if self.rule.metric in LOWER_IS_BETTER else 1

    def _words(self, mean: float) -> str:
        change = self._sign * mean
        if not change:
            return "equal"
        return f"{abs(change):.3f} {unit(self.rule.metric)} {'better' if change > 0 else 'worse'}"


def _word(passed: bool) -> str:
    return "passed" if passed else "failed"
