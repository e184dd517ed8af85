"""A replica: attempts are counted whoever sends them, a job is done once, a broken device ends it."""

import asyncio
import os
from pathlib import Path

import pytest
import torch

from apollo.web.rendering import Renderer
from apollo.web.settings import ModelOptions
from apollo.web.song_folder import SongFolder, SongStore
from pipelines.serving.restorer import MAX_ATTEMPTS, Restorer
from pipelines.serving.service_folder import RUN_FILE
from tests.support import restoration_jobs
from tests.support.datasets import music, write

JOB = "flac24-default"


class Killed(BaseException):
    """What a test raises where a process would end."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restoration_jobs.save_generator(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def restorer(tmp_path: Path, weights: Path) -> Restorer:
    (tmp_path / RUN_FILE).write_text("this run")
    return Restorer(str(tmp_path), "this run", ModelOptions(checkpoint=str(weights), device="cpu"), 60.0, 1)


@pytest.fixture
def song(tmp_path: Path) -> SongFolder:
    song, upload = SongStore(tmp_path).create("session", "song.wav")
    write(upload, music(1, 0.2))
    song.complete(name="song.wav")
    return song


def test_a_job_is_done_and_once(
    restorer: Restorer, song: SongFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(restorer.run(str(song.path), JOB))
    assert song.read_job(JOB)["status"] == "ready"
    assert song.result(JOB, "flac").exists()
    monkeypatch.setattr(Renderer, "run", lambda *_: pytest.fail("it is done"))
    asyncio.run(restorer.run(str(song.path), JOB))


def test_two_replicas_do_a_job_one_after_the_other(
    restorer: Restorer, song: SongFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def run(_: Renderer, path: str, job: str) -> None:
        begun.append(job)
        SongFolder(Path(path)).write_job(job, "ready")

    monkeypatch.setattr(Renderer, "run", run)

    async def both() -> None:
        await asyncio.gather(*(restorer.run(str(song.path), JOB) for _ in range(2)))

    asyncio.run(both())
    assert begun == [JOB]


def test_a_song_that_kills_its_replica_fails_after_three_attempts(
    restorer: Restorer, song: SongFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def die(*_: object) -> None:
        begun.append(1)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Renderer, "run", die)
        for _ in range(MAX_ATTEMPTS):
            with pytest.raises(Killed):
                asyncio.run(restorer.run(str(song.path), JOB))
        asyncio.run(restorer.run(str(song.path), JOB))
    assert len(begun) == MAX_ATTEMPTS
    state = song.read_job(JOB)
    assert state == {"status": "failed", "reason": "killed its process 3 times", "kind": "killed"}
    song.write_job(JOB, "waiting")
    asyncio.run(restorer.run(str(song.path), JOB))  # the user asks for it again
    assert song.read_job(JOB)["status"] == "ready"


def test_a_broken_device_ends_the_replica_and_does_not_fail_the_song(
    restorer: Restorer, song: SongFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def end(code: int) -> None:
        assert code == 1
        raise Killed

    monkeypatch.setattr(Renderer, "_render_result", break_down)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Killed):
        asyncio.run(restorer.run(str(song.path), JOB))
    assert song.read_job(JOB)["status"] == "working"


def test_a_removed_song_is_no_error(restorer: Restorer, song: SongFolder) -> None:
    song.remove()
    asyncio.run(restorer.run(str(song.path), JOB))
    assert not song.path.exists()


def test_a_node_that_sees_another_folder_is_refused(tmp_path: Path, weights: Path) -> None:
    for content in (None, "another run"):
        if content is not None:
            (tmp_path / RUN_FILE).write_text(content)
        with pytest.raises(RuntimeError, match="on a disk that all nodes share"):
            Restorer(str(tmp_path), "this run", ModelOptions(checkpoint=str(weights)), 60.0, 1)


def test_health_is_checked_on_the_device(restorer: Restorer) -> None:
    asyncio.run(restorer.check_health())
    restorer._device = torch.device("cuda:63")
    with pytest.raises((RuntimeError, AssertionError)):
        asyncio.run(restorer.check_health())
