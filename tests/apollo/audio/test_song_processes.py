"""Several songs at a time: the results of one at a time, and a process that dies costs its song alone."""

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import apollo
from apollo.audio import song_processes
from apollo.audio.formats import SongsConfig
from apollo.audio.song_processes import restore_songs_in_processes
from apollo.audio.songs import SongJob, SongResult, find_songs
from apollo.cli.options import UsageError
from apollo.cli.restore import _choose_num_processes
from apollo.model.generator import Generator
from tests.support.datasets import music, write
from tests.support.identity_generator import restore


def restore_together(
    generator: Generator, folder: Path, output: Path, *, kill: bool = False
) -> list[SongResult]:
    """Restore a folder in two processes; kill both when the first has begun to write."""
    config = SongsConfig(output=str(output), format="wav24")
    jobs = find_songs([str(folder)], config)
    killed: list[int | None] = []

    def progress(job: SongJob, done: float, total: float | None) -> None:
        if kill and not killed:
            assert list(output.glob(".apollo-*"))
            killed.extend(child.pid for child in multiprocessing.active_children())
            for pid in killed:
                os.kill(pid or 0, signal.SIGKILL)

    return list(restore_songs_in_processes(generator, jobs, config, num_processes=2, progress=progress))


def test_processes_give_the_bytes_of_one_song_at_a_time(generator: Generator, tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"in/{number}.wav", music(number, 1.0))
    (tmp_path / "in/bad.mp3").write_text("no music")
    found = restore_together(generator, tmp_path / "in", tmp_path / "together")
    alone = restore(generator, tmp_path / "in", output=tmp_path / "alone", format="wav24")

    def summary(results: list[SongResult]) -> list[tuple[object, ...]]:
        return sorted((one.input, one.status, str(one.reason), one.samples, one.gain) for one in results)

    assert summary(found) == summary(alone)
    assert [one.status for one in alone] == ["restored", "restored", "failed"]
    for name in ("0.wav", "1.wav"):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_killed_processes_cost_their_songs_alone_and_leave_nothing(
    generator: Generator, tmp_path: Path
) -> None:
    for number in range(3):
        write(tmp_path / f"in/{number}.wav", np.tile(music(number, 0.5), (100 if number < 2 else 1, 1)))
    outcomes = restore_together(generator, tmp_path / "in", tmp_path / "out", kill=True)
    assert sorted((Path(one.input).stem, one.status, one.kind) for one in outcomes) == [
        ("0", "failed", "killed"),
        ("1", "failed", "killed"),
        ("2", "restored", None),
    ]
    assert "run out of memory: lower --jobs" in str(outcomes[0].reason)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["2.wav"]
    assert multiprocessing.active_children() == []


def test_the_end_of_a_process_is_said_in_words() -> None:
    assert song_processes._describe_end(-signal.SIGSEGV) == (
        "its process crashed (SIGSEGV): the file may be damaged"
    )
    assert "exit code 1" in song_processes._describe_end(1)


def test_an_interrupt_ends_all_processes_and_leaves_no_partial_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = apollo.save(apollo.Generator(apollo.GeneratorConfig(dim=16, layers=1)), tmp_path / "model")
    for number in range(3):
        write(tmp_path / f"in/{number}.wav", np.tile(music(number, 0.5), (600, 1)))
    command = [sys.executable, "-m", "apollo", "restore", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    command += ["--checkpoint", str(checkpoint), "--jobs", "2", "--force"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "out").glob(".apollo-*"))) < 2 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, stderr = process.communicate(timeout=60)  # until all children have closed it
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_songs_at_a_time_are_for_cpus_and_by_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(jobs: str, device: str = "cpu", songs: int = 8) -> int:
        with torch.device(device):
            generator = Generator(apollo.GeneratorConfig(dim=16, layers=1))
        return _choose_num_processes(argparse.Namespace(jobs=jobs), generator, songs)

    monkeypatch.setattr(song_processes.torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(song_processes, "free_system_memory_bytes", lambda: 3 << 30)
    assert [choose("1"), choose("auto"), choose("6"), choose("6", songs=2)] == [1, 3, 6, 2]
    monkeypatch.setattr(song_processes, "free_system_memory_bytes", lambda: None)
    assert [choose("auto"), choose("auto", "meta")] == [4, 1]
    with pytest.raises(UsageError, match="for a CPU"):
        choose("2", "meta")
    for invalid in ("0", "-1", "two"):
        with pytest.raises(UsageError, match="a number from 1, or auto"):
            choose(invalid)
