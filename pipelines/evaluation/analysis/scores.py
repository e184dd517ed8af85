"""The table of scores (`schema.SCORES`) as sorted columns: what tables, verdicts and promotion are made of.

Rows are sorted by model (the untouched codec first), degradation (by bitrate), and item, so that nothing
depends on the order in which trials ended. Only items of status `scored` have values.

Shape legend: every array is [rows].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.evaluation.analysis.bootstrap import Bootstrap, Interval, SongSets, mean_interval, song_sets
from pipelines.schema import CATEGORIES, ERROR_BANDS, METRICS, SCORED, SCORES, STATUSES, UNTOUCHED

PAPER_METRICS = ("sdr", "si_snr", "visqol")
LOWER_IS_BETTER = frozenset(("lsd_high", *ERROR_BANDS))  # of all others higher is better
_BETWEEN = "\x1f"  # joins the names of songs


def label(metric: str) -> str:
    """Name a metric for people: `SI-SNR`, `error 0-4 kHz`."""
    if metric in ERROR_BANDS:
        low, high = (int(edge) / 1000 for edge in metric.split("_")[1:3])
        return f"error {low:g}–{high:g} kHz"
    names = {"sdr": "SDR", "si_snr": "SI-SNR", "visqol": "ViSQOL", "snr": "SNR", "lsd_high": "high-band LSD"}
    return names.get(metric, metric.replace("si_snr_", "SI-SNR "))


def unit(metric: str) -> str:
    """Give the unit of a metric."""
    return "MOS" if metric == "visqol" else "dB"


def describe(degradation: str) -> str:
    """Name a degradation for people: `MP3 at 24 kbps` for `mp3_24000`; others by their own name."""
    codec, _, bitrate = degradation.rpartition("_")
    if codec and bitrate.isdecimal():
        return f"{codec.upper()} at {int(bitrate) / 1000:g} kbps"
    return f"codec's output ({degradation})"


@dataclass(frozen=True)
class Scores:
    """The sorted columns.

    Args:
        models: Names, the untouched codec first.
        degradations: Names, by bitrate, those without one last.
        bitrates_bps: Of each degradation, None where unknown.
        items: Names.
        model: Place in `models`.
        degradation: Place in `degradations`.
        item: Place in `items`.
        category: Place in CATEGORIES, -1 where there is none.
        status: Place in STATUSES.
        values: Every metric of METRICS, NaN where not defined.
        numbers: Place of the item's songs in `sets`.
        sets: The sets of songs.
    """

    models: tuple[str, ...]
    degradations: tuple[str, ...]
    bitrates_bps: tuple[int | None, ...]
    items: tuple[str, ...]
    model: NDArray[np.int64]
    degradation: NDArray[np.int64]
    item: NDArray[np.int64]
    category: NDArray[np.int64]
    status: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    numbers: NDArray[np.int64]
    sets: SongSets

    @property
    def restoration_models(self) -> tuple[str, ...]:
        """All models but the untouched codec."""
        return tuple(model for model in self.models if model != UNTOUCHED)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """The rows that count."""
        found: NDArray[np.bool_] = self.status == STATUSES.index(SCORED)
        return found

    def rows(
        self, model: str, degradation: str | None = None, category: str | None = None
    ) -> NDArray[np.int64]:
        """Give the rows of a model, sorted by degradation and item; none of a model that is not there."""
        chosen = self.model == (self.models.index(model) if model in self.models else -1)
        if degradation is not None:
            chosen = chosen & (self.degradation == self.degradations.index(degradation))
        if category is not None:
            chosen = chosen & (self.category == CATEGORIES.index(category))
        return np.flatnonzero(chosen)

    def pairs(
        self, model: str, reference: str, degradation: str | None = None, category: str | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the rows of two models for the same items and degradations, scored in both, in one order."""
        ours, theirs = (self.rows(name, degradation, category) for name in (model, reference))
        ours, theirs = ours[self.scored[ours]], theirs[self.scored[theirs]]
        key = self.degradation * len(self.items) + self.item
        _, first, second = np.intersect1d(key[ours], key[theirs], assume_unique=True, return_indices=True)
        return ours[first], theirs[second]

    def mean(self, metric: str, rows: NDArray[np.int64]) -> float | None:
        """Give the mean of what is defined; None of nothing."""
        values = self.values[metric][rows]
        defined = values[~np.isnan(values)].tolist()
        return math.fsum(defined) / len(defined) if defined else None

    def interval(
        self,
        metric: str,
        rows: NDArray[np.int64],
        reference: NDArray[np.int64] | None = None,
        *,
        bootstrap: Bootstrap,
    ) -> Interval:
        """Give the mean of a metric over rows, or of the difference to rows that `pairs` gave."""
        values = self.values[metric][rows]
        if reference is not None:
            values = values - self.values[metric][reference]
        return mean_interval(values, self.numbers[rows], self.sets, bootstrap)


def read_scores(table: pa.Table) -> Scores:
    """Sort a table of scores into columns.

    Args:
        table: With the columns of `schema.SCORES`, in any order; more columns do not matter.

    Raises:
        ValueError: a column is missing, a name is null, a category or status is unknown, a score is not
            finite, a scored item names no song, or a (model, item, degradation) is there twice.
    """
    if missing := [name for name in SCORES.names if name not in table.column_names]:
        raise ValueError(f"the table of scores has no column {', '.join(missing)}")
    table = table.select(SCORES.names).cast(SCORES).combine_chunks()
    bitrates = _bitrates(table)
    models = sorted(pc.unique(table["model"]).to_pylist(), key=lambda name: (name != UNTOUCHED, name))
    degradations = sorted(bitrates, key=lambda name: (bitrates[name] is None, bitrates[name] or 0, name))
    items = sorted(pc.unique(table["item"]).to_pylist())
    model, degradation, item = (
        _places(table[name], names)
        for name, names in (("model", models), ("degradation", degradations), ("item", items))
    )
    order = np.lexsort((item, degradation, model))
    model, degradation, item = model[order], degradation[order], item[order]
    _refuse_twice(model, degradation, item, (models, degradations, items))
    status = _places(table["status"], STATUSES)[order]
    values = {name: _values(table[name], name)[order] for name in METRICS}
    for column in values.values():
        column[status != STATUSES.index(SCORED)] = np.nan
    numbers, sets = _songs(table["songs"])
    scores = Scores(
        models=tuple(models),
        degradations=tuple(degradations),
        bitrates_bps=tuple(bitrates[name] for name in degradations),
        items=tuple(items),
        model=model,
        degradation=degradation,
        item=item,
        category=_places(table["category"], CATEGORIES, null=True)[order],
        status=status,
        values=values,
        numbers=numbers[order],
        sets=sets,
    )
    songless = scores.scored & (sets.sizes[scores.numbers] == 0)
    if songless.any():
        raise ValueError(f"item {items[item[songless.argmax()]]!r} is scored and names no song")
    return scores


def _places(column: pa.ChunkedArray, names: Sequence[str], *, null: bool = False) -> NDArray[np.int64]:
    if column.null_count and not null:
        raise ValueError("model, item, degradation and status must be given in every row of the scores")
    found = pc.index_in(column, value_set=pa.array(names, pa.string()), skip_nulls=True)
    unknown = pc.and_(pc.is_null(found), pc.is_valid(column))
    if pc.any(unknown).as_py():
        value = column.filter(unknown)[0].as_py()
        raise ValueError(f"{value!r} in the scores is none of {', '.join(names)}")
    places: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return places


def _bitrates(table: pa.Table) -> dict[str, int | None]:
    if table["degradation"].null_count or table["model"].null_count or table["item"].null_count:
        raise ValueError("model, item, degradation and status must be given in every row of the scores")
    lowest = table.group_by("degradation").aggregate([("bitrate_bps", "min")])
    return dict(zip(lowest["degradation"].to_pylist(), lowest["bitrate_bps_min"].to_pylist()))


def _refuse_twice(
    model: NDArray[np.int64],
    degradation: NDArray[np.int64],
    item: NDArray[np.int64],
    names: tuple[Sequence[str], Sequence[str], Sequence[str]],
) -> None:
    same = (np.diff(model) == 0) & (np.diff(degradation) == 0) & (np.diff(item) == 0)
    if same.any():
        row = same.argmax()
        raise ValueError(
            f"model {names[0][model[row]]!r}, degradation {names[1][degradation[row]]!r}, item "
            f"{names[2][item[row]]!r} is in the table of scores twice: every row is one score"
        )


def _values(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    if not pc.all(pc.is_finite(column), min_count=0).as_py():
        raise ValueError(f"{name} holds scores that are not finite: what is not defined is null")
    found: NDArray[np.float64] = pc.fill_null(column, np.nan).to_numpy().copy()
    return found


def _songs(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], SongSets]:
    """Number the rows' sets of songs; most rows share theirs, so only different ones are looked at."""
    encoded = pc.fill_null(pc.binary_join(column, _BETWEEN), "").combine_chunks().dictionary_encode()
    names = [text.split(_BETWEEN) if text else [] for text in encoded.dictionary.to_pylist()]
    numbers, sets = song_sets(names)
    return numbers[encoded.indices.to_numpy()], sets
