"""Read rows of committed shards, as bytes and as samples, and find the corrupt ones.

A row is corrupt by its bytes alone: a storage error that the bytes do not confirm is raised, because other
processes would not see it. So all processes agree on every row, whichever rows each of them reads.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from apollo.audio.rejects import RejectError, RejectKind
from apollo.training.augmentation import find_peak
from pipelines import schema
from pipelines.audio import codec
from pipelines.dataset.shards import ShardCommit, sha256_hex
from pipelines.storage import parquet
from pipelines.storage.folder import Folder

_ATTEMPTS = 3
_ERRORS = (OSError, pa.ArrowException)


class CorruptRowError(RejectError):
    """A row or a whole shard is corrupt.

    Args:
        name: Recipe id, or name of the shard.
        reason: Why.
        kind: Kind of the reason.
        rows: Number of rows concerned.
    """

    def __init__(
        self, name: str, reason: str, kind: RejectKind = RejectKind.DAMAGED, *, rows: int = 1
    ) -> None:
        super().__init__(f"{name}: {reason}", kind)
        self.name, self.reason, self.rows = name, reason, rows


@dataclass(frozen=True)
class EncodedRow:
    """A row with one of its degradations, still encoded.

    Args:
        recipe_id: Id of the recipe.
        degradation: Name of the degradation.
        clean: FLAC.
        degraded: The codec's bitstream.
        gain: Linear gain of the codec.
        frames: Length in samples.
        shard: Name of its shard.
        bandwidth_hz: Frequency up to which the clean audio is known; infinite if completely.
    """

    recipe_id: str
    degradation: str
    clean: bytes
    degraded: bytes
    gain: float
    frames: int
    shard: str
    bandwidth_hz: float = math.inf

    @property
    def name(self) -> str:
        """Name for logs: recipe id and degradation."""
        return f"{self.recipe_id}/{self.degradation}"


def decode(row: EncodedRow) -> tuple[Tensor, Tensor]:
    """Decode a row.

    Returns:
        clean and degraded, [channels, samples], float32, finite, as long as an excerpt is.

    Raises:
        CorruptRowError: it cannot be decoded to such tensors.
    """
    check_row(row)
    return decode_clean(row), decode_degraded(row)


def check_row(row: EncodedRow) -> None:
    """Check the length and the gain of a row.

    Raises:
        CorruptRowError: they are not those of an excerpt.
    """
    if row.frames != schema.EXCERPT_FRAMES:
        raise _corrupt(row, f"{row.frames} samples long, not {schema.EXCERPT_FRAMES}")
    if not 0 < row.gain < float("inf"):
        raise _corrupt(row, f"the gain of {row.degradation} is {row.gain}", RejectKind.NOT_FINITE)


def decode_clean(row: EncodedRow, piece: slice | None = None) -> Tensor:
    """Decode the clean version of a row, or a piece of it; see `decode`."""
    return _decode(row, "clean", row.clean, piece)


def decode_degraded(row: EncodedRow, piece: slice | None = None) -> Tensor:
    """Decode the degraded version of a row, or a piece of it; see `decode`."""
    return _decode(row, row.degradation, row.degraded, piece)


def _decode(row: EncodedRow, column: str, stream: bytes | None, piece: slice | None) -> Tensor:
    if not stream:
        raise _corrupt(row, f"{column} is empty", RejectKind.EMPTY)
    try:
        samples = codec.decode(stream, frames=row.frames, piece=piece)
    except codec.CodecError as error:
        raise _corrupt(row, f"{column}: {error}", error.kind) from error
    if samples.shape[1] != schema.CHANNELS:
        raise _corrupt(row, f"{column} has {samples.shape[1]} channels, not {schema.CHANNELS}")
    planar = torch.from_numpy(np.ascontiguousarray(samples.T))  # [channels, samples]
    if not find_peak(planar) < float("inf"):
        raise _corrupt(row, f"{column} contains non-finite samples", RejectKind.NOT_FINITE)
    return planar


def _corrupt(row: EncodedRow, reason: str, kind: RejectKind = RejectKind.DAMAGED) -> CorruptRowError:
    return CorruptRowError(row.recipe_id, f"{reason} (shard {row.shard})", kind)


Rows = dict[int, EncodedRow | CorruptRowError]


class ShardReader:
    """Reads single rows of committed shards; thread-safe.

    Args:
        output: Folder of the data set.
        commits: Commits of the shards; a shard's number is its index here.
        damaged: Numbers of shards that are missing or differ in size from their commits.
    """

    def __init__(self, output: Folder, commits: Sequence[ShardCommit], damaged: set[int]) -> None:
        self._output, self._commits, self._damaged = output, commits, damaged

    def shard_error(self, shard: int, reason: str = "") -> CorruptRowError:
        """Return the error for a whole shard."""
        commit = self._commits[shard]
        reason = reason or f"the file is missing, or not of the {commit.bytes} bytes in its commit"
        return CorruptRowError(schema.shard_name(*commit.key), reason, rows=commit.rows)

    def read(self, shard: int, wanted: Mapping[int, str]) -> Rows:
        """Read rows of a shard.

        Args:
            shard: Number of the shard.
            wanted: Degradation to read, by row number.

        Returns:
            By row number: the encoded row, or the error.

        Raises:
            OSError: the storage fails, though the shard's bytes are intact.
        """
        commit = self._commits[shard]
        path = schema.shard_path(*commit.key)
        if shard in self._damaged:
            return dict.fromkeys(wanted, self.shard_error(shard))
        for attempt in range(_ATTEMPTS):
            try:
                with self._output.open(path) as stream:
                    return self._read_whole(stream, commit, wanted)
            except FileNotFoundError:
                return dict.fromkeys(wanted, self.shard_error(shard))
            except parquet.ForeignTypeError as error:
                return dict.fromkeys(wanted, self.shard_error(shard, str(error)))
            except _ERRORS:
                content = self._output.read(path)
                if sha256_hex(content) != commit.sha256:
                    return self._read_damaged(content, shard, wanted)
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _read_whole(self, stream: Any, commit: ShardCommit, wanted: Mapping[int, str]) -> Rows:
        """Read every row group with wanted rows once."""
        file = parquet.open_file(stream, pre_buffer=not self._output.is_local)
        rows: Rows = {}
        stored = file.schema_arrow.names
        for group, inside in _by_group(file.metadata, commit, wanted).items():
            columns = _columns(stored, (wanted[row] for row in inside.values()))
            table = file.read_row_group(group, columns=columns, use_threads=False)
            for place, row in inside.items():
                cells = {name: table[name][place].as_py() for name in _columns(stored, [wanted[row]])}
                rows[row] = _encoded_row(cells, wanted[row], commit)
        return rows

    def _read_damaged(self, content: bytes, shard: int, wanted: Mapping[int, str]) -> Rows:
        """Read column by column: a row is corrupt only if a column that it needs is."""
        commit = self._commits[shard]
        try:
            file = parquet.open_file(pa.BufferReader(content))
            groups, stored = _by_group(file.metadata, commit, wanted), file.schema_arrow.names
        except _ERRORS as error:
            return dict.fromkeys(wanted, self.shard_error(shard, f"the file is damaged: {error}"))
        rows: Rows = {}
        for group, inside in groups.items():
            found: dict[str, Any] = {}
            for name in _columns(stored, (wanted[row] for row in inside.values())):
                try:
                    found[name] = file.read_row_group(group, columns=[name], use_threads=False)[name]
                except _ERRORS as error:
                    found[name] = str(error)
            for place, row in inside.items():
                columns = _columns(stored, [wanted[row]])
                needed = {name: found[name] for name in columns}
                rows[row] = _salvage(needed, place, row, wanted[row], commit)
        return rows


def _columns(stored: Sequence[str], degradations: Iterable[str]) -> list[str]:
    """Return the columns that rows with these degradations need; shards of version 1 have no bandwidth."""
    names = sorted(set(degradations))
    known = ["bandwidth_hz"] if "bandwidth_hz" in stored else []
    return ["recipe_id", "frames", *known, "clean", *names, *(f"{name}_gain" for name in names)]


def _by_group(metadata: Any, commit: ShardCommit, wanted: Mapping[int, str]) -> dict[int, dict[int, int]]:
    """Return by row group: index in the group to row number, of the wanted rows."""
    if metadata.num_rows != commit.rows:
        raise pa.ArrowInvalid(f"{metadata.num_rows} rows, {commit.rows} in the commit")
    groups: dict[int, dict[int, int]] = {}
    first = 0
    for group in range(metadata.num_row_groups):
        length = metadata.row_group(group).num_rows
        inside = {row - first: row for row in range(first, first + length) if row in wanted}
        if inside:
            groups[group] = inside
        first += length
    return groups


def _encoded_row(cells: Mapping[str, Any], degradation: str, commit: ShardCommit) -> EncodedRow:
    gain, bandwidth_hz = cells[f"{degradation}_gain"], cells.get("bandwidth_hz")
    return EncodedRow(
        cells["recipe_id"],
        degradation,
        cells["clean"],
        cells[degradation],
        float("nan") if gain is None else gain,
        cells["frames"],
        schema.shard_name(*commit.key),
        math.inf if bandwidth_hz is None else float(bandwidth_hz),
    )


def _salvage(
    needed: Mapping[str, Any], place: int, row: int, degradation: str, commit: ShardCommit
) -> EncodedRow | CorruptRowError:
    shard = schema.shard_name(*commit.key)
    known = needed["recipe_id"]
    name = f"{shard} row {row}" if isinstance(known, str) else known[place].as_py()
    for column, content in needed.items():
        if isinstance(content, str):
            return CorruptRowError(name, f"{column} of shard {shard} cannot be read: {content}")
    return _encoded_row({key: column[place].as_py() for key, column in needed.items()}, degradation, commit)
