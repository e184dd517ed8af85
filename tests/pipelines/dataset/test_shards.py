"""Shards: the same rows give the same bytes, and a commit tells every damage."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from pipelines.dataset.shards import (
    ShardCommit,
    ShardsConfig,
    commit_shard,
    encode_shard,
    find_changed_shards,
    find_damaged_shards,
    read_commits,
    sha256_hex,
)
from pipelines.preprocess.verification import ShardVerifier
from pipelines.storage.folder import Folder

DEGRADATIONS = ("mp3_24000", "mp3_64000")


def _rows(number: int = 5) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    rows = []
    for index in range(number):
        component = {
            "stem": "bass",
            "source_id": f"song {index}/bass",
            "start": 4_410 * index,
            "gain_db": -1.5,
        }
        row: dict[str, Any] = {
            "recipe_id": f"{index:032x}",
            "split": "train",
            "category": "single_stem",
            "stems": ["bass"],
            "components": [component],
            "songs_repeat": False,
            "mix_gain_db": -0.25,
            "bandwidth_hz": 16_000 if index else None,
            "sample_rate": 44_100,
            "frames": 132_300,
            "clean": generator.bytes(2_000),
        }
        for name in DEGRADATIONS:
            row |= {name: generator.bytes(700), f"{name}_gain": 0.9375, f"{name}_bitrate_bps": 32_000}
        rows.append(row)
    return rows


def _commit(content: bytes, *, split: str = "train", shard: int = 0, rows: int = 5) -> ShardCommit:
    return ShardCommit(split=split, shard=shard, rows=rows, bytes=len(content), sha256=sha256_hex(content))


def _published(output: Folder, *shards: int) -> list[ShardCommit]:
    content = encode_shard(_rows(), DEGRADATIONS, 2)
    commits = [_commit(content, shard=shard) for shard in shards]
    for commit in commits:
        commit_shard(output, content, commit)
    return commits


def test_same_rows_give_the_same_bytes() -> None:
    assert encode_shard(_rows(), DEGRADATIONS, 2) == encode_shard(_rows(), DEGRADATIONS, 2)


def test_rows_come_back_as_they_were_in_the_documented_schema() -> None:
    file = pq.ParquetFile(pa.BufferReader(encode_shard(_rows(), DEGRADATIONS, 2)))
    assert file.schema_arrow.equals(schema.shards(DEGRADATIONS))
    assert file.schema_arrow.metadata[b"apollo.schema_version"] == str(schema.SCHEMA_VERSION).encode()
    assert file.read().to_pylist() == _rows()


@pytest.mark.parametrize("rows, group_rows, groups", [(5, 2, [2, 2, 1]), (5, 8, [5]), (4, 2, [2, 2])])
def test_row_groups_have_the_configured_length(rows: int, group_rows: int, groups: list[int]) -> None:
    metadata = pq.read_metadata(pa.BufferReader(encode_shard(_rows(rows), DEGRADATIONS, group_rows)))
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == groups


def test_audio_is_neither_compressed_again_nor_copied_into_statistics() -> None:
    group = pq.read_metadata(pa.BufferReader(encode_shard(_rows(), DEGRADATIONS, 8))).row_group(0)
    columns = {group.column(k).path_in_schema: group.column(k) for k in range(group.num_columns)}
    for name in ("clean", *DEGRADATIONS):
        assert (columns[name].compression, columns[name].is_stats_set) == ("UNCOMPRESSED", False)
    assert columns["recipe_id"].compression == "ZSTD"


@pytest.mark.parametrize("column", ["clean", *DEGRADATIONS])
@pytest.mark.parametrize("row", [0, 4])
def test_flipped_bit_in_audio_is_found_by_the_page_checksums(column: str, row: int) -> None:
    content = bytearray(encode_shard(_rows(), DEGRADATIONS, 2))
    at = content.find(_rows()[row][column]) + 300
    assert at > 300
    content[at] ^= 0x10
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)


def test_commit_is_written_after_its_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Folder.write
    monkeypatch.setattr(
        Folder, "write", lambda self, name, content: (written.append(name), write(self, name, content))
    )
    _published(Folder(str(tmp_path)), 42)
    assert written == ["train/shard-00042.parquet", "commits/train-00042.json"]


def test_shard_without_rows_is_a_commit_alone(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    rejected = [{"recipe_id": "a", "reason": "silent"}]
    commit = ShardCommit(split="test", shard=3, rows=0, bytes=0, sha256=sha256_hex(b""), rejected=rejected)
    commit_shard(output, b"", commit)
    assert [entry.name for entry in output.entries(recursive=True)] == ["commits/test-00003.json"]
    assert read_commits(output) == {("test", 3): commit}
    assert find_damaged_shards(output, [commit], content=True) == []


def test_commits_are_read_back_whole_and_damaged_ones_left_out(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    first, second = _published(output, 0, 1)
    for number, content in enumerate(
        (b"", b"{", b"[]", b"null", b'{"split": "train"}', b'{"what": 1}', b"\xff")
    ):
        output.write(schema.commit_path("valid", number), content)
    output.write("commits/notes.txt", b"x")
    assert read_commits(output) == {("train", 0): first, ("train", 1): second}


def test_no_output_has_no_commits(tmp_path: Path) -> None:
    assert read_commits(Folder(str(tmp_path / "nowhere"))) == {}


@pytest.mark.parametrize("content", [True, False])
def test_whole_shards_are_not_damaged(tmp_path: Path, content: bool) -> None:
    output = Folder(str(tmp_path))
    assert find_damaged_shards(output, _published(output, 0, 1, 2), content=content) == []


@pytest.mark.parametrize(
    "damage, found_by_size",
    [("missing", True), ("empty", True), ("short", True), ("long", True), ("bit", False)],
)
def test_damage_is_found_by_content_and_where_it_changes_the_length_by_size(
    tmp_path: Path, damage: str, found_by_size: bool
) -> None:
    output = Folder(str(tmp_path))
    commits = _published(output, 0, 1, 2)
    path = tmp_path / "train/shard-00001.parquet"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        flipped = content[:500] + bytes([content[500] ^ 1]) + content[501:]
        path.write_bytes(
            {"empty": b"", "short": content[:-1], "long": content + b"x", "bit": flipped}[damage]
        )
    assert find_damaged_shards(output, commits, content=True) == [commits[1]]
    assert find_damaged_shards(output, commits, content=False) == ([commits[1]] if found_by_size else [])


def test_commit_is_json_with_documented_names(tmp_path: Path) -> None:
    _published(Folder(str(tmp_path)), 7)
    found = json.loads((tmp_path / "commits/train-00007.json").read_text())
    assert set(found) == {
        "split",
        "shard",
        "rows",
        "bytes",
        "sha256",
        "rejected",
        "bitrates_bps",
        "cpu_seconds",
        "revision",
    }


@pytest.mark.parametrize("damage", ["missing", "empty", "bit", "copied", "old commit"])
def test_shards_that_may_have_changed_are_found_without_reading_them(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Folder(str(tmp_path))
    _published(output, 0, 1, 2)
    commits = [*read_commits(output).values()]
    path = tmp_path / "train/shard-00001.parquet"
    content = path.read_bytes()
    verifier = ShardVerifier(str(tmp_path))
    rows = [{"split": commit.split, "shard": commit.shard, "sha256": commit.sha256} for commit in commits]
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "read", None)
        assert find_changed_shards(output, commits) == []
    if damage == "missing":
        path.unlink()
    elif damage == "old commit":
        commits[1] = replace(commits[1], revision="")
    else:
        flipped = content[:500] + bytes([content[500] ^ 1]) + content[501:]
        path.write_bytes({"empty": b"", "bit": flipped, "copied": content}[damage])
        os.utime(path, ns=(1, 1))  # clocks of file systems are coarse
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "read", None)
        assert find_changed_shards(output, commits) == [commits[1]]
    whole = damage in ("copied", "old commit")
    assert [verifier(row)["damaged"] for row in rows] == [False, not whole, False]


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"row_group_rows": 0}, {"rows": -1}])
def test_shards_hold_at_least_a_row(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ShardsConfig(**wrong)
