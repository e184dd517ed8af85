"""The promotion rule: whether a candidate becomes champion, from the scores of the validation split.

The rule is applied per degradation, since a mean hides a loss at 128 kbps behind a gain at 24 kbps:

- Better at one: the interval of the mean improvement lies above the margin. The intervals are
  Bonferroni-corrected for the number of degradations.
- Worse at none: every interval lies above minus the margin, and none is wholly negative. With few songs
  intervals are wide and inconclusive: the champion stays.
- Close to the clean recording: a guard against noise and tones, which other metrics reward.

`pipelines.evaluation.promotion_config` has the margins and their reasons.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
import pyarrow as pa

from pipelines.evaluation.analysis.bootstrap import Bootstrap, Interval
from pipelines.evaluation.analysis.scores import (
    LOWER_IS_BETTER,
    Scores,
    count_lacking,
    difference,
    exact_mean,
    label,
    least_difference,
    read_scores,
    unit,
)
from pipelines.evaluation.promotion_config import PromotionConfig, Rule
from pipelines.schema import LEVEL_BANDS, NOT_FINITE, UNREADABLE, UNTOUCHED

_SAME_LEVEL_DB = 1.0  # of a band that a model leaves as it is


@dataclass(frozen=True)
class Decision:
    """Result of the promotion rule.

    Args:
        promote: Whether the candidate becomes champion.
        reasons: Checks with their numbers, those that failed first; each starts with `passed` or `failed`.
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
        if rule.kind != "close"
        and (rule.against == "both" or (rule.against == "untouched") == (name == UNTOUCHED))
        for reason in _Comparison(columns, rule, candidate, name, text).reasons(config)
    ]
    guards = [_check_close(columns, rule, candidate) for rule in config.rules if rule.kind == "close"]
    reasons = (
        *_failures(columns, candidate),
        *_incomplete(columns, {candidate: "the candidate"} | references),
        *(found or ["failed: no rule applies, since there is no champion yet"]),
        *guards,
    )
    failed = tuple(reason for reason in reasons if reason.startswith("failed"))
    passed = tuple(reason for reason in reasons if not reason.startswith("failed"))
    return Decision(not failed, failed + passed)


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
        degradations = [
            name for name in self.scores.degradations if len(self.scores.select(self.reference, name))
        ]
        if self.rule.kind == "better":
            return self._better(degradations, config)
        return [reason for name in degradations for reason in self._not_worse(name, config)]

    def _better(self, degradations: list[str], config: PromotionConfig) -> list[str]:
        level = 1 - (1 - config.level) / max(len(degradations), 1)  # Bonferroni: one of them suffices
        found = {name: self._improvement(name, config, level) for name in degradations}
        name = f"{label(self.rule.metric)} against {self.text}"
        passed = any(one.low is not None and one.low > self.rule.least for one in found.values())
        numbers = "; ".join(f"{where} {self._numbers(one)}" for where, one in found.items())
        lacking = self._undefined(self.scores.pairs(self.candidate, self.reference), name)
        return [
            *lacking,
            f"{_word(passed)}: {name}: the improvement must lie above {self.rule.least:g} at one degradation "
            f"at least: {numbers}",
        ]

    def _not_worse(self, degradation: str, config: PromotionConfig) -> list[str]:
        found = self._improvement(degradation, config, config.level)
        name = f"{label(self.rule.metric)} against {self.text} at {degradation}"
        least = least_difference(self.rule.metric)
        passed = found.low is not None and found.low >= -self.rule.least
        allowed = f"{self.rule.least:g} {unit(self.rule.metric)}"
        is_worse = self.rule.kind == "not_worse" and found.high is not None and found.high < -least
        return [
            *self._undefined(self.scores.pairs(self.candidate, self.reference, degradation), name),
            f"{_word(passed and not is_worse)}: {name}: {self._numbers(found)} over {found.items} items of "
            f"{found.songs} songs; "
            + ("the whole interval is worse" if is_worse else f"at most {allowed} worse is allowed"),
        ]

    def _improvement(self, degradation: str, config: PromotionConfig, level: float) -> Interval:
        """Return the interval of the mean improvement, above 0 where the candidate is better."""
        pairs = self.scores.pairs(self.candidate, self.reference, degradation)
        bootstrap = Bootstrap(resamples=config.resamples, seed=config.seed, level=level)
        found = self.scores.interval(self._sign * difference(pairs, self.rule.metric), pairs, bootstrap)
        return found if found.mean is None else replace(found, mean=found.mean + 0.0)  # no -0.0

    @property
    def _sign(self) -> int:
        return -1 if self.rule.metric in LOWER_IS_BETTER else 1

    def _numbers(self, found: Interval) -> str:
        if found.mean is None:
            return f"no interval: {found.reason}"
        if abs(found.mean) < least_difference(self.rule.metric):
            mean = "equal"
        else:
            mean = f"{abs(found.mean):.3f} {unit(self.rule.metric)} {'better' if found.mean > 0 else 'worse'}"
        if found.low is None or found.high is None:
            return f"{mean} on average, but no interval: {found.reason}"
        return f"{mean}, within [{found.low:+.3f}, {found.high:+.3f}]"

    def _undefined(self, pairs: pd.DataFrame, name: str) -> list[str]:
        """Refuse a candidate that lacks scores of the reference: they might be its worst."""
        number = count_lacking(pairs, self.rule.metric)
        return [f"failed: {name}: the candidate lacks {number} of the reference's scores"] if number else []


def _check_close(scores: Scores, rule: Rule, candidate: str) -> str:
    """Check the distance to the clean recording, and name where it is largest."""
    distances = {
        degradation: _distance(scores, rule, candidate, degradation) for degradation in scores.degradations
    }
    known = {name: value for name, value in distances.items() if value is not None}
    text = f"{label(rule.metric)} against the clean recording"
    if not known:
        return f"passed: {text}: the candidate adds nothing that could be compared"
    worst = max(known, key=lambda name: known[name])
    return (
        f"{_word(known[worst] <= rule.least)}: {text}: {known[worst]:.2f} {unit(rule.metric)} off at "
        f"{worst}, the most of all; {rule.least:g} {unit(rule.metric)} is allowed"
    )


def _distance(scores: Scores, rule: Rule, candidate: str, degradation: str) -> float | None:
    """Return the mean distance, without sign; None where there is none or the candidate changes nothing."""
    pairs = scores.pairs(candidate, UNTOUCHED, degradation)
    distance = exact_mean(pairs[rule.metric].abs())
    if rule.metric in LEVEL_BANDS:
        change = exact_mean(difference(pairs, rule.metric).abs())
        if change is not None and change < _SAME_LEVEL_DB:
            return None
    return distance


def _word(passed: bool) -> str:
    return "passed" if passed else "failed"
