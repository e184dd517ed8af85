"""Summary sentences: whether a model is better than the untouched codec, with confidence intervals."""

import pyarrow as pa

from pipelines.audio.degradations import describe
from pipelines.evaluation.analysis.bootstrap import Bootstrap, Interval
from pipelines.evaluation.analysis.scores import (
    Scores,
    difference,
    exact_mean,
    label,
    least_difference,
    read_scores,
    unit,
)
from pipelines.schema import NOT_FINITE, UNTOUCHED

_DECIDING = ("visqol", "si_snr")


def summarize_overall(scores: pa.Table | Scores, *, bootstrap: Bootstrap | None = None) -> tuple[str, ...]:
    """Summarize every model over all degradations: the short form of `summarize`."""
    columns = scores if isinstance(scores, Scores) else read_scores(scores)
    lines = tuple(
        _conclusion(columns, model, bootstrap or Bootstrap()) for model in columns.restoration_models
    )
    return lines or summarize(columns)


def summarize(scores: pa.Table | Scores, *, bootstrap: Bootstrap | None = None) -> tuple[str, ...]:
    """Summarize every model against the untouched codec: over all degradations, then for each.

    Args:
        scores: The table of scores.
        bootstrap: Settings of the intervals; None takes the default.

    Raises:
        ValueError: the table of scores is invalid (`read_scores`).
    """
    columns = scores if isinstance(scores, Scores) else read_scores(scores)
    if not columns.models:
        return ("Nothing was scored.",)
    if not columns.restoration_models:
        return ("Only the untouched codec was scored: there is nothing to compare.",)
    lines: list[str] = []
    for model in columns.restoration_models:
        lines.append(_conclusion(columns, model, bootstrap or Bootstrap()))
        lines += [
            _sentence(columns, model, degradation, bootstrap or Bootstrap())
            for degradation in columns.degradations
            if len(columns.select(model, degradation))
        ]
    return tuple(lines)


def format_difference(found: Interval, metric: str) -> str:
    """Format a difference with its interval: `-0.40 dB [-0.60, -0.20]`."""
    if found.mean is None:
        return f"not known ({found.reason})"
    text = _signed(found.mean) + ("" if unit(metric) == "MOS" else f" {unit(metric)}")
    if found.low is None or found.high is None:
        return f"{text} (no interval: {found.reason})"
    return f"{text} [{_signed(found.low)}, {_signed(found.high)}]"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}" if round(value, 2) else "0.00"


def _conclusion(scores: Scores, model: str, bootstrap: Bootstrap) -> str:
    pairs = scores.pairs(model, UNTOUCHED)
    if not len(pairs):
        return f"{model}: inconclusive, no item was scored with it and with the untouched codec."
    parts, extent = [], ""
    for metric in _DECIDING:
        found = scores.interval(difference(pairs, metric), pairs, bootstrap)
        parts.append(f"by {label(metric)} {_word(found, metric)}: {format_difference(found, metric)}")
        extent = extent or (f" ({found.items} pairs, {_songs(found.songs)})" if found.items else "")
    failed = int((scores.select(model)["status"] == NOT_FINITE).sum())
    remark = f" {failed} of its results are not finite and left out." if failed else ""
    return f"{model} against the untouched codec, over all degradations{extent}: {'; '.join(parts)}.{remark}"


def _word(found: Interval, metric: str) -> str:
    if found.mean is None or found.low is None or found.high is None:
        return "inconclusive"
    least = least_difference(metric)
    if max(-found.low, found.high) < least or (not found.low <= 0 <= found.high and abs(found.mean) < least):
        return "equal"
    if found.low > 0:
        return "better"
    return "not better (worse)" if found.high < 0 else "inconclusive, the interval contains 0"


def _sentence(scores: Scores, model: str, degradation: str, bootstrap: Bootstrap) -> str:
    pairs = scores.pairs(model, UNTOUCHED, degradation)
    if not len(pairs):
        return f"{model}: nothing to compare with the untouched {describe(degradation)}."
    visqol, si_snr = (
        scores.interval(difference(pairs, metric), pairs, bootstrap) for metric in ("visqol", "si_snr")
    )
    against = f"against the untouched {describe(degradation)}"
    si_snr_text = f"SI-SNR {format_difference(si_snr, 'si_snr')}"
    if visqol.mean is None:
        over = f"over {_items(si_snr)}" if si_snr.items else ""
        return f"{model}: no ViSQOL; {si_snr_text} {against} {over}".rstrip() + "."
    mean = exact_mean(pairs["visqol"])
    return (
        f"{model}: ViSQOL {mean:.2f}, {format_difference(visqol, 'visqol')} {against} over {_items(visqol)}; "
        f"{si_snr_text}."
    )


def _items(found: Interval) -> str:
    return f"{found.items} {'item' if found.items == 1 else 'items'} of {_songs(found.songs)}"


def _songs(songs: int) -> str:
    return f"{songs} {'song' if songs == 1 else 'songs'}"
