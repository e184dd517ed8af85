"""Confidence intervals of mean scores, bootstrapped over songs.

Items of one song are correlated, so songs are resampled with replacement, not items. The shift of the mean
in a resample is the sum over songs of (times drawn - 1) x (influence of the song), where the influence is the
sum of its items' distances from the mean, divided by the number of items: with as many items of every song
this is the ordinary cluster bootstrap.

An item may be a mix of several songs (multiple membership). Then:

- It has the full multiplicity of each of its songs, as in the first order of the product weights of the
  pigeonhole bootstrap (Owen, 2007; Davezies et al., 2021, for pairs). The mean of the multiplicities splits a
  song's effect over its partners and covers too little
  (tests/pipelines/evaluation/analysis/test_bootstrap.py).
- A mix of k out of S songs differs from the mean by only (S - k) / (S - 1) of what its songs do, since it
  shares songs with the rest: its distance is scaled accordingly.
- Effects of an item that are not of its songs count once per song, so that intervals of mixes are too wide
  rather than too narrow. Songs are assumed to be drawn evenly into the mixes.

Percentiles of few songs are too narrow: they are widened by sqrt(S / (S - 1)) x t / z (Hesterberg, 2015),
where S is the number of songs, or of different sets of songs if those are fewer. With less than two, the
interval is undefined.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES = 2000
LEVEL = 0.95
_BLOCK = 1_000_000  # songs drawn at once, bounds memory


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Args:
        mean: None without items.
        low: Lower bound, None if undefined.
        high: Upper bound, None if undefined.
        items: Number of values.
        songs: Number of songs among them.
        left_out: Number of undefined values, which do not count.
        reason: Why the bounds are undefined; empty if they are defined.
    """

    mean: float | None
    low: float | None
    high: float | None
    items: int
    songs: int
    left_out: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Settings of the bootstrap.

    Args:
        resamples: Number of resamples.
        seed: Seed of the resampling.
        level: Confidence level, between 0 and 1.
    """

    resamples: int = RESAMPLES
    seed: int = 0
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.resamples < 1:
            raise ValueError(
                f"level is {self.level}, resamples {self.resamples}: level must be between 0 and 1, "
                "resamples 1 or more"
            )


@dataclass(frozen=True)
class SongSets:
    """The different sets of songs that items are made of, sorted.

    Args:
        codes: Songs, set after set, int64; songs are numbered in the order of their names.
        sizes: Songs of each set, [sets].
    """

    codes: NDArray[np.int64]
    sizes: NDArray[np.int64]


def song_sets(songs: Iterable[Iterable[str]]) -> tuple[NDArray[np.int64], SongSets]:
    """Number the distinct sets of songs; repetitions and order do not matter.

    Args:
        songs: The songs of every item.

    Returns:
        The number of every item's set, [items]; the sets.
    """
    items = [tuple(sorted(set(names))) for names in songs]
    different = sorted(set(items))
    place = {names: number for number, names in enumerate(different)}
    number = {name: code for code, name in enumerate(sorted({name for names in different for name in names}))}
    codes = np.array([number[name] for names in different for name in names], np.int64)
    sizes = np.array([len(names) for names in different], np.int64)
    return np.array([place[names] for names in items], np.int64), SongSets(codes, sizes)


def mean_interval(
    values: NDArray[np.float64],
    set_numbers: NDArray[np.int64],
    sets: SongSets,
    bootstrap: Bootstrap = Bootstrap(),
) -> Interval:
    """Return the mean of scores with its interval.

    Sums in floating point depend on the order of their parts: the same items in another order may differ in
    the last digit.

    Args:
        values: [items]; NaN is left out.
        set_numbers: Each item's set of songs, [items].
        sets: The sets; there may be more than the items use.
        bootstrap: Resamples, seed and coverage.

    Raises:
        ValueError: an item with a value names no song.
    """
    numbers = set_numbers
    defined = ~np.isnan(values)
    left_out = int(len(values) - defined.sum())
    values, numbers = values[defined], numbers[defined]
    if not len(values):
        return Interval(None, None, None, 0, 0, left_out, "no item has this score")
    if (sets.sizes[numbers] == 0).any():
        raise ValueError("an item with a score names no song: an interval over songs needs them")
    mean = math.fsum(values.tolist()) / len(values)
    influence, groups = _influence(values - mean, numbers, sets)
    if groups < 2:
        reason = (
            "all items are of one song" if len(influence) == 1 else "all items are mixes of the same songs"
        )
        return Interval(mean, None, None, len(values), len(influence), left_out, reason)
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(_shifts(influence, bootstrap.resamples, bootstrap.seed), (tail, 1 - tail))
    student_t = float(stdtrit(groups - 1, 1 - tail))
    wider = math.sqrt(groups / (groups - 1)) * student_t / NormalDist().inv_cdf(1 - tail)
    bounds = mean + wider * float(low), mean + wider * float(high)
    return Interval(mean, *bounds, len(values), len(influence), left_out)


def _influence(
    distances: NDArray[np.float64], numbers: NDArray[np.int64], sets: SongSets
) -> tuple[NDArray[np.float64], int]:
    """Return the influence of each song on the mean, [songs], and the number of independent groups."""
    used = np.bincount(numbers, minlength=len(sets.sizes)) > 0
    codes = sets.codes[np.repeat(used, sets.sizes)]
    different, places = np.unique(codes, return_inverse=True)
    num_songs = len(different)
    sizes = sets.sizes[used]
    scale = (num_songs - 1) / np.maximum(num_songs - sizes, 1)
    by_set = np.bincount(numbers, weights=distances, minlength=len(sets.sizes))[used] * scale
    by_song = np.bincount(places, weights=np.repeat(by_set, sizes), minlength=num_songs)
    return by_song / len(distances), min(num_songs, int(used.sum()))


def _shifts(influence: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    counts = _draws(len(influence), resamples, seed)
    step = max(_BLOCK // len(influence), 1)
    # not a matrix product, whose last digit may depend on the number of threads
    blocks = [
        ((counts[start : start + step] - 1.0) * influence).sum(1) for start in range(0, resamples, step)
    ]
    return np.concatenate(blocks)


@lru_cache(maxsize=4)
def _draws(num_songs: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """Return how often every song is drawn, [resamples, songs]."""
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, num_songs), np.uint16)
    step = max(_BLOCK // num_songs, 1)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(num_songs, size=(rows, num_songs)) + num_songs * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * num_songs).reshape(
            rows, -1
        )
    return counts
