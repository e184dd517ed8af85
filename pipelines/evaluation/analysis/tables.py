"""The tables of an evaluation, each computed from the table of scores (`schema.SCORES`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from pipelines.evaluation.analysis import published_results
from pipelines.evaluation.analysis.bootstrap import Bootstrap, Interval
from pipelines.evaluation.analysis.result_table import Cell, ScoreTable
from pipelines.evaluation.analysis.scores import (
    LOWER_IS_BETTER,
    PAPER_METRICS,
    ZERO_IS_BEST,
    Scores,
    difference,
    exact_mean,
    label,
    least_difference,
    read_scores,
    select_scored,
)
from pipelines.schema import CATEGORIES, METRICS, SONG, STATUSES, UNTOUCHED

OVERALL = tuple(category for category in CATEGORIES if category != SONG)  # whose mean is the paper's overall
IDENTICAL_DB = 100.0  # apollo.metrics.LIMIT_DB, not imported: tables need no torch
ALL = "all"
_DEVICES = ("cpu", "cuda")
_OTHERS = tuple(metric for metric in METRICS if metric not in PAPER_METRICS)
_DEFINITIONS = (
    "SDR: BSS-eval with a filter of 512 taps, zero mean, mean over channels, dB. SI-SNR: zero mean, mean "
    "over channels, dB. ViSQOL: audio mode, on the mean of the channels at 48 kHz, MOS. Higher is better."
)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Size and speed of a model.

    Args:
        parameters: Number of parameters, None if unknown.
        rtf_ms: Device (`cpu`, `cuda`) -> milliseconds for a second of mono at 44.1 kHz.
        rtf_runs: Device -> number of runs that this is the mean of.
    """

    parameters: int | None
    rtf_ms: Mapping[str, float]
    rtf_runs: Mapping[str, int]


def build_tables(
    scores: pa.Table | Scores,
    models: Mapping[str, ModelFacts],
    *,
    bootstrap: Bootstrap | None = None,
    with_paper: bool = True,
) -> dict[str, ScoreTable]:
    """Build all tables, by name: table2, figure2, others, differences, counts.

    Args:
        scores: The table of scores.
        models: Facts by the models' names; a model without them gets dashes.
        bootstrap: Settings of the intervals; None takes the default.
        with_paper: Whether Table II shows the paper's rows too.

    Raises:
        ValueError: the table of scores is invalid (`read_scores`).
    """
    columns = scores if isinstance(scores, Scores) else read_scores(scores)
    bootstrap = bootstrap or Bootstrap()
    made = (
        table2(columns, models, with_paper=with_paper),
        figure2(columns, bootstrap),
        others(columns),
        differences(columns, bootstrap),
        counts(columns),
    )
    return {table.name: table for table in made}


def table2(scores: Scores, models: Mapping[str, ModelFacts], *, with_paper: bool = True) -> ScoreTable:
    """Build the paper's Table II: a row per model, the untouched codec first."""
    columns = ["model"]
    for group in (*OVERALL, "overall", SONG):
        columns += [f"{group}_{metric}" for metric in PAPER_METRICS]
        columns += [f"{group}_items"] if group != "overall" else []
    columns += ["parameters_millions"]
    columns += [f"rtf_{device}_{part}" for device in _DEVICES for part in ("ms", "runs")]
    columns += ["missing"]
    rows = [_table2_row(scores, model, models.get(model)) for model in scores.models]
    note = (
        f"Means over items and degradations ({', '.join(scores.degradations) or 'none'}). Overall: the "
        "unweighted mean of the four categories, as the paper takes it; whole songs are outside it. Items: "
        f"different ones that were scored; {_extent(scores)}. RTF: milliseconds for a second of mono at "
        f"44.1 kHz, mean over that number of runs. {_DEFINITIONS}"
    )
    if with_paper:
        rows += [_published_row(model, columns) for model in published_results.MODELS]
        texts = ", ".join(f"{model.rtf_text_ms} ms for {model.name}" for model in published_results.PAPER)
        note += (
            " Published rows are for other test sets: the paper's, which is not published, and MedleyDB at "
            "24 to 128 kbps by the authors of MPASCNet (a mean, not of these categories). Their real-time "
            f"factors are of GPUs that are not named (in the paper's text: {texts})."
        )
    return ScoreTable("table2", "Scores by kind of music (Table II)", note, tuple(columns), tuple(rows))


def _table2_row(scores: Scores, model: str, facts: ModelFacts | None) -> tuple[Cell, ...]:
    means: dict[str, list[float | None]] = {}
    items: dict[str, int] = {}
    for category in CATEGORIES:
        rows = scores.select(model, category=category)
        means[category] = [exact_mean(rows[metric]) for metric in PAPER_METRICS]
        items[category] = select_scored(rows)["item"].nunique()
    overall = [
        None if None in parts else math.fsum(part for part in parts if part is not None) / len(parts)
        for parts in zip(*(means[category] for category in OVERALL), strict=True)
    ]
    cells: list[Cell] = [model]
    for category in OVERALL:
        cells += [*means[category], items[category]]
    cells += [*overall, *means[SONG], items[SONG]]
    cells += [facts.parameters / 1e6 if facts and facts.parameters is not None else None]
    for device in _DEVICES:
        cells += [facts.rtf_ms.get(device), facts.rtf_runs.get(device)] if facts else [None, None]
    return (*cells, _missing(means))


def _missing(means: Mapping[str, list[float | None]]) -> str | None:
    """Describe which categories the overall mean lacks."""
    parts = []
    for category in OVERALL:
        names = [label(name) for name, mean in zip(PAPER_METRICS, means[category]) if mean is None]
        if len(names) == len(PAPER_METRICS):
            parts.append(category)
        elif names:
            parts.append(f"{category} ({', '.join(names)})")
    return f"no overall without {', '.join(parts)}" if parts else None


def _published_row(model: published_results.PublishedModel, columns: list[str]) -> tuple[Cell, ...]:
    record: dict[str, Cell] = {
        "model": model.label,
        "parameters_millions": model.parameters,
        "rtf_cuda_ms": model.rtf_ms,
    }
    for group, values in {**model.table2, "overall": model.overall}.items():
        record |= {f"{group}_{metric}": value for metric, value in zip(PAPER_METRICS, values, strict=True)}
    return tuple(record.get(column) for column in columns)


def figure2(scores: Scores, bootstrap: Bootstrap) -> ScoreTable:
    """Build the numbers of the paper's Figure 2: a row per model and degradation, with intervals."""
    columns = ["model", "degradation", "bitrate_bps"]
    columns += [f"{metric}{part}" for metric in PAPER_METRICS for part in ("", "_low", "_high")]
    columns += ["items", "songs", "left_out", "no_interval"]
    rows: list[tuple[Cell, ...]] = []
    for model, degradation, bitrate, chosen in scores.groups():
        found = {name: scores.interval(chosen[name], chosen, bootstrap) for name in PAPER_METRICS}
        bounds = [bound for one in found.values() for bound in (one.mean, one.low, one.high)]
        scored = len(select_scored(chosen))
        songs = max(one.songs for one in found.values())
        rows.append((model, degradation, bitrate, *bounds, scored, songs, *_remarks(scored, found)))
    note = f"Means over all items, whole songs included, with {_interval_note(bootstrap)} {_DEFINITIONS}"
    return ScoreTable("figure2", "Scores by bitrate (Figure 2)", note, tuple(columns), tuple(rows))


def _remarks(scored: int, found: Mapping[str, Interval]) -> tuple[str | None, str | None]:
    """Describe how many scored items lack a metric, and why an interval is missing."""
    undefined = [f"{label(name)}: {scored - one.items}" for name, one in found.items() if one.items < scored]
    reasons = dict.fromkeys(one.reason for one in found.values() if one.reason)
    return ", ".join(undefined) or None, "; ".join(reasons) or None


def others(scores: Scores) -> ScoreTable:
    """Build the table of the metrics that the paper does not report."""
    columns = ("model", "degradation", "bitrate_bps", *_OTHERS, "items")
    rows: list[tuple[Cell, ...]] = []
    for model, degradation, bitrate, chosen in scores.groups():
        means = [exact_mean(chosen[metric]) for metric in _OTHERS]
        rows.append((model, degradation, bitrate, *means, len(select_scored(chosen))))
    note = (
        "Means over all items. zimtohrli: MOS, 0 to 5. two_f: MUSHRA score of the 2f-model, 0 to 100. All "
        "others: dB. snr: at the codec's gain, nothing else is compensated. lsd_high: log-spectral distance "
        "above the codec's low-pass, lower is better. flatness_high: spectral flatness above the low-pass "
        "minus the clean audio's; 0 is best, positive is noisier, negative more tonal; undefined where a "
        "result has nothing there. si_snr_mid, si_snr_side: of (left ± right) / 2. error_…_hz: the error's "
        "energy over the signal's in this band, lower is better; 0 dB is a band that is missing. "
        "level_error_…_hz: mean absolute error of the level in this band, lower is better. "
        f"{_extent(scores)}."
    )
    return ScoreTable("others", "Metrics that the paper does not report", note, columns, tuple(rows))


def differences(scores: Scores, bootstrap: Bootstrap) -> ScoreTable:
    """Build the table of paired differences to the untouched codec.

    A row per model, metric and part: all degradations together, each of them, and each category.
    """
    columns = ["model", "degradation", "category", "metric"]
    columns += ["difference", "difference_low", "difference_high", "better_share"]
    columns += ["pairs", "items", "songs", "left_out", "no_interval"]
    rows: list[tuple[Cell, ...]] = []
    for model in scores.restoration_models:
        for degradation, category in _parts(scores, model):
            pairs = scores.pairs(model, UNTOUCHED, degradation, category)
            for metric in METRICS:
                values = difference(pairs, metric)
                found = scores.interval(values, pairs, bootstrap)
                items = pairs["item"][values.notna()].nunique()
                cells = (found.mean, found.low, found.high, better_share(values, metric), found.items, items)
                remarks = (found.songs, found.left_out, found.reason or None)
                rows.append((model, degradation or ALL, category or ALL, metric, *cells, *remarks))
    note = (
        "The model's score minus the untouched codec's, item by item: positive is better, except for "
        "lsd_high, error_…_hz and level_error_…_hz, and of no meaning for flatness_high, where 0 is best. "
        f"With {_interval_note(bootstrap)} better_share: of the pairs, how many are better "
        "by 0.01 dB or MOS (0.1 points) or more. "
        "left_out: pairs in which a score is undefined."
    )
    return ScoreTable("differences", "Difference to the untouched codec", note, tuple(columns), tuple(rows))


def _parts(scores: Scores, model: str) -> list[tuple[str | None, str | None]]:
    rows = scores.select(model)
    degradations, categories = (
        rows[name].cat.remove_unused_categories().cat.categories for name in ("degradation", "category")
    )
    return [(None, None), *((name, None) for name in degradations), *((None, name) for name in categories)]


def better_share(differences: pd.Series, metric: str) -> float | None:
    """Return the share of differences that are improvements; NaN does not count; None without any.

    Less than the least difference is equality. None for a metric whose best value is 0: a difference does not
    tell which is closer to it.
    """
    defined = differences.dropna()
    if not len(defined) or metric in ZERO_IS_BEST:
        return None
    better = (-defined if metric in LOWER_IS_BETTER else defined) >= least_difference(metric)
    return float(better.sum()) / len(defined)


def counts(scores: Scores) -> ScoreTable:
    """Build the table of how many items were scored, and why others were not."""
    columns = ("model", "scores", "items", *STATUSES, "identical", "without_visqol")
    rows: list[tuple[Cell, ...]] = []
    for model in scores.models:
        chosen = scores.select(model)
        by_status = chosen["status"].value_counts(sort=False).reindex(STATUSES).tolist()
        identical = int((chosen["snr"] >= IDENTICAL_DB).sum())
        without_visqol = int(select_scored(chosen)["visqol"].isna().sum())
        items = chosen["item"].nunique()
        rows.append((model, len(chosen), items, *by_status, identical, without_visqol))
    note = (
        "scores: one per item and degradation. silent: the clean audio is silent. not_finite: the model's "
        "output is not finite. unreadable: the item or the model's result. identical: the result is the "
        "clean audio at the codec's level. without_visqol: scored, but ViSQOL is undefined or not installed."
    )
    return ScoreTable("counts", "What was scored", note, columns, tuple(rows))


def _interval_note(bootstrap: Bootstrap) -> str:
    return (
        f"{100 * bootstrap.level:g} % intervals bootstrapped over songs ({bootstrap.resamples} resamples, "
        "widened for few songs)."
    )


def _extent(scores: Scores) -> str:
    return f"{scores.frame['item'].nunique()} items of {len(set(scores.sets.codes.tolist()))} songs in all"
