"""Order of training examples: the row and shard at every position, as a pure function.

Positions count examples through the whole run. A pass over all rows is a permutation of the shards, cut into
windows of some shards, with the rows of a window permuted: every worker can compute any position alone, and
shards are still read one after the other.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby
from typing import NamedTuple, Protocol

from apollo import rng

_CACHE_SIZE = 8


class RowRef(NamedTuple):
    """Location of an example.

    Args:
        position: Of the example in the run.
        shard: Number in the list of shards that the order was made of.
        row: Number in that shard.
    """

    position: int
    shard: int
    row: int


class Order(Protocol):
    """Order of the rows of a split.

    Attributes:
        num_rows: Number of rows.
    """

    num_rows: int

    def at(self, index: int) -> RowRef:
        """Return the location of one example."""
        ...

    def windows(self, indices: Iterable[int]) -> Iterator[list[RowRef]]:
        """Yield the locations of examples, grouped by what is read together."""
        ...


class ShuffledOrder:
    """Shuffled, infinite order: pass after pass over all rows.

    Args:
        rows: Number of rows of each shard; may be 0.
        seed: Another seed gives another order.
        window_shards: Shards whose rows are mixed with each other.
    """

    def __init__(self, rows: Sequence[int], *, seed: int, window_shards: int) -> None:
        self._rows = rows
        self._filled = [shard for shard, number in enumerate(rows) if number]
        self._seed, self._window_shards = seed, window_shards
        self.num_rows = sum(rows)
        self._windows_of_pass = lru_cache(_CACHE_SIZE)(self._draw_pass)
        self._rows_of_window = lru_cache(_CACHE_SIZE)(self._draw_window)

    def _draw_pass(self, number: int) -> tuple[list[list[int]], list[int]]:
        """Return the shards of every window of a pass, and the position where each window starts."""
        order = rng.permutation(len(self._filled), self._seed, "shards", number)
        shards = [self._filled[place] for place in order]
        size = self._window_shards
        windows = [shards[first : first + size] for first in range(0, len(shards), size)]
        lengths = (sum(self._rows[shard] for shard in window) for window in windows)
        return windows, list(accumulate(lengths, initial=0))[:-1]

    def _draw_window(self, number: int, window: int) -> list[tuple[int, int]]:
        """Return shard and row of every position of a window."""
        windows, starts = self._windows_of_pass(number)
        rows = [(shard, row) for shard in windows[window] for row in range(self._rows[shard])]
        mixed = rng.permutation(len(rows), self._seed, "rows", number, starts[window])
        return [rows[place] for place in mixed]

    def _locate(self, index: int) -> tuple[int, int]:
        number, place = divmod(index, self.num_rows)
        return number, bisect_right(self._windows_of_pass(number)[1], place) - 1

    def at(self, index: int) -> RowRef:
        """Return the location of one example."""
        number, window = self._locate(index)
        start = self._windows_of_pass(number)[1][window]
        return RowRef(index, *self._rows_of_window(number, window)[index % self.num_rows - start])

    def windows(self, indices: Iterable[int]) -> Iterator[list[RowRef]]:
        """Yield the locations of examples, grouped by window.

        Args:
            indices: Increasing positions.
        """
        for _, run in groupby(indices, self._locate):
            yield [self.at(index) for index in run]


class SequentialOrder:
    """Sequential order, shard by shard; used by validation.

    Args:
        rows: How many rows each shard has.
        limit: Maximum number of rows.
    """

    def __init__(self, rows: Sequence[int], *, limit: int | None = None) -> None:
        self._starts = list(accumulate(rows, initial=0))
        self.num_rows = self._starts[-1] if limit is None else min(limit, self._starts[-1])

    def at(self, index: int) -> RowRef:
        """Return the location of one example."""
        shard = bisect_right(self._starts, index % self.num_rows) - 1
        return RowRef(index, shard, index % self.num_rows - self._starts[shard])

    def windows(self, indices: Iterable[int]) -> Iterator[list[RowRef]]:
        """Yield the locations of examples, grouped by shard."""
        for _, run in groupby(map(self.at, indices), lambda ref: (ref.position // self.num_rows, ref.shard)):
            yield list(run)
