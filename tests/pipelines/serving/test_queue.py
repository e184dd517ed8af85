"""Jobs of the queue: owned once, taken over from the dead, done again if a replica dies."""

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from apollo.web.song_folder import SongFolder, SongStore
from apollo.web.worker import ClosingError
from pipelines.serving import queue_worker
from pipelines.serving.queue_worker import QueueWorker
from pipelines.serving.service_folder import CLOSING_FILE, lock_existing, wait_for_lock

JOB = "flac24-default"


class FakeReplicas:
    """Record each job, and end it with the result of `run`."""

    def __init__(self, run: Callable[[], bool] = lambda: True, ready: int = 1) -> None:
        self.done: list[str] = []
        self._run, self.ready = run, ready

    async def run(self, song_path: str, job: str) -> bool:
        self.done.append(f"{Path(song_path).name}.{job}")
        return self._run()

    def count_ready(self) -> int:
        if self.ready < 0:
            raise RuntimeError("the controller is being restarted")
        return self.ready


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_worker, "_WATCH_SECONDS", 0.02)
    monkeypatch.setattr(queue_worker.RenderProcess, "call", lambda *_, **__: {"problem": "none"})


@pytest.fixture
def songs(tmp_path: Path) -> SongStore:
    return SongStore(tmp_path)


def add_song(songs: SongStore) -> SongFolder:
    song, _ = songs.create("session", "song.wav")
    song.complete(name="song.wav")
    return song


def run_worker(
    songs: SongStore, replicas: FakeReplicas, act: Callable[[QueueWorker], Awaitable[None]] | None = None
) -> None:
    """Run a worker until the queue is empty, after what a test does."""

    async def run() -> None:
        worker = QueueWorker(songs, replicas, {}, 60.0)
        await worker.start()
        try:
            if act is not None:
                await act(worker)
            await until(lambda: not songs.queue())
            worker.check_health()
        finally:
            worker.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def submit(song: SongFolder, job: str = JOB) -> Callable[[QueueWorker], Coroutine[Any, Any, None]]:
    async def act(worker: QueueWorker) -> None:
        await asyncio.to_thread(worker.submit, song, job)

    return act


def test_a_submitted_job_is_run_once_and_leaves_the_queue(songs: SongStore) -> None:
    song, replicas = add_song(songs), FakeReplicas()
    run_worker(songs, replicas, submit(song))
    assert replicas.done == [f"{song.id}.{JOB}"]


def test_jobs_that_were_left_in_the_queue_are_done_after_the_start(songs: SongStore) -> None:
    waiting = [add_song(songs) for _ in range(3)]
    for song in waiting:
        songs.enqueue(song, JOB)
    replicas = FakeReplicas()
    run_worker(songs, replicas)
    assert replicas.done == [f"{song.id}.{JOB}" for song in waiting]


def test_a_job_is_sent_again_after_its_replica_died(songs: SongStore) -> None:
    song = add_song(songs)
    answers = iter([False, False, True])
    replicas = FakeReplicas(lambda: next(answers))
    run_worker(songs, replicas, submit(song))
    assert replicas.done == [f"{song.id}.{JOB}"] * 3


def test_a_job_of_a_removed_song_is_not_sent_again(songs: SongStore) -> None:
    song = add_song(songs)

    def die() -> bool:
        song.remove()
        return False

    replicas = FakeReplicas(die)
    run_worker(songs, replicas, submit(song))
    assert len(replicas.done) == 1


def test_an_unexpected_error_fails_the_job_with_its_reason(songs: SongStore) -> None:
    song = add_song(songs)

    def fail() -> bool:
        raise LookupError("no such thing")

    run_worker(songs, FakeReplicas(fail), submit(song))
    assert song.read_job(JOB) == {"status": "failed", "reason": "LookupError: no such thing", "kind": "other"}


def test_a_failure_that_cannot_be_written_ends_the_job(
    songs: SongStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = add_song(songs)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail() -> bool:
        monkeypatch.setattr(SongFolder, "write_job", refuse)
        raise LookupError("no such thing")

    replicas = FakeReplicas(fail)
    run_worker(songs, replicas, submit(song))
    assert len(replicas.done) == 1
    assert not song.path.exists()


def test_two_workers_never_own_the_same_job(songs: SongStore) -> None:
    for _ in range(20):
        songs.enqueue(add_song(songs), JOB)
    replicas = FakeReplicas()

    async def second(_: QueueWorker) -> None:
        other = QueueWorker(songs, replicas, {}, 60.0)
        await other.start()
        await until(lambda: not songs.queue())
        other.close()

    run_worker(songs, replicas, second)
    assert len(replicas.done) == len(set(replicas.done)) == 20


def test_a_job_of_a_killed_process_is_owned_by_the_next(songs: SongStore) -> None:
    song = add_song(songs)
    ticket = songs.enqueue(song, JOB)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pipelines.serving.service_folder import lock_existing\n"
        "held = lock_existing(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(ticket)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    replicas = FakeReplicas()

    async def kill(worker: QueueWorker) -> None:
        await until(lambda: worker.problem() is None)
        await asyncio.sleep(0.1)
        assert not replicas.done, "somebody else owns it"
        holder.kill()
        holder.wait()

    run_worker(songs, replicas, kill)
    assert replicas.done == [f"{song.id}.{JOB}"]


def test_nothing_is_accepted_while_shutting_down(songs: SongStore) -> None:
    song, replicas = add_song(songs), FakeReplicas()

    async def close(worker: QueueWorker) -> None:
        (songs.root / CLOSING_FILE).touch()
        with pytest.raises(ClosingError):
            worker.submit(song, JOB)
        assert worker.problem() == "the server is shutting down"

    run_worker(songs, replicas, close)
    assert not songs.queue()
    assert not replicas.done


def test_it_is_ready_while_a_replica_is(songs: SongStore) -> None:
    replicas = FakeReplicas(ready=0)

    async def act(worker: QueueWorker) -> None:
        await asyncio.sleep(0.1)
        assert worker.problem() == "no replica is ready"
        replicas.ready = 2
        await until(lambda: worker.problem() is None)
        replicas.ready = -1  # unknown: it stays as it was
        await asyncio.sleep(0.1)
        assert worker.problem() is None

    run_worker(songs, replicas, act)


def test_a_worker_that_looks_no_more_for_jobs_is_unhealthy(
    songs: SongStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(worker: QueueWorker) -> None:
        await until(lambda: worker.problem() is None)
        monkeypatch.setattr(songs, "tickets", lambda: json.loads("broken"))
        await asyncio.sleep(0.1)
        with pytest.raises(ValueError, match="Expecting value"):
            worker.check_health()

    async def run() -> None:
        worker = QueueWorker(songs, FakeReplicas(), {}, 60.0)
        await worker.start()
        await act(worker)
        worker.close()

    asyncio.run(run())


def test_a_file_is_locked_by_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert lock_existing(path) is None
    with wait_for_lock(path):
        assert lock_existing(path) is None
    file = lock_existing(path)
    assert file is not None
    file.close()


def test_a_removed_file_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner has done the job between the opening and the locking of the file."""
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr("fcntl.flock", lambda *_: path.unlink())
    assert lock_existing(path) is None
