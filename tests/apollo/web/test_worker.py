"""The worker of one machine, without processes: it does the next job whatever happens to one."""

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apollo.web import song_folder, worker
from apollo.web.settings import ModelOptions, WebSettings
from apollo.web.song_folder import SongFolder, SongStore
from apollo.web.worker import LocalWorker

JOB = "flac24-default"


class RendererInThread:
    """Does jobs as `RenderProcess`, in the thread that calls."""

    def __init__(self, *_: object) -> None:
        """Need nothing."""

    def call(self, method: str, *arguments: Any, **_: Any) -> Any:
        if method == "run":
            SongFolder(Path(arguments[0])).write_job(arguments[1], "ready")
        return {}

    def start(self) -> None:
        """Have nothing to start."""

    stop = close = start


@pytest.fixture
def songs(tmp_path: Path) -> SongStore:
    return SongStore(tmp_path)


@pytest.fixture
def local(songs: SongStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorker]:
    monkeypatch.setattr(worker, "RenderProcess", RendererInThread)
    local = LocalWorker(songs, ModelOptions(), WebSettings())
    yield local
    local.close()


def add_song(songs: SongStore) -> SongFolder:
    song, _ = songs.create("session", "song.wav")
    song.complete(name="song.wav")
    return song


def wait_for_end(songs: SongStore) -> None:
    end = time.monotonic() + 10
    while songs.queue():
        assert time.monotonic() < end, songs.queue()
        time.sleep(0.01)


def test_the_next_song_is_restored_after_one_whose_state_cannot_be_written(
    songs: SongStore, local: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add_song(songs), add_song(songs)
    write = song_folder._write

    def write_or_refuse(path: Path, content: dict[str, Any]) -> None:
        if first.path in path.parents and content["status"] != "waiting":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(song_folder, "_write", write_or_refuse)
    for song in (first, second):
        local.submit(song, JOB)
    wait_for_end(songs)
    assert second.read_job(JOB)["status"] == "ready"
    assert not first.path.exists()


def test_the_next_song_is_restored_after_one_that_cannot_leave_the_queue(
    songs: SongStore, local: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add_song(songs), add_song(songs)
    dequeue = SongStore.dequeue

    def dequeue_or_refuse(self: SongStore, song_id: str, job: str = "*") -> None:
        if song_id == first.id:
            raise OSError(errno.EIO, "Input/output error")
        dequeue(self, song_id, job)

    with monkeypatch.context() as patch:
        patch.setattr(SongStore, "dequeue", dequeue_or_refuse)
        for song in (first, second):
            local.submit(song, JOB)
        end = time.monotonic() + 10
        while second.read_job(JOB)["status"] != "ready":
            assert time.monotonic() < end
            time.sleep(0.01)
