"""Invalid files, unusual names, full and read-only disks, interruptions."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apollo.audio.formats import SongsConfig
from apollo.audio.songs import find_songs, restore_songs
from apollo.model.generator import Generator
from tests.support.datasets import encode, music, write
from tests.support.identity_generator import one, read, restore

RATE = 44_100


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_a_truncated_mp3_is_restored_with_a_warning(generator: Generator, tmp_path: Path) -> None:
    song = encode(write(tmp_path / "in.wav", music(1, 4.0)), tmp_path / "song.mp3", "-b:a", "64k")
    cut(song, 0.5)
    outcome = one(generator, song)
    assert 1.8 * RATE < len(read(outcome)) < 2.2 * RATE
    assert "MP3 frames are missing" in outcome.warnings[0]


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_truncated_files_of_other_formats_are_restored_with_a_warning(
    generator: Generator, tmp_path: Path, rate: int
) -> None:
    for name, options in (("song.wav", ()), ("song.flac", ()), ("song.ogg", ("-c:a", "libvorbis"))):
        plain = write(tmp_path / "in.wav", music(1, 4.0, rate), rate)
        song = encode(plain, tmp_path / name, *options)
        cut(song, 0.5)
        outcome = one(generator, song, overwrite=True)
        assert 0.9 * RATE < len(read(outcome)) < 2.5 * RATE, name  # Vorbis has pages of a second
        assert outcome.warnings, name


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.wav": (lambda path: path.write_bytes(b""), "empty"),
    "text.mp3": (lambda path: path.write_text("These are the words of a song.\n" * 50), "no audio"),
    "random.flac": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5_000)), "no audio"),
    "zeros.mp3": (lambda path: path.write_bytes(bytes(9_000)), "no audio"),
    "playlist.wav": (lambda path: path.write_text("#EXTM3U\n/etc/passwd\n"), "no audio"),
    "nothing.wav": (lambda path: write(path, np.zeros((0, 2))), "no samples"),
    "nan.wav": (
        lambda path: write(path, np.where(np.arange(9_000) == 8_000, np.nan, 0.1), subtype="FLOAT"),
        "non-finite",
    ),
    "inf.wav": (
        lambda path: write(path, np.where(np.arange(9_000) == 10, np.inf, 0.1), subtype="FLOAT"),
        "non-finite",
    ),
    "loop.wav": (lambda path: path.symlink_to(path.name), "cannot be opened"),
    "gone.wav": (lambda path: path.symlink_to("nowhere.wav"), "cannot be opened"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_file_fails_with_a_reason_and_others_are_restored(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    make, reason = REFUSED[name]
    make(tmp_path / name)
    good = write(tmp_path / "z-good.wav", music(1, 0.5))
    outcomes = restore(generator, tmp_path / name, good, output=tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["failed", "restored"]
    assert reason in str(outcomes[0].reason)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["z-good.wav"]


ODD_NAMES = [
    "-o.wav",
    "new\nline.wav",
    "quo'te\".wav",
    "%03d.wav",
    "concat:x.wav",
    "ünï…",
    "x" * 250 + ".wav",
]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("rate", [RATE, 48_000])  # through libsndfile, through ffmpeg
def test_unusual_file_names(generator: Generator, tmp_path: Path, name: str, rate: int) -> None:
    song = write(tmp_path / name, music(1, 0.5, rate), rate, format="WAV")
    assert len(read(one(generator, song))) == RATE // 2


def test_a_read_only_output_and_an_unreadable_input_fail_alone(generator: Generator, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write and read everything")
    song = write(tmp_path / "song.wav", music(1, 0.5))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    (outcome,) = restore(generator, song, output=locked)
    assert "Permission denied" in str(outcome.reason)
    song.chmod(0)
    assert "Permission denied" in str(one(generator, song).reason)
    locked.chmod(0)
    with pytest.raises(ValueError, match="Permission denied"):
        find_songs([str(locked)], SongsConfig())


def test_a_read_only_disk_fails_clearly(generator: Generator, tmp_path: Path, small_disk: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.5))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: S607 - the system's
    (outcome,) = restore(generator, song, output=small_disk / "out")
    assert "Read-only file system" in str(outcome.reason)


@pytest.mark.parametrize("format", ["float", "wav16", "flac24"])
def test_a_full_disk_fails_clearly_and_leaves_nothing(
    generator: Generator, tmp_path: Path, small_disk: Path, format: str
) -> None:
    big, small = (write(tmp_path / f"{s:.0f}.wav", music(1, s)) for s in (20.0, 1.0))
    outcomes = restore(generator, big, small, output=small_disk / "out", format=format)
    assert [outcome.status for outcome in outcomes] == ["failed", "restored"]
    assert "no space left" in str(outcomes[0].reason).lower()
    assert [path.stem for path in (small_disk / "out").iterdir()] == ["1"]


def test_an_interrupted_run_leaves_no_partial_output(generator: Generator, tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 12.0))
    config = SongsConfig(output=str(tmp_path / "out"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(restore_songs(generator, find_songs([str(song)], config), config, progress=interrupt))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_ffmpeg_is_a_failure_not_a_short_song(generator: Generator, tmp_path: Path) -> None:
    song = encode(write(tmp_path / "in.wav", music(1, 60.0)), tmp_path / "song.mp3", "-b:a", "64k")
    config = SongsConfig(output=str(tmp_path / "out"))
    killed = False

    def kill(*_: object) -> None:
        nonlocal killed
        if not killed:
            killed = True
            found = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "ffmpeg"],  # noqa: S607 - the system's
                capture_output=True,
                text=True,
            )
            for number in found.stdout.split():
                os.kill(int(number), signal.SIGKILL)

    (outcome,) = restore_songs(generator, find_songs([str(song)], config), config, progress=kill)
    assert outcome.status == "failed"
    assert "killed by signal 9" in str(outcome.reason)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_a_file_name_that_is_not_utf8(generator: Generator, tmp_path: Path, rate: int) -> None:
    plain = write(tmp_path / "plain.wav", music(1, 0.5, rate), rate)
    song = plain.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    assert one(generator, song).samples == RATE // 2
