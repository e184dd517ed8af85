"""Faults 24 and 25 of restoring: stopped, killed, and given songs that are none or kill who restores them."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.restoration.run import restore
from pipelines.runtime.outcome import Exit, Outcome
from tests.support import invariants
from tests.support import restoration_jobs as jobs
from tests.support.datasets import music, write
from tests.support.in_process_actors import replace_actors
from tests.support.processes import descendants
from tests.support.training_jobs import log


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jobs.save_generator(tmp_path_factory.mktemp("weights") / "tiny")


def wait_for(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.005)


def finished(output: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of the recorded results."""
    names = {record["name"] for record in jobs.records(output) if record["status"] == "restored"}
    return {name: value for name, value in invariants.times(output).items() if name in names}


def check(output: Path, undisturbed: Path) -> None:
    jobs.outcomes(output)
    expected = jobs.samples(undisturbed)
    found = jobs.samples(output)
    assert set(found) == set(expected)
    for name, samples in expected.items():
        np.testing.assert_array_equal(found[name], samples, err_msg=name)


def test_24_a_stopped_and_then_killed_run_is_finished_by_the_next(
    ray_address: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs, output = tmp_path / "songs", tmp_path / "out"
    for number in range(8):
        write(songs / f"{number}.wav", music(number, 4.0))
    seen: dict[str, tuple[int, int]] = {}
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = jobs.start(ray_address, songs, output, weights, "--actors", "1")
        wait_for(lambda seen=seen: len(finished(output)) > len(seen), lambda: log(output))  # type: ignore[misc]
        os.kill(process.pid, number)
        code = process.wait(60)
        now = finished(output)
        assert {name: now[name] for name in seen} == seen, "a finished song was restored again"
        assert len(now) < 8, "too late: all was done"
        seen = now
        status = jobs.result(output)["status"]
        if number == signal.SIGTERM:
            assert (code, status) == (Exit.INTERRUPTED, "interrupted")
        else:
            assert (code, status) == (-signal.SIGKILL, "running")
    outcome = restore(jobs.config(songs, output, weights))
    assert (outcome.code, outcome.message) == (Exit.DONE, "8 restored")
    now = finished(output)
    assert {name: now[name] for name in seen} == seen, "a finished song was restored again"
    replace_actors(monkeypatch)
    assert restore(jobs.config(songs, tmp_path / "undisturbed", weights)).code == Exit.DONE
    check(output, tmp_path / "undisturbed")


def test_25_song_that_kills_its_actor_three_times_fails(
    ray_address: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest song goes first; its actor is killed, as by the kernel when memory is short."""
    songs, output = tmp_path / "songs", tmp_path / "out"
    write(songs / "hostile.wav", music(0, 60.0))
    for number in range(3):
        write(songs / f"{number}.wav", music(number, 0.5))
    outcomes: list[Outcome] = []
    config = jobs.config(songs, output, weights, actors=1)
    run = threading.Thread(target=lambda: outcomes.append(restore(config)))
    run.start()
    for attempt in (1, 2, 3):

        def has_begun(attempt: int = attempt) -> bool:
            begun = [record for record in jobs.records(output) if record["name"] == "hostile.wav"]
            return bool(begun) and (begun[0]["status"], begun[0]["attempts"]) == ("begun", attempt)

        wait_for(has_begun, lambda: f"{outcomes} {jobs.records(output)}")
        for actor in descendants("SongRestorer"):
            actor.kill()
    run.join(120)
    assert outcomes[0].code == Exit.REJECTS, outcomes[0].message
    said = jobs.outcomes(output)
    assert said["hostile.wav"]["reason"] == "killed its process 3 times"
    assert said["hostile.wav"]["kind"] == "killed"
    assert sorted(jobs.samples(output)) == ["0.wav", "1.wav", "2.wav"]
    assert list(output.glob(".*.part")) == []
    replace_actors(monkeypatch)
    assert restore(config).code == Exit.DONE  # it is tried again, and no actor is killed
    assert len(jobs.samples(output)) == 4
