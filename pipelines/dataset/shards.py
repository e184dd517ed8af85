"""Shards and their commit objects: a shard exists once its commit does, which has its size and SHA-256."""

import hashlib
import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.storage.folder import Folder

_HASHING_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """Configuration of the shards.

    Args:
        rows: Number of recipes in a shard.
        row_group_rows: Number of recipes in a row group, the unit of reading.
    """

    rows: int = 64
    row_group_rows: int = 8

    def __post_init__(self) -> None:
        if self.rows < 1 or self.row_group_rows < 1:
            raise ValueError("shards.rows and shards.row_group_rows must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ShardCommit:
    """Commit object of a finished shard: `commits/<split>-<shard>.json`.

    Args:
        split: Its split.
        shard: Its number in the split.
        rows: Number of rows.
        bytes: Size of the file; 0 if all recipes were rejected and there is no file.
        sha256: Of the file, hexadecimal.
        rejected: Rejected recipes: recipe_id, reason, kind.
        bitrates_bps: Actual bitrates, by degradation.
        cpu_seconds: CPU time of rendering it, child processes included.
        revision: Of the file once it was written: the store's ETag, or its time of modification on a disk. It
            is not compared: a copy has another one. Empty if there is no file, or in commits of before.
    """

    split: str
    shard: int
    rows: int
    bytes: int
    sha256: str
    rejected: list[dict[str, str]] = field(default_factory=list)
    bitrates_bps: dict[str, list[int]] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    revision: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[str, int]:
        """Split and number."""
        return self.split, self.shard


def encode_shard(rows: list[dict[str, Any]], degradations: tuple[str, ...], row_group_rows: int) -> bytes:
    """Encode rows as a Parquet file in memory, with page checksums; audio is not compressed again."""
    shard_schema = schema.shards(degradations)
    audio = {"clean", *degradations}
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        shard_schema,
        compression={name: "none" if name in audio else "zstd" for name in shard_schema.names},
        use_dictionary=[name for name in ("split", "category") if name in shard_schema.names],
        write_statistics=[name for name in shard_schema.names if name not in audio],
        write_page_checksum=True,
    ) as writer:
        writer.write_table(pa.Table.from_pylist(rows, shard_schema), row_group_size=row_group_rows)
    return sink.getvalue()


def commit_shard(output: Folder, content: bytes, commit: ShardCommit) -> None:
    """Write a shard, read it back from an object store, and write its commit object."""
    path = schema.shard_path(commit.split, commit.shard)
    if commit.rows:
        output.write(path, content)
        output.verify_upload(path, commit.sha256)
        commit = replace(commit, revision=output.revision(path))
    else:
        output.delete(path)
    output.write(
        schema.commit_path(commit.split, commit.shard), json.dumps(asdict(commit), indent=1).encode()
    )


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of a shard's bytes, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_commits(output: Folder) -> dict[tuple[str, int], ShardCommit]:
    """Read all valid commit objects, by split and number."""

    def read(name: str) -> ShardCommit | None:
        try:
            commit = ShardCommit(**json.loads(output.read(name)))
            return commit if schema.commit_path(*commit.key) == name else None
        except (ValueError, TypeError, RecursionError):
            return None  # damaged: its shard is rendered again

    names = [entry.name for entry in output.entries("commits") if entry.name.endswith(".json")]
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return {commit.key: commit for commit in pool.map(read, names) if commit is not None}


def find_damaged_shards(
    output: Folder, commits: Iterable[ShardCommit], *, content: bool
) -> list[ShardCommit]:
    """Return the commits whose shard is missing or differs.

    Args:
        output: Folder of the data set.
        commits: Commits to check.
        content: Compare SHA-256, which reads every file; otherwise sizes.
    """
    sizes = {entry.name: entry.size for split in schema.SPLITS for entry in output.entries(split)}

    def damaged(commit: ShardCommit) -> bool:
        if not commit.rows:
            return False
        name = schema.shard_path(commit.split, commit.shard)
        if sizes.get(name) != commit.bytes:
            return True
        return content and sha256_hex(output.read(name)) != commit.sha256

    listed = list(commits)
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return [commit for commit, bad in zip(listed, pool.map(damaged, listed), strict=True) if bad]


def find_changed_shards(output: Folder, commits: Iterable[ShardCommit]) -> list[ShardCommit]:
    """Return the commits whose shard may have other content, as it has not the revision that was committed.

    No content is read: an object store is sent a request for each shard.
    """

    def changed(commit: ShardCommit) -> bool:
        if not commit.rows:
            return False
        try:
            return commit.revision != output.revision(schema.shard_path(*commit.key))
        except FileNotFoundError:
            return True

    listed = list(commits)
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return [commit for commit, other in zip(listed, pool.map(changed, listed), strict=True) if other]
