"""What is scored: the items of an evaluation, from a split of shards or from a folder of pairs.

Shape legend: samples are [channels, samples], float32, 44,100 Hz.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines import schema
from pipelines.audio.bandwidth import find_edge_hz, power_spectrogram
from pipelines.dataset.shard_reader import CorruptError, decode
from pipelines.dataset.shards import digest, read_commits
from pipelines.dataset.split import CommittedSplit
from pipelines.errors import UsageError
from pipelines.storage import parquet
from pipelines.storage.folder import Folder
from pipelines.storage.object_store import StoreError

_EDGE_ITEMS = 24
_HIGHEST_EDGE_HZ = 20_000.0
_SOURCES = "sources.parquet"
_THREADS = 8


class Item(NamedTuple):
    """One thing to score, at one or more degradations.

    Args:
        name: Recipe id, or the name of a pair.
        songs: Groups of songs that it is made of.
        category: One of `schema.CATEGORIES`.
    """

    name: str
    songs: tuple[str, ...]
    category: str


class Degradation(NamedTuple):
    """A degradation of items.

    Args:
        name: Of the column, or of the folder.
        bitrate_bps: As asked of the encoder; None where nobody knows.
    """

    name: str
    bitrate_bps: int | None


@dataclass(frozen=True)
class Loaded:
    """An item at one degradation.

    Args:
        clean: What the codec was given.
        degraded: What it left, decoded: what `apollo restore` would be given.
        gain: Linear level of the codec's output over the clean audio.
        restored: What somebody's model made of it, by that model's name, where the data bring it along:
            samples in the item's shape, perhaps not finite, or the reason why that result cannot be used.
    """

    clean: NDArray[np.float32]
    degraded: NDArray[np.float32]
    gain: float
    restored: dict[str, NDArray[np.float32] | str] = field(default_factory=dict)


class Collection(Protocol):
    """Items; safe to send to other nodes.

    Attributes:
        items: All of them.
        degradations: By bitrate.
        given: Models whose results the data bring along.
        fingerprint: Of everything that decides the scores.
    """

    items: tuple[Item, ...]
    degradations: tuple[Degradation, ...]
    given: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """A hash; with another one, other scores come."""
        ...

    def numbers(self, degradation: str) -> list[int]:
        """Give the places in `items` of those that have a degradation."""
        ...

    def load(self, numbers: Sequence[int], degradation: str) -> Iterator[Loaded | str]:
        """Give items at one degradation, in their order; one that cannot be used as the reason why."""
        ...


class ShardItems:
    """Rows of a split of shards; a `Collection`.

    Args:
        output: Path or URI of an output of preprocess.
        split: Which split.
        degradations: Names of those to score; none takes all.
        limit: Most items, taken evenly over the categories and through the split; None takes all.

    Raises:
        UsageError: there are no such shards, they are not finished, or they lack a degradation.
    """

    given: tuple[str, ...] = ()

    def __init__(self, output: str, split: str, degradations: tuple[str, ...], limit: int | None) -> None:
        self._split = CommittedSplit(output, split, degradations)
        self.degradations = tuple(
            Degradation(name, int(rate) if (rate := name.rpartition("_")[2]).isdigit() else None)
            for name in self._split.degradations
        )
        rows = _list_rows(Folder(output), self._split)
        chosen = spread([item.category for item, _, _ in rows], limit)
        self.items = tuple(rows[number][0] for number in chosen)
        self._places = [rows[number][1:] for number in chosen]

    @property
    def fingerprint(self) -> str:
        """A hash of the shards' bytes and the degradations."""
        return self._split.fingerprint

    def numbers(self, degradation: str) -> list[int]:
        """Give the places in `items` of those that have a degradation: all."""
        return list(range(len(self.items)))

    def load(self, numbers: Sequence[int], degradation: str) -> Iterator[Loaded | str]:
        """Give items at one degradation, in their order; one that cannot be used as the reason why."""
        wanted: dict[int, dict[int, str]] = {}
        for shard, row in (self._places[number] for number in numbers):
            wanted.setdefault(shard, {})[row] = degradation
        found = {shard: self._split.reader.read(shard, rows) for shard, rows in wanted.items()}
        for number in numbers:
            shard, row = self._places[number]
            stored = found[shard][row]
            try:
                if isinstance(stored, CorruptError):
                    raise stored
                clean, degraded = decode(stored)
            except CorruptError as error:
                yield error.reason
                continue
            yield Loaded(clean.numpy(), degraded.numpy(), stored.gain)


def _list_rows(output: Folder, split: CommittedSplit) -> list[tuple[Item, int, int]]:
    """Give every row with its shard and place; those of a shard that cannot be read by their place alone."""
    groups = _song_groups(output)

    def read(shard: int) -> list[Item]:
        commit = split.commits[shard]
        name, path = schema.shard_name(*commit.key), schema.shard_path(*commit.key)
        try:
            with output.open(path) as stream:
                columns = ["recipe_id", "category", "components"]
                rows: list[dict[str, Any]] = parquet.read_table(stream, columns).to_pylist()
        except (OSError, pa.ArrowException) as error:
            foreign = isinstance(error, parquet.ForeignTypeError)
            if not foreign and output.exists(path) and digest(output.read(path)) == commit.sha256:
                raise  # it was the storage's
            return [Item(f"{name} row {row}", (), schema.SONG) for row in range(commit.rows)]
        return [_item(row, groups) for row in rows]

    with ThreadPoolExecutor(_THREADS) as pool:
        listed = enumerate(pool.map(read, range(len(split.commits))))
        return [(item, shard, row) for shard, items in listed for row, item in enumerate(items)]


def _item(row: dict[str, Any], groups: dict[str, str]) -> Item:
    songs = {groups.get(part["source_id"], part["source_id"]) for part in row["components"]}
    return Item(row["recipe_id"], tuple(sorted(songs)), row["category"])


def _song_groups(output: Folder) -> dict[str, str]:
    """Tell of every source which group of songs it belongs to."""
    try:
        with output.open(_SOURCES) as stream:
            table = parquet.read_table(stream, ["source_id", "group_id"])
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"{output.location} has no {_SOURCES} that can be read ({error}): it says which items share a "
            "song. Name the whole output of preprocess"
        ) from error
    return dict(zip(table["source_id"].to_pylist(), table["group_id"].to_pylist()))


def spread(categories: Sequence[str], limit: int | None) -> list[int]:
    """Choose places evenly: of every category its share, and each from all over the split."""
    if limit is None or limit >= len(categories):
        return list(range(len(categories)))
    by_category = sorted(range(len(categories)), key=lambda place: (categories[place], place))
    return sorted(by_category[place * len(by_category) // limit] for place in range(limit))


def find_cutoff_hz(collection: Collection, degradation: str) -> float:
    """Find a degradation's low-pass edge, over the mean spectra of some items; 20 kHz is the highest.

    Returns:
        Hz; 20 kHz too where no item can be used.
    """
    numbers = collection.numbers(degradation)
    numbers = [numbers[place] for place in spread([""] * len(numbers), min(_EDGE_ITEMS, len(numbers)))]
    sound = [one for one in collection.load(numbers, degradation) if isinstance(one, Loaded)]
    if not sound:
        return _HIGHEST_EDGE_HZ
    clean, degraded = (
        np.sum([power_spectrogram(samples.T).mean(axis=1) for samples in versions], axis=0)
        for versions in zip(*((one.clean, one.degraded) for one in sound))
    )
    return min(find_edge_hz(clean, degraded), _HIGHEST_EDGE_HZ)


def open_collection(data: str, split: str, degradations: tuple[str, ...], limit: int | None) -> Collection:
    """Open what is to be scored, whichever of the two it is.

    Raises:
        UsageError: there is nothing to score.
    """
    from pipelines.evaluation.pair_items import PairItems

    if read_commits(Folder(data)):
        return ShardItems(data, split, degradations, limit)
    return PairItems(data, degradations, limit)
