"""Progress: nothing is swallowed, and whoever is no terminal gets plain lines now and then."""

import sys
from collections.abc import Iterator

import pytest

from pipelines.runtime import progress
from pipelines.runtime.progress import track_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def _slow(clock: list[float], number: int, seconds: float) -> Iterator[int]:
    for item in range(number):
        clock[0] += seconds
        yield item


def test_items_pass_through_in_order() -> None:
    assert list(track_progress(iter("abc"), total=5, done=2, description="scan", unit="song")) == [
        "a",
        "b",
        "c",
    ]


def test_last_item_is_logged(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    assert list(track_progress(_slow(clock, 3, 1), total=5, done=2, description="scan", unit="song")) == [
        0,
        1,
        2,
    ]
    assert caplog.messages == ["scan: 5 of 5 songs, 3 s, about 0 s left"]


def test_lines_come_every_30_seconds_with_what_is_left(
    caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    for _ in track_progress(_slow(clock, 10, 10), total=110, done=100, description="render", unit="shard"):
        pass
    assert caplog.messages == [
        "render: 103 of 110 shards, 30 s, about 70 s left",
        "render: 106 of 110 shards, 60 s, about 40 s left",
        "render: 109 of 110 shards, 90 s, about 10 s left",
        "render: 110 of 110 shards, 100 s, about 0 s left",
    ]


def test_nothing_to_do_is_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track_progress([], total=0, done=0, description="scan", unit="song")) == []
    assert capsys.readouterr().err == ""


def test_error_of_the_items_passes_through() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(track_progress(failing(), total=2, done=0, description="scan", unit="song"))


def test_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track_progress(range(3), total=5, done=2, description="scan", unit="song")) == [0, 1, 2]
    assert "scan: 100%" in capsys.readouterr().err
