"""The order of training examples: every row once a pass, the same for all, in sequence through the shards."""

from collections import Counter
from itertools import pairwise

import pytest

from pipelines.dataset.sampling import SequentialOrder, ShuffledOrder

ROWS = [4, 0, 7, 1, 4, 4, 3, 0, 5, 4]  # 32 rows
TOTAL = sum(ROWS)


def _order(**changes: int) -> ShuffledOrder:
    return ShuffledOrder(ROWS, **({"seed": 0, "window_shards": 3} | changes))


def _rows(order: ShuffledOrder, first: int, last: int) -> list[tuple[int, int]]:
    return [order.at(index)[1:] for index in range(first, last)]


@pytest.mark.parametrize("number", [0, 1, 5])
@pytest.mark.parametrize("window_shards", [1, 3, 100])
def test_every_pass_has_every_row_once(number: int, window_shards: int) -> None:
    seen = Counter(_rows(_order(window_shards=window_shards), number * TOTAL, (number + 1) * TOTAL))
    assert seen == Counter((shard, row) for shard, rows in enumerate(ROWS) for row in range(rows))


def test_passes_and_seeds_differ() -> None:
    passes = [tuple(_rows(_order(), number * TOTAL, (number + 1) * TOTAL)) for number in range(5)]
    seeds = [tuple(_rows(_order(seed=seed), 0, TOTAL)) for seed in range(5)]
    assert len({*passes, *seeds}) == 9  # seed 0's first pass is in both


def test_order_is_what_it_was() -> None:
    """A run that is resumed with a later version must see the same order: changing it is a new format."""
    assert _rows(ShuffledOrder([3, 3, 3], seed=7, window_shards=2), 0, 9) == [
        (2, 2), (1, 2), (2, 1), (1, 1), (2, 0), (1, 0), (0, 1), (0, 0), (0, 2),
    ]  # fmt: skip


def test_shards_of_a_window_are_done_before_the_next_window_begins() -> None:
    shards = [shard for shard, _ in _rows(_order(window_shards=3), 0, TOTAL)]
    spans = {shard: (shards.index(shard), TOTAL - shards[::-1].index(shard)) for shard in set(shards)}
    open_at_once = max(sum(first <= place < last for first, last in spans.values()) for place in range(TOTAL))
    assert open_at_once <= 3


def test_rows_of_a_window_are_mixed() -> None:
    shards = [shard for shard, _ in _rows(ShuffledOrder([50, 50], seed=1, window_shards=2), 0, 100)]
    changes = sum(first != second for first, second in pairwise(shards))
    assert 30 < changes < 70  # 50 expected of independent draws


def test_first_rows_are_uniform_over_seeds() -> None:
    counts = Counter(ShuffledOrder([4, 4], seed=seed, window_shards=2).at(0)[1:] for seed in range(800))
    assert len(counts) == 8
    assert all(65 < count < 140 for count in counts.values())  # 100 expected, standard deviation 9.4


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
def test_windows_have_the_requested_positions_in_order(workers: int) -> None:
    for rank in range(workers):
        asked = range(5 + rank, 3 * TOTAL + 5, workers)
        windows = list(_order().windows(asked))
        given = [place for window in windows for place in window]
        assert [ref.position for ref in given] == list(asked)
        assert given == [_order().at(number) for number in asked]
        for window in windows:  # one window of one pass: at most its shards, no row twice
            assert len({ref.shard for ref in window}) <= 3
            assert len({place[1:] for place in window}) == len(window)


def test_fixed_order_is_row_after_row_and_round_again() -> None:
    order = SequentialOrder([2, 0, 1])
    assert [order.at(number) for number in range(4)] == [(0, 0, 0), (1, 0, 1), (2, 2, 0), (3, 0, 0)]
    assert [len(window) for window in order.windows(range(5))] == [2, 1, 2]


def test_fixed_order_ends_at_its_limit() -> None:
    assert SequentialOrder([2, 3], limit=3).num_rows == 3
    assert SequentialOrder([2, 3], limit=30).num_rows == 5
