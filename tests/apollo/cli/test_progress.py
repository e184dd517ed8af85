"""How long a call takes: said from measured speed and known lengths, corrected when wrong."""

import sys
import time
from pathlib import Path

import pytest

from apollo.audio.durations import estimate_seconds
from apollo.cli.progress import Progress
from apollo.cli.time_estimate import TimeEstimate, format_seconds
from tests.support.datasets import encode, music, write


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_of_all_songs_is_said_once_after_the_first_seconds() -> None:
    clock = Clock()
    estimate = TimeEstimate(["a", "b", "c"], clock)
    assert estimate.total_seconds() is None and estimate.describe_total() is None
    for song, seconds in (("a", 50.0), ("b", 100.0), ("c", 50.0), ("another", 1e9)):
        estimate.set_length(song, seconds)
    said = []
    for step in range(1, 41):  # five seconds of audio a second
        clock.now = 100.0 + step
        done = 5.0 * step
        estimate.update("a", min(done, 50.0))
        estimate.update("b", min(max(done - 50.0, 0.0), 100.0))
        estimate.update("c", max(done - 150.0, 0.0))
        said.append(estimate.describe_total())
    assert [text for text in said if text] == ["about 40 s for 3 files"]
    assert said.index("about 40 s for 3 files") == 3
    assert estimate.remaining_seconds() == 0


def test_an_estimate_that_was_wrong_is_corrected() -> None:
    clock = Clock()
    estimate = TimeEstimate(["a", "b"], clock)
    estimate.set_length("a", 3_600.0)  # what a wrong header declares
    estimate.set_length("b", 60.0)
    clock.now += 30  # until processes have started, which says nothing about the speed
    estimate.update("a", 5.0)
    clock.now += 3
    assert estimate.describe_total() is None
    estimate.update("a", 20.0)
    assert estimate.describe_total() == "about 13 min for 2 files"
    clock.now += 1
    estimate.finish("a")  # it ended after 25 s
    estimate.update("b", 5.0)
    assert estimate.describe_total() is None  # too soon
    clock.now += 6
    estimate.update("b", 10.0)
    assert estimate.describe_total() == "now about 60 s for 2 files"


def test_unknown_lengths_are_said_and_exceeded_ones_are_unknown() -> None:
    clock = Clock()
    estimate = TimeEstimate(["a", "b"], clock)
    estimate.set_length("a", 100.0)
    estimate.set_length("b", None)
    estimate.update("a", 1.0)
    clock.now += 5
    estimate.update("a", 11.0)
    text = "at least about 50 s for 2 files: how long 1 of them are is not known"
    assert estimate.describe_total() == text
    estimate.update("a", 101.0)
    assert estimate.num_unknown == 2


def test_a_short_call_says_nothing() -> None:
    clock = Clock()
    estimate = TimeEstimate(["a"], clock)
    estimate.set_length("a", 70.0)
    estimate.update("a", 1.0)
    clock.now += 3
    estimate.update("a", 31.0)
    assert estimate.describe_total() is None


@pytest.mark.parametrize(
    "seconds, text", [(4.6, "5 s"), (99.0, "99 s"), (150.0, "2 min"), (5_400.0, "90 min"), (9_000.0, "2.5 h")]
)
def test_durations_have_two_digits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_lengths_are_found_without_decoding(tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 3.0))
    mp3 = encode(song, tmp_path / "song.mp3", "-b:a", "64k")
    (tmp_path / "bad.mp3").write_text("no music")
    assert estimate_seconds(str(song)) == 3.0
    assert estimate_seconds(str(mp3)) == pytest.approx(3.0, abs=0.1)
    assert estimate_seconds(str(tmp_path / "bad.mp3")) is None
    assert estimate_seconds(str(tmp_path / "none.mp3")) is None


def test_the_estimate_is_a_line_on_standard_error_and_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = [Path("one.wav"), Path("two.wav")]
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        progress, clock = Progress(songs), Clock()
        progress.estimate = TimeEstimate(songs, clock)
        progress.estimate.set_length(songs[1], 90.0)
        progress.show(songs[0], 10.0, 90.0)
        clock.now += 4
        time.sleep(0.2)  # bars are drawn ten times a second
        progress.show(songs[0], 20.0, 90.0)
        progress.finish(songs[0])
        output = capsys.readouterr()
        assert output.out == ""
        if terminal:
            assert "all: 64 s left" in output.err and "20/90 s" in output.err
        else:
            assert output.err == "apollo: about 68 s for 2 files\n"
