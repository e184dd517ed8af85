"""Intervals over songs: worked out by hand, by simulation, and where there can be none."""

import math
import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from pipelines.evaluation.analysis import bootstrap
from pipelines.evaluation.analysis.bootstrap import Bootstrap, Interval, song_sets


def mean_interval(
    values: Sequence[float | None], songs: Sequence[Sequence[str]], **settings: Any
) -> Interval:
    """Return the interval of a score an item, None where it is not defined; the items in any order."""
    numbers, sets = song_sets(songs)
    scores = np.array([math.nan if value is None else value for value in values], np.float64)
    order = np.lexsort((scores, numbers))
    return bootstrap.mean_interval(scores[order], numbers[order], sets, Bootstrap(**settings))


def test_two_songs_by_hand() -> None:
    # Means of the songs are 1 and 3. A resample draws the first 0, 1 or 2 times (1/4, 1/2, 1/4): its mean is
    # 3, 2 or 1, so the percentiles are 1 and 3. Widened by sqrt(2 / 1) x t(1) / z, which follows.
    found = mean_interval([0.0, 2.0, 2.0, 4.0], [["a"], ["a"], ["b"], ["b"]])
    wider = math.sqrt(2) * 12.706204736 / 1.959963985
    assert (found.mean, found.items, found.songs, found.left_out, found.reason) == (2.0, 4, 2, 0, "")
    assert found.low == pytest.approx(2 - wider, abs=1e-6)
    assert found.high == pytest.approx(2 + wider, abs=1e-6)


def test_all_pairs_of_songs_are_as_informative_as_the_songs() -> None:
    effects = [0.0, 1.0, 4.0, 9.0, 16.0]
    alone = mean_interval(effects, [[str(song)] for song in range(5)])
    pairs = list(combinations(range(5), 2))
    mixed = mean_interval(
        [(effects[first] + effects[second]) / 2 for first, second in pairs],
        [[str(first), str(second)] for first, second in pairs],
    )
    assert mixed.mean == pytest.approx(6.0) and alone.mean == 6.0
    assert mixed.low == pytest.approx(alone.low) and mixed.high == pytest.approx(alone.high)


def test_many_songs_approach_the_textbook_interval() -> None:
    values = np.random.default_rng(1).standard_normal(400)
    found = mean_interval(values.tolist(), [[f"song {number}"] for number in range(400)], resamples=4000)
    half = 1.9659273 * values.std(ddof=1) / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.08 * half)  # noise of 4,000 resamples: 3 %
    assert found.high == pytest.approx(values.mean() + half, abs=0.08 * half)


@pytest.mark.parametrize(
    ("songs", "published"),
    [(2, 12.7062047), (3, 4.3026527), (6, 2.5705818), (11, 2.2281389), (30, 2.0452296)],
)
def test_percentiles_are_widened_by_student_t_of_published_tables(songs: int, published: float) -> None:
    values = np.arange(songs, dtype=np.float64)
    names = [[f"{song:02d}"] for song in range(songs)]  # songs are numbered in the order of their names
    found = mean_interval(values.tolist(), names, resamples=100)
    influence = (values - values.mean()) / songs
    low, high = np.quantile(bootstrap._shifts(influence, 100, 0), (0.025, 0.975))
    wider = math.sqrt(songs / (songs - 1)) * published / 1.959963985
    assert found.low == pytest.approx(values.mean() + wider * low, rel=1e-6)
    assert found.high == pytest.approx(values.mean() + wider * high, rel=1e-6)


def _mixes(generator: np.random.Generator, most: int) -> tuple[list[float], list[list[str]]]:
    """Items of 12 songs with an effect each, mixed of up to `most`; the true mean is 0."""
    effects = generator.standard_normal(12)
    values, songs = [], []
    for _ in range(96):
        chosen = generator.choice(12, generator.integers(1, most + 1), replace=False)
        values.append(float(effects[chosen].mean() + 0.5 * generator.standard_normal()))
        songs.append([str(song) for song in chosen])
    return values, songs


@pytest.mark.parametrize("most", [1, 4])
def test_coverage_over_songs_is_nominal_and_over_items_is_not(most: int) -> None:
    generator = np.random.default_rng(7)
    by_songs = by_items = 0
    for _ in range(300):
        values, songs = _mixes(generator, most)
        found = mean_interval(values, songs, resamples=400)
        own = mean_interval(values, [[f"item {number}"] for number in range(len(values))], resamples=400)
        assert found.low is not None and found.high is not None
        assert own.low is not None and own.high is not None
        by_songs += found.low <= 0 <= found.high
        by_items += own.low <= 0 <= own.high
    # 300 trials of 95 % have a standard deviation of 1.3 %: four of them, and mixes may be a little too wide
    assert 0.90 <= by_songs / 300 <= 0.995
    assert by_items / 300 < 0.75


def test_a_share_of_the_multiplicity_for_each_song_would_not_cover() -> None:
    """The weights that look natural, the mean multiplicity of an item's songs, are too narrow for mixes."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        values, songs = _mixes(generator, 4)
        member = np.array([[str(song) in names for song in range(12)] for names in songs], float)
        counts = generator.multinomial(12, [1 / 12] * 12, size=400)
        weights = counts @ (member / member.sum(1, keepdims=True)).T
        low, high = np.quantile(weights @ np.array(values) / weights.sum(1), (0.025, 0.975))
        wider = math.sqrt(12 / 11) * 2.2009852 / 1.96
        middle = float(np.mean(values))
        covered += middle + wider * (low - middle) <= 0 <= middle + wider * (high - middle)
    assert covered / 200 < 0.85


@pytest.mark.parametrize("most", [1, 4])
def test_order_of_items_and_songs_does_not_matter(most: int) -> None:
    values, songs = _mixes(np.random.default_rng(3), most)
    expected = mean_interval(values, songs)
    shuffled = list(zip(values, songs, strict=True))
    random.Random(5).shuffle(shuffled)
    again = mean_interval(
        [value for value, _ in shuffled], [[*reversed(names), names[0]] for _, names in shuffled]
    )
    assert again == expected  # to the last digit


def test_interval_depends_on_the_seed_only() -> None:
    values, songs = _mixes(np.random.default_rng(3), 1)
    bootstrap._draws.cache_clear()
    first = mean_interval(values, songs, seed=1)
    assert first == mean_interval(values, songs, seed=1)
    assert first != mean_interval(values, songs, seed=2)


def test_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, songs = _mixes(np.random.default_rng(3), 4)
    expected = mean_interval(values, songs)
    bootstrap._draws.cache_clear()
    monkeypatch.setattr(bootstrap, "_BLOCK", 100)
    assert mean_interval(values, songs) == expected
    bootstrap._draws.cache_clear()


def test_one_song_has_no_interval() -> None:
    expected = Interval(1.5, None, None, 2, 1, 0, "all items are of one song")
    assert mean_interval([1.0, 2.0], [["a"], ["a", "a"]]) == expected


def test_mixes_of_the_same_songs_have_no_interval() -> None:
    found = mean_interval([1.0, 2.0, 6.0], [["a", "b"], ["b", "a"], ["a", "b"]])
    assert (found.mean, found.low, found.songs) == (3.0, None, 2)
    assert found.reason == "all items are mixes of the same songs"


def test_two_mixes_of_many_songs_are_no_more_certain_than_two_songs() -> None:
    mixes = mean_interval([0.0, 2.0], [list("abcdefgh"), list("ijklmnop")])
    songs = mean_interval([0.0, 2.0], [["a"], ["b"]])
    assert mixes.low is not None and songs.low is not None
    assert mixes.low <= songs.low


def test_undefined_values_are_left_out_and_counted() -> None:
    songs = [["a"], ["b"], ["c"], ["d"]]
    found = mean_interval([1.0, None, 3.0, 5.0], songs)
    assert (found.mean, found.items, found.songs, found.left_out) == (3.0, 3, 3, 1)
    nothing = mean_interval([None] * 4, songs)
    assert nothing == Interval(None, None, None, 0, 0, 4, "no item has this score")
    assert mean_interval([], []).reason == "no item has this score"


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="names no song"):
        mean_interval([1.0, 2.0], [["a"], []])
    with pytest.raises(ValueError, match="level"):
        mean_interval([1.0, 2.0], [["a"], ["b"]], level=1.0)
    with pytest.raises(ValueError, match="resamples"):
        mean_interval([1.0, 2.0], [["a"], ["b"]], resamples=0)
