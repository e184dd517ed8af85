"""Object stores, on a real server: what is asked again and how often, what is whole, what is said."""

import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apollo.audio.ffmpeg import find_ffmpeg
from pipelines.audio.reading import SourceReader, probe
from pipelines.audio.transcoding import transcode
from pipelines.dataset.shards import (
    ShardCommit,
    commit_shard,
    find_changed_shards,
    find_damaged_shards,
    read_commits,
)
from pipelines.errors import UsageError, root_cause
from pipelines.preprocess.discovery import find_songs
from pipelines.runtime.run import absolute_location
from pipelines.storage import object_store
from pipelines.storage.folder import Folder, join
from pipelines.storage.object_store import StoreError, refuse_credentials
from tests.support import datasets
from tests.support.fault_proxy import Kind
from tests.support.s3_server import Bucket

_EVER = float("inf")
SMALL, LARGE = b"small" * 100, np.random.default_rng(0).bytes((12 << 20) + 7)  # in one part, and in two


@pytest.fixture
def folder(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder of a store that is asked three times, and waited for a second."""
    monkeypatch.setenv(object_store.ATTEMPTS, "3")
    monkeypatch.setattr(object_store, "_SILENT_SECONDS", 1.0)
    object_store._connect_s3.cache_clear()
    return Folder(bucket.uri("a folder/of ours"))


def test_what_was_written_is_read_listed_and_deleted(folder: Folder, bucket: Bucket) -> None:
    contents = {"a/b #1%41+é.bin": SMALL, "a/c/d": LARGE, "empty": b""}
    for name, content in contents.items():
        folder.write(name, content)
    assert bucket.objects("a folder/of ours/") == contents
    assert [(entry.name, entry.size) for entry in folder.entries(recursive=True)] == [
        (name, len(content)) for name, content in sorted(contents.items())
    ]
    assert {name: folder.read(name) for name in contents} == contents
    assert (folder.exists("empty"), folder.exists("a"), folder.exists("x")) == (True, False, False)
    with folder.open("a/c/d") as stream:
        stream.seek(-7, os.SEEK_END)
        assert stream.read() == LARGE[-7:]
    folder.delete("empty")
    folder.delete("empty")
    folder.delete_folder("a")
    folder.delete_folder("a")
    assert not [name for name in bucket.objects() if not name.endswith("/")]
    with pytest.raises(FileNotFoundError):
        folder.read("empty")
    assert pickle.loads(pickle.dumps(folder)).entries(recursive=True) == []  # noqa: S301 - bytes of our own


def test_local_files_are_put_and_got(folder: Folder, bucket: Bucket, tmp_path: Path) -> None:
    for name, content in {"large": LARGE, "small": SMALL, "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        folder.put(f"x/{name}", str(tmp_path / name))
        assert bucket.objects("a folder/of ours/x/")[name] == content
        folder.get(f"x/{name}", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == content
        folder.verify_upload(f"x/{name}", hashlib.sha256(content).hexdigest())


def test_requests_are_few(folder: Folder, bucket: Bucket) -> None:
    """Objects of up to 10 MB cost one request to write and two to read; ranges of audio one each."""

    def requests(action: Callable[[], object]) -> list[str]:
        bucket.proxy.requests.clear()
        action()
        return [request.split()[0] for _, request in bucket.proxy.requests]

    assert requests(lambda: folder.write("small", SMALL)) == ["PUT"]
    assert requests(lambda: folder.write("large", LARGE)) == ["POST", "PUT", "PUT", "POST"]
    assert requests(lambda: folder.read("large")) == ["HEAD", "GET"]
    assert requests(lambda: folder.exists("small")) == ["HEAD"]
    assert requests(lambda: folder.entries(recursive=True)) == ["GET"]


@pytest.mark.parametrize(
    "kind, content, request_",
    [
        *((kind, SMALL, "PUT") for kind in ("refuse", "drop", "cut_upload", "cut_answer")),
        ("cut_upload", LARGE, "PUT.*partNumber=2"),
        ("cut_answer", LARGE, "POST.*uploadId"),
    ],
)
def test_upload_that_fails_twice_arrives_whole(
    folder: Folder, bucket: Bucket, kind: Kind, content: bytes, request_: str
) -> None:
    fault = bucket.proxy.fail(kind, request_, times=2)
    folder.write("x", content)
    assert fault.struck == 2
    assert bucket.objects("a folder/of ours/") == {"x": content}


@pytest.mark.parametrize(
    "kind, content, request_",
    [("refuse", SMALL, "PUT"), ("cut_upload", SMALL, "PUT"), ("cut_upload", LARGE, "PUT.*partNumber=2")],
)
def test_upload_that_fails_for_good_leaves_what_was_there(
    folder: Folder, bucket: Bucket, kind: Kind, content: bytes, request_: str
) -> None:
    folder.write("x", b"before")
    fault = bucket.proxy.fail(kind, request_, times=_EVER)
    with pytest.raises(StoreError, match=r"^cannot write s3://bucket-\d+/a folder/of ours/x\?.*AWS Error"):
        folder.write("x", content)
    assert fault.struck == 3, "asked again as often as told, and no more"
    assert bucket.objects("a folder/of ours/") == {"x": b"before"}


@pytest.mark.parametrize("kind", ["refuse", "stall", "drop", "cut_download"])
def test_download_that_fails_arrives_whole(folder: Folder, bucket: Bucket, kind: Kind) -> None:
    folder.write("x", SMALL)
    fault = bucket.proxy.fail(kind, "GET", times=1)
    assert folder.read("x") == SMALL
    assert fault.struck == 1


def test_download_that_fails_for_good_is_explained(folder: Folder, bucket: Bucket) -> None:
    folder.write("x", SMALL)
    bucket.proxy.fail("cut_download", "GET", times=_EVER)
    with pytest.raises(StoreError, match=r"^cannot read s3://.*/x\?"):
        folder.read("x")


def test_store_that_says_nothing_is_not_waited_for_for_ever(folder: Folder, bucket: Bucket) -> None:
    bucket.proxy.fail("stall", "GET", times=_EVER)
    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot list"):
        folder.entries()
    assert time.monotonic() - began < 30, "3 times 1 s, and what pauses and a busy machine add"


def test_what_the_store_forbids_is_said_at_once(folder: Folder, bucket: Bucket) -> None:
    fault = bucket.proxy.fail("refuse", "PUT", times=_EVER, status=403, code="AccessDenied")
    with pytest.raises(StoreError, match=r"cannot write s3://bucket-.*ACCESS_DENIED") as caught:
        folder.write("x", SMALL)
    assert fault.struck == 1
    assert "test" not in str(caught.value).replace("told to fail", ""), "no credentials"
    assert root_cause(RuntimeError("x")) and root_cause(caught.value).startswith("StoreError: cannot write")


def test_missing_bucket_is_named(bucket: Bucket) -> None:
    with pytest.raises(StoreError, match=r"cannot write s3://nowhere/x\?.*NO_SUCH_BUCKET"):
        Folder(bucket.uri("").replace(bucket.name, "nowhere")).write("x", b"")


def test_credentials_in_uris_are_refused_without_repeating_them() -> None:
    for refusing in (
        refuse_credentials,
        lambda uri: absolute_location(uri, "--output"),
        lambda uri: Folder(uri).path(),
    ):
        with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY") as caught:
            refusing("s3://KEY:SECRET@bucket/x")
        assert "KEY:" not in str(caught.value) and "'bucket'" in str(caught.value)
    refuse_credentials("s3://bucket/mail@home")


@pytest.mark.parametrize("told", ["0", "x", "-1"])
def test_attempts_that_are_no_number_are_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setenv(object_store.ATTEMPTS, told)
    with pytest.raises(UsageError, match="AWS_MAX_ATTEMPTS"):
        Folder(bucket.uri()).entries()


def test_endpoint_of_the_environment_is_used(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.proxy.url)
    Folder(f"s3://{bucket.name}/x").write("y", SMALL)
    assert bucket.objects() == {"x/y": SMALL}


def _commit(content: bytes) -> ShardCommit:
    return ShardCommit(
        split="train", shard=0, rows=1, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )


@pytest.mark.parametrize("kind, times", [("spoil_upload", 1), ("cut_upload", _EVER)])
def test_shard_that_is_not_there_to_the_last_bit_is_not_committed(
    folder: Folder, bucket: Bucket, kind: Kind, times: float
) -> None:
    bucket.proxy.fail(kind, r"PUT.*shard-00000.parquet", times=times)
    with pytest.raises(StoreError):
        commit_shard(folder, SMALL, _commit(SMALL))
    assert read_commits(folder) == {}
    bucket.proxy.heal()
    commit_shard(folder, SMALL, _commit(SMALL))
    commits = read_commits(folder)
    assert find_damaged_shards(folder, commits.values(), content=True) == []
    assert len(commits) == 1


def _wave(data: Path) -> Path:
    return next(data.rglob("drums.wav"))


def test_windows_of_audio_are_read_in_ranges(folder: Folder, bucket: Bucket, data: Path) -> None:
    """Of 1.6 MB of WAV a window of a second costs one range of a megabyte: not the file, nor one a block."""
    local = str(_wave(data))
    folder.put("drums.wav", local)
    path = join(folder.location, "drums.wav")
    assert probe(path) == probe(local)
    file = {"path": "", "frames": 9 * 44_100, "scale": 1.0}
    bucket.proxy.requests.clear()
    there, here = SourceReader(), SourceReader()
    for start in (0, 44_100, 300_000):
        window = there.read_file({**file, "path": path, "readable": path}, start, 44_100)
        assert np.array_equal(
            window, here.read_file({**file, "path": local, "readable": local}, start, 44_100)
        )
    assert bucket.proxy.count("GET") <= 4
    assert bucket.proxy.count("HEAD") == 1


@pytest.mark.parametrize("skip", [0, 1])
def test_store_that_fails_is_no_fault_of_the_song(
    folder: Folder, bucket: Bucket, data: Path, skip: int
) -> None:
    """While the header is read, and while samples are: else the song would be rejected for it."""
    folder.put("drums.wav", str(_wave(data)))
    path = join(folder.location, "drums.wav")
    fault = bucket.proxy.fail("refuse", "GET", times=_EVER, skip=skip)
    file = {"path": path, "readable": path, "frames": 9 * 44_100, "scale": 1.0}
    reader = SourceReader()
    with pytest.raises(StoreError, match=r"cannot read s3://.*drums\.wav"):
        reader.read_file(file, 350_000, 40_000)
    assert fault.struck
    bucket.proxy.heal()
    assert reader.read_file(file, 350_000, 40_000).any()


@pytest.mark.parametrize("failing", [r"GET /\S+data\.json", r"GET /\S+list-type"])
def test_songs_are_not_found_to_be_less_than_there_are(folder: Folder, bucket: Bucket, failing: str) -> None:
    """A listing of a song that cannot be fetched is no song without one."""
    folder.write("song/data.json", json.dumps({"song": "x", "artist": "y", "stems": []}).encode())
    bucket.proxy.fail("refuse", failing, times=_EVER)
    with pytest.raises(StoreError):
        find_songs([folder.location])


def test_song_at_another_rate_is_brought_to_the_same_cache(
    folder: Folder, bucket: Bucket, tmp_path: Path
) -> None:
    local = datasets.write(tmp_path / "48 kHz.flac", datasets.music(9, 2.0, rate=48_000), 48_000)
    folder.put("48 kHz.flac", str(local))
    fault = bucket.proxy.fail("cut_download", "GET", times=2)
    cached = {}
    for path, cache in (
        (str(local), Folder(str(tmp_path / "cache"))),
        (join(folder.location, local.name), folder),
    ):
        made = transcode(path, cache=cache, name="x.flac", known=probe(path), program=find_ffmpeg(None))
        cached[path] = made, cache.read("x.flac")
    assert fault.struck == 2
    assert len({*cached.values()}) == 1


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["one part", "two parts"])
def test_shard_that_was_replaced_is_found_by_its_etag_without_a_download(
    folder: Folder, bucket: Bucket, content: bytes
) -> None:
    for number in range(2):
        commit_shard(folder, content, replace(_commit(content), shard=number))
    commits = [*read_commits(folder).values()]
    assert all(commit.revision.startswith('"') for commit in commits)
    bucket.proxy.requests.clear()
    assert find_changed_shards(folder, commits) == []
    assert {request.split()[0] for _, request in bucket.proxy.requests} == {"HEAD"}
    folder.write("train/shard-00001.parquet", content[:-1] + b"?")
    assert find_damaged_shards(folder, commits, content=False) == []
    assert find_changed_shards(folder, commits) == [commits[1]]
    folder.delete("train/shard-00000.parquet")
    assert find_changed_shards(folder, commits) == commits
