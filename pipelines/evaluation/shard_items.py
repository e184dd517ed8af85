"""Items of an evaluation that are rows of a split of shards.

Shape legend: samples are [channels, samples], float32, 44,100 Hz.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipelines import schema
from pipelines.audio.degradations import requested_bitrate
from pipelines.dataset.shard_reader import CorruptRowError, decode
from pipelines.dataset.shards import sha256_hex
from pipelines.dataset.split import CommittedSplit
from pipelines.errors import UsageError
from pipelines.evaluation.items import Degradation, EvaluationItem, ItemInfo, choose_evenly
from pipelines.storage import parquet
from pipelines.storage.folder import Folder
from pipelines.storage.object_store import StoreError

_SOURCES = "sources.parquet"
_THREADS = 8


class ShardItems:
    """Rows of a split of shards; an `ItemSource`.

    Args:
        output: Path or URI of an output of preprocess.
        split: Name of the split.
        degradations: Names of those to score; empty takes all.
        limit: Maximum number of items, taken evenly over categories and shards; None takes all.

    Raises:
        UsageError: the split does not exist, is not complete, or lacks a degradation.
    """

    result_models: tuple[str, ...] = ()

    def __init__(self, output: str, split: str, degradations: tuple[str, ...], limit: int | None) -> None:
        self._split = CommittedSplit(output, split, degradations)
        self.degradations = tuple(
            Degradation(name, requested_bitrate(name)) for name in self._split.degradations
        )
        rows = _list_rows(Folder(output), self._split)
        chosen = choose_evenly([item.category for item, _, _ in rows], limit)
        self.items = tuple(rows[number][0] for number in chosen)
        self._locations = [rows[number][1:] for number in chosen]

    @property
    def fingerprint(self) -> str:
        """A hash of the shards' bytes and the degradations."""
        return self._split.fingerprint

    def indices(self, degradation: str) -> list[int]:
        """Return the indices of all items: every row has every degradation."""
        return list(range(len(self.items)))

    def load(self, indices: Sequence[int], degradation: str) -> Iterator[EvaluationItem | str]:
        """Yield items at one degradation in the given order, or the reason why one cannot be used."""
        wanted: dict[int, dict[int, str]] = {}
        for shard, row in (self._locations[index] for index in indices):
            wanted.setdefault(shard, {})[row] = degradation
        found = {shard: self._split.reader.read(shard, rows) for shard, rows in wanted.items()}
        for index in indices:
            shard, row = self._locations[index]
            stored = found[shard][row]
            try:
                if isinstance(stored, CorruptRowError):
                    raise stored
                clean, degraded = decode(stored)
            except CorruptRowError as error:
                yield error.reason
                continue
            yield EvaluationItem(
                clean.numpy(), degraded.numpy(), stored.gain, bandwidth_hz=stored.bandwidth_hz
            )


def _list_rows(output: Folder, split: CommittedSplit) -> list[tuple[ItemInfo, int, int]]:
    """Return every row with its shard and index; rows of an unreadable shard are named by their index."""
    groups = _song_groups(output)

    def read(shard: int) -> list[ItemInfo]:
        commit = split.commits[shard]
        name, path = schema.shard_name(*commit.key), schema.shard_path(*commit.key)
        try:
            with output.open(path) as stream:
                columns = ["recipe_id", "category", "components"]
                rows: list[dict[str, Any]] = parquet.read_table(stream, columns).to_pylist()
        except (OSError, pa.ArrowException) as error:
            foreign = isinstance(error, parquet.ForeignTypeError)
            if not foreign and output.exists(path) and sha256_hex(output.read(path)) == commit.sha256:
                raise  # the shard is intact: the storage failed
            return [ItemInfo(f"{name} row {row}", (), schema.SONG) for row in range(commit.rows)]
        return [_item(row, groups) for row in rows]

    with ThreadPoolExecutor(_THREADS) as pool:
        listed = enumerate(pool.map(read, range(len(split.commits))))
        return [(item, shard, row) for shard, items in listed for row, item in enumerate(items)]


def _item(row: dict[str, Any], groups: dict[str, str]) -> ItemInfo:
    songs = {groups.get(part["source_id"], part["source_id"]) for part in row["components"]}
    return ItemInfo(row["recipe_id"], tuple(sorted(songs)), row["category"])


def _song_groups(output: Folder) -> dict[str, str]:
    """Return the song group of every source."""
    try:
        with output.open(_SOURCES) as stream:
            table = parquet.read_table(stream, ["source_id", "group_id"])
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"{output.location} has no readable {_SOURCES} ({error}), which says which items share a song. "
            "Give the whole output of preprocess"
        ) from error
    return dict(zip(table["source_id"].to_pylist(), table["group_id"].to_pylist()))
