"""The table of scores (`schema.SCORES`), checked and sorted: what tables, summary and promotion are made of.

Rows are sorted by model (the untouched codec first), degradation (by bitrate), and item, so that nothing
depends on the order in which trials ended. Only items of status `scored` have values.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation.analysis.bootstrap import Bootstrap, Interval, SongSets, mean_interval, song_sets
from pipelines.evaluation.analysis.result_table import METRIC_NAMES
from pipelines.schema import (
    CATEGORIES,
    ERROR_BANDS,
    LEVEL_BANDS,
    METRICS,
    SCORED,
    SCORES,
    STATUSES,
    UNTOUCHED,
)

PAPER_METRICS = ("sdr", "si_snr", "visqol")
LOWER_IS_BETTER = frozenset(("lsd_high", *ERROR_BANDS, *LEVEL_BANDS))
ZERO_IS_BEST = frozenset(("flatness_high",))  # of all others higher is better
_KEY = ["model", "degradation", "item"]
_REFERENCE = "_reference"
_SEPARATOR = "\x1f"  # joins the names of songs


def label(metric: str) -> str:
    """Return a metric's name for display: `SI-SNR`, `error 0–4 kHz`."""
    if metric in (*ERROR_BANDS, *LEVEL_BANDS):
        kind, _, edges = metric.removesuffix("_hz").partition("error_")
        low, high = (int(edge) / 1000 for edge in edges.split("_"))
        return f"{kind.replace('_', ' ')}error {low:g}–{high:g} kHz"
    names = {**METRIC_NAMES, "lsd_high": "high-band LSD", "flatness_high": "high-band flatness"}
    return names.get(metric, metric.replace("si_snr_", "SI-SNR "))


def unit(metric: str) -> str:
    """Return the unit of a metric."""
    if metric == "two_f":
        return "points"
    return "MOS" if metric in ("visqol", "zimtohrli") else "dB"


def least_difference(metric: str) -> float:
    """Return the difference below which two values of a metric are equal: rounding and inaudible."""
    return {"points": 0.1}.get(unit(metric), 0.01)


@dataclass(frozen=True)
class Scores:
    """The sorted table.

    Args:
        frame: A row a score. Columns `model`, `degradation`, `item`, `category` and `status` are categorical,
            `song_set` is the number of the item's songs in `sets`, and every metric of METRICS is float64,
            NaN where not defined.
        bitrates_bps: By degradation, None where unknown.
        sets: The sets of songs.
    """

    frame: pd.DataFrame
    bitrates_bps: dict[str, int | None]
    sets: SongSets

    @property
    def models(self) -> tuple[str, ...]:
        """Names, the untouched codec first."""
        return tuple(self.frame["model"].cat.categories)

    @property
    def restoration_models(self) -> tuple[str, ...]:
        """All models but the untouched codec."""
        return tuple(model for model in self.models if model != UNTOUCHED)

    @property
    def degradations(self) -> tuple[str, ...]:
        """Names, by bitrate, those without one last."""
        return tuple(self.bitrates_bps)

    def select(self, model: str, degradation: str | None = None, category: str | None = None) -> pd.DataFrame:
        """Return the rows of a model, sorted by degradation and item; none of a model that is not there."""
        chosen = self.frame["model"] == model
        if degradation is not None:
            chosen &= self.frame["degradation"] == degradation
        if category is not None:
            chosen &= self.frame["category"] == category
        return self.frame[chosen]

    def groups(self) -> Iterator[tuple[str, str, int | None, pd.DataFrame]]:
        """Yield model, degradation, its bitrate and the rows of all that occur together, in order."""
        for (model, degradation), rows in self.frame.groupby(["model", "degradation"], observed=True):
            yield model, degradation, self.bitrates_bps[degradation], rows

    def pairs(
        self, model: str, reference: str, degradation: str | None = None, category: str | None = None
    ) -> pd.DataFrame:
        """Return the rows of a model joined with the reference's for the same items and degradations.

        Only those that are scored in both; `difference` reads the result.
        """
        ours, theirs = (
            select_scored(self.select(name, degradation, category)) for name in (model, reference)
        )
        return ours.merge(theirs[[*_KEY[1:], *METRICS]], on=_KEY[1:], suffixes=("", _REFERENCE))

    def interval(self, values: pd.Series, rows: pd.DataFrame, bootstrap: Bootstrap) -> Interval:
        """Return the mean of values with its interval; `rows` are the rows that they are of."""
        return mean_interval(values.to_numpy(), rows["song_set"].to_numpy(), self.sets, bootstrap)


def select_scored(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were scored."""
    return rows[rows["status"] == SCORED]


def difference(pairs: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric's differences to the reference, NaN where one of the two is not defined."""
    return pairs[metric] - pairs[f"{metric}{_REFERENCE}"]


def count_lacking(pairs: pd.DataFrame, metric: str) -> int:
    """Return how many scores of the reference the model lacks."""
    return int((pairs[metric].isna() & pairs[f"{metric}{_REFERENCE}"].notna()).sum())


def exact_mean(values: pd.Series) -> float | None:
    """Return the mean of what is defined, exact to the last digit in any order; None without values."""
    defined = values.dropna().tolist()
    return math.fsum(defined) / len(defined) if defined else None


def read_scores(table: pa.Table) -> Scores:
    """Check and sort a table of scores.

    Args:
        table: With the columns of `schema.SCORES`, in any order; more columns do not matter.

    Raises:
        ValueError: a column is missing, a name is null, a category or status is unknown, a score is not
            finite, a scored item names no song, or a (model, item, degradation) is there twice.
    """
    if missing := [name for name in SCORES.names if name not in table.column_names]:
        raise ValueError(f"the table of scores has no column {', '.join(missing)}")
    table = table.select(SCORES.names).cast(SCORES).combine_chunks()
    for name in METRICS:
        if not pc.all(pc.is_finite(table[name]), min_count=0).as_py():
            raise ValueError(f"{name} holds scores that are not finite: what is not defined is null")
    frame = table.drop_columns(["songs", "reason"]).to_pandas()
    if frame[[*_KEY, "status"]].isna().any(axis=None):
        raise ValueError("model, item, degradation and status must be given in every row of the scores")
    frame["song_set"], sets = _number_song_sets(table["songs"])
    bitrates = _bitrates(frame)
    orders = {
        "model": sorted(frame["model"].unique(), key=lambda name: (name != UNTOUCHED, name)),
        "degradation": list(bitrates),
        "item": sorted(frame["item"].unique()),
        "category": CATEGORIES,
        "status": STATUSES,
    }
    for name, order in orders.items():
        frame[name] = _categorical(frame[name], order)
    frame = frame.sort_values(_KEY, ignore_index=True)
    if (twice := frame.duplicated(_KEY)).any():
        names = ", ".join(f"{name} {frame[name][twice.idxmax()]!r}" for name in _KEY)
        raise ValueError(f"{names} is in the table of scores twice: every row is one score")
    frame.loc[frame["status"] != SCORED, list(METRICS)] = np.nan
    scored = select_scored(frame)
    songless = sets.sizes[scored["song_set"].to_numpy()] == 0
    if songless.any():
        raise ValueError(f"item {scored['item'][songless].iloc[0]!r} is scored and names no song")
    return Scores(frame, bitrates, sets)


def _categorical(column: pd.Series, order: Sequence[str]) -> pd.Series:
    unknown = column[column.notna() & ~column.isin(order)]
    if len(unknown):
        raise ValueError(f"{unknown.iloc[0]!r} in the scores is none of {', '.join(order)}")
    return column.astype(pd.CategoricalDtype(order, ordered=True))


def _bitrates(frame: pd.DataFrame) -> dict[str, int | None]:
    lowest = frame.groupby("degradation")["bitrate_bps"].min()
    bitrates = {name: None if math.isnan(bitrate) else int(bitrate) for name, bitrate in lowest.items()}
    return dict(sorted(bitrates.items(), key=lambda one: (one[1] is None, one[1] or 0, one[0])))


def _number_song_sets(column: pa.ChunkedArray) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], SongSets]:
    """Number the rows' sets of songs; most rows share theirs, so only different ones are looked at."""
    encoded = pc.fill_null(pc.binary_join(column, _SEPARATOR), "").combine_chunks().dictionary_encode()
    names = [text.split(_SEPARATOR) if text else [] for text in encoded.dictionary.to_pylist()]
    numbers, sets = song_sets(names)
    return numbers[encoded.indices.to_numpy()], sets
