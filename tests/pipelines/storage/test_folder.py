"""Storage: writes are whole or absent, on a path and behind a URI."""

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.storage.atomic import TEMPORARY_SUFFIX, temporary_files
from pipelines.storage.folder import Folder, is_uri, join, open_filesystem
from pipelines.storage.parquet import parquet_bytes


@pytest.fixture(params=["path", "uri"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path) if request.param == "path" else f"file://{tmp_path}")


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "location, uri",
    [
        ("s3://bucket/x", True),
        ("gs://bucket", True),
        ("file:///x", True),
        ("/x/y", False),
        ("x", False),
        ("", False),
        ("/a://b", False),
        ("C:\\x", False),
    ],
)
def test_scheme_makes_a_uri(location: str, uri: bool) -> None:
    assert is_uri(location) is uri


def test_unknown_scheme_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"cannot open 'nonsense://x'.*s3://bucket/path"):
        open_filesystem("nonsense://x")


def test_names_are_appended_to_paths_and_uris() -> None:
    assert join("s3://bucket/a", "b", "c.json") == "s3://bucket/a/b/c.json"
    assert join("/a/", "b") == "/a/b"


def test_what_was_written_is_read_listed_and_deleted(folder: Folder, tmp_path: Path) -> None:
    folder.write("a/b.bin", b"one")
    folder.write("a/b.bin", b"two")
    folder.write("c", b"")
    assert folder.read("a/b.bin") == b"two"
    assert (folder.exists("a/b.bin"), folder.exists("a"), folder.exists("x")) == (True, False, False)
    assert [entry.name for entry in folder.entries(recursive=True)] == ["a/b.bin", "c"]
    assert [entry.name for entry in folder.entries()] == ["c"]
    (entry,) = folder.entries("a")
    status = (tmp_path / "a/b.bin").stat()
    assert (entry.name, entry.size, entry.mtime_ns) == ("a/b.bin", 3, status.st_mtime_ns)
    with folder.open("a/b.bin") as stream:
        stream.seek(1)
        assert stream.read() == b"wo"
    folder.delete("a/b.bin")
    folder.delete("a/b.bin")
    assert _files(tmp_path) == {"c"}


def test_nothing_there_is_an_empty_list_and_reading_it_an_error(folder: Folder) -> None:
    assert folder.entries("nowhere", recursive=True) == []
    folder.delete_folder("nowhere")
    with pytest.raises(FileNotFoundError):
        folder.read("nowhere")


def test_folder_is_deleted_with_all_in_it(folder: Folder, tmp_path: Path) -> None:
    for name in ("a/1", "a/b/2", "c"):
        folder.write(name, b"x")
    folder.delete_folder("a")
    assert _files(tmp_path) == {"c"}


def test_put_brings_a_local_file(folder: Folder, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes((1 << 22) + 77)  # more than one block of the copy
    (tmp_path / "local").write_bytes(content)
    folder.put("deep/er", str(tmp_path / "local"))
    assert folder.read("deep/er") == content
    assert _files(tmp_path) == {"local", "deep/er"}


def test_folder_survives_pickling_after_use(folder: Folder) -> None:
    folder.write("x", b"1")
    copy = pickle.loads(pickle.dumps(folder))  # noqa: S301 - bytes of our own
    assert copy == folder
    assert copy.read("x") == b"1"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("way", ["write", "put"])
def test_write_that_fails_leaves_what_was_there_and_nothing_else(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    error: BaseException,
    way: str,
) -> None:
    folder.write("a", b"before")
    local = tmp_path / "local"
    local.write_bytes(b"after")

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(type(error)):
            folder.write("a", b"after") if way == "write" else folder.put("a", str(local))
    assert _files(tmp_path) == {"a", "local"}
    assert folder.read("a") == b"before"


def test_file_appears_under_its_name_only_when_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (seen.append(("sync", (tmp_path / "a").exists())), fsync(handle))
    )
    monkeypatch.setattr(
        os, "replace", lambda a, b: (seen.append(("rename", (tmp_path / "a").exists())), replace(a, b))
    )
    Folder(str(tmp_path)).write("a", b"x")
    assert seen == [("sync", False), ("rename", False), ("sync", True)]  # the file, its name, the folder


def test_two_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 300_000 for number in range(6)]
    threads = [threading.Thread(target=Folder(str(tmp_path)).write, args=("x", c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _files(tmp_path) == {"x"}
    assert (tmp_path / "x").read_bytes() in contents


def test_what_a_killed_writer_left_is_deleted_and_nothing_else(folder: Folder, tmp_path: Path) -> None:
    for name in ("train/.shard.parquet.0a1b.part", ".x.part", "train/shard.parquet", "part"):
        folder.write(name, b"x")
    assert len(list(temporary_files(str(tmp_path)))) == 2
    folder.delete_temporary()
    assert _files(tmp_path) == {"train/shard.parquet", "part"}
    Folder(str(tmp_path / "nowhere")).delete_temporary()


def test_temporary_names_end_as_the_cleaner_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[list[str]] = []
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda a, b: (caught.append(list(temporary_files(str(tmp_path)))), replace(a, b))
    )
    Folder(str(tmp_path)).write("deep/a", b"x")
    assert len(caught[0]) == 1


def test_name_of_249_bytes_can_be_written(tmp_path: Path) -> None:
    longest = 255 - len(".") - len(".12345678") - len(TEMPORARY_SUFFIX)
    Folder(str(tmp_path)).write("a" * longest, b"x")
    assert _files(tmp_path) == {"a" * longest}


def test_flipped_bit_in_a_table_is_found_by_its_page_checksums() -> None:
    table = pa.table({"x": np.random.default_rng(0).integers(0, 1 << 60, 5_000)})
    content = bytearray(parquet_bytes(table))
    assert pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True) == table
    content[len(content) // 2] ^= 1
    with pytest.raises(OSError):
        pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)
