"""Outputs of preprocess made without Ray: shards of any number of rows, for the tests of what reads them."""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schema
from pipelines.audio.codec import CodecConfig, Encoder
from pipelines.dataset.shards import ShardCommit, commit_shard, encode_shard, sha256_hex
from pipelines.preprocess.render import to_16_bit, to_flac
from pipelines.storage.folder import Folder
from tests.support import datasets

BITRATES = (24_000, 64_000, 128_000)
DEGRADATIONS = tuple(f"mp3_{bitrate}" for bitrate in BITRATES)
_EXCERPTS = 3


@lru_cache
def excerpt(number: int, seconds: float = 3.0) -> dict[str, Any]:
    """Encode one of a few excerpts: the columns of a row that hold audio."""
    clean, gain_db = to_16_bit(datasets.music(number, seconds=seconds).astype(np.float32))
    row: dict[str, Any] = {"clean": to_flac(clean), "frames": len(clean), "mix_gain_db": gain_db}
    for name, made in Encoder(CodecConfig(bitrates_bps=BITRATES)).encode(clean).items():
        row |= {name: made.stream, f"{name}_gain": made.gain, f"{name}_bitrate_bps": made.bitrate_bps}
    return row


def recipe_id(split: str, shard: int, row: int) -> str:
    """Name a row by where it lies."""
    return f"{split}.{shard}.{row}"


def make_row(split: str, shard: int, row: int, **changes: Any) -> dict[str, Any]:
    """Make a row of a shard."""
    made = {
        "recipe_id": recipe_id(split, shard, row),
        "split": split,
        "category": "single_stem",
        "stems": ["bass"],
        "components": [{"stem": "bass", "source_id": "song/bass", "start": 0, "gain_db": 0.0}],
        "songs_repeat": False,
        "sample_rate": schema.SAMPLE_RATE,
        **excerpt((shard + row) % _EXCERPTS),
    }
    return made | changes


def write_shard(
    output: Path, split: str, shard: int, rows: list[dict[str, Any]], group_rows: int = 2, version: int = 2
) -> None:
    """Publish a shard; those of version 1 have no bandwidths."""
    content = encode_shard(rows, DEGRADATIONS, group_rows) if rows else b""
    if version == 1:
        table = pq.read_table(pa.BufferReader(content)).drop_columns("bandwidth_hz")
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=group_rows, write_page_checksum=True)
        content = sink.getvalue()
    commit = ShardCommit(
        split=split,
        shard=shard,
        rows=len(rows),
        bytes=len(content),
        sha256=sha256_hex(content),
        bitrates_bps={name: [bitrate] for name, bitrate in zip(DEGRADATIONS, BITRATES, strict=True)},
    )
    commit_shard(Folder(str(output)), content, commit)


def write(output: Path, *rows: int, split: str = "train", group_rows: int = 2) -> Path:
    """Publish a shard of so many rows for each number given."""
    for shard, number in enumerate(rows):
        made = [make_row(split, shard, row) for row in range(number)]
        write_shard(output, split, shard, made, group_rows)
    return output


def ids(output_rows: dict[int, int], split: str = "train") -> set[str]:
    """Name all rows of shards, given as their number of rows by number."""
    return {recipe_id(split, shard, row) for shard, rows in output_rows.items() for row in range(rows)}
