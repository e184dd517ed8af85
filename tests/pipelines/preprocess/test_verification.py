"""Finished shards are compared with their commits, and no shard is read by the driver."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.cluster.connection import Cluster
from pipelines.dataset.shards import ShardCommit, commit_shard, read_commits, sha256_hex
from pipelines.errors import UsageError
from pipelines.preprocess import verification
from pipelines.preprocess.config import PreprocessConfig
from pipelines.storage.folder import Folder

CONTENT = b"a shard" * 100


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path))
    commit = ShardCommit(split="train", shard=0, rows=1, bytes=len(CONTENT), sha256=sha256_hex(CONTENT))
    for number in range(3):
        commit_shard(folder, CONTENT, replace(commit, shard=number))
    commit_shard(folder, b"", replace(commit, shard=3, rows=0, bytes=0, sha256=sha256_hex(b"")))
    return folder


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards that actors were sent; they work in this process."""
    numbers: list[int] = []

    def run(items: list[dict[str, Any]], worker: type, arguments: tuple[Any, ...], **_: Any) -> Iterator[Any]:
        numbers.extend(item["shard"] for item in items)
        actor = worker(*arguments)
        return (actor(item) for item in reversed(items))

    monkeypatch.setattr(verification, "run_actors", run)
    return numbers


def _find(output: Folder, way: str, connected: bool = True) -> list[int]:
    def connect() -> Cluster:
        assert connected
        return cast(Cluster, None)

    commits = read_commits(output).values()
    return [c.shard for c in verification.find_damaged(output, commits, way, actors=None, connect=connect)]


@pytest.mark.parametrize("way", ["checksum", "size"])
def test_the_driver_reads_no_shard(
    output: Folder, sent: list[int], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Folder.read

    def refuse(self: Folder, name: str) -> bytes:
        assert name.startswith("commits/")
        return read(self, name)

    monkeypatch.setattr(Folder, "read", refuse)
    assert _find(output, way, connected=False) == []
    assert sent == []


def test_checksum_reads_what_has_another_revision(output: Folder, sent: list[int], tmp_path: Path) -> None:
    for number, content in enumerate((CONTENT, CONTENT[:-1] + b"?", CONTENT[:-1])):
        path = tmp_path / f"train/shard-0000{number}.parquet"
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))  # clocks of file systems are coarse
    assert sorted(_find(output, "checksum")) == [1, 2]
    assert sent == [0, 1]  # the size tells of the third


def test_content_reads_all(output: Folder, sent: list[int], tmp_path: Path) -> None:
    assert _find(output, "content") == []
    assert sent == [0, 1, 2]
    (tmp_path / "train/shard-00001.parquet").unlink()
    assert _find(output, "content") == [1]


def test_size_reads_nothing(output: Folder, sent: list[int], tmp_path: Path) -> None:
    (tmp_path / "train/shard-00001.parquet").write_bytes(CONTENT[:-1] + b"?")
    assert _find(output, "size") == []
    assert sent == []


def test_the_default_is_checksum_and_other_ways_are_refused() -> None:
    assert PreprocessConfig(data=["/data"], output="/out").verify == "checksum"
    with pytest.raises(UsageError, match="choose checksum, content, size"):
        PreprocessConfig(data=["/data"], output="/out", verify="hope")
