"""Estimate how long a call takes that restores songs, from its speed so far and their lengths."""

import time
from collections.abc import Callable, Hashable, Iterable

FIRST_SECONDS = 3.0  # of processing before anything is said
LEAST_SECONDS = 5.0  # of remaining time that is worth saying
CHANGE = 0.25  # of the estimate that is said again
_MINUTE, _HOUR = 60, 3600


class TimeEstimate:
    """Estimates the time of a call; its clock begins when it is made.

    Args:
        songs: Keys of the songs that will be restored.
        clock: Returns seconds.
    """

    def __init__(self, songs: Iterable[Hashable], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._lengths: dict[Hashable, float | None] = dict.fromkeys(songs)
        self._done: dict[Hashable, float] = dict.fromkeys(self._lengths, 0.0)
        self._finished: set[Hashable] = set()
        self._first: tuple[float, float] | None = None  # when anything was first done, and how much
        self._said, self._pause, self._next = 0.0, FIRST_SECONDS, 0.0

    def set_length(self, song: Hashable, seconds: float | None) -> None:
        """Record how long a song is, by what it declares; None if that is not known."""
        if song in self._lengths and seconds is not None:
            self._lengths[song] = seconds

    def update(self, song: Hashable, done: float) -> None:
        """Record how many seconds of a song were restored."""
        if song not in self._done:
            return
        self._done[song] = done
        if self._first is None and done:
            self._first = self._clock(), done
            self._next = self._clock() + FIRST_SECONDS

    def finish(self, song: Hashable) -> None:
        """Record that a song was restored or failed: nothing of it remains, whatever it declared."""
        self._finished.add(song)

    @property
    def num_unknown(self) -> int:
        """Number of songs not yet finished whose lengths are not known, or exceeded."""
        return sum(self._remains(song) is None for song in self._lengths)

    def total_seconds(self) -> float | None:
        """Return how long the call takes, without songs of unknown length; None before anything is done."""
        if self._first is None:
            return None
        now, (began, already) = self._clock(), self._first  # what comes before says nothing about the speed
        done = sum(self._done.values()) - already
        if done <= 0 or now <= began:
            return None
        remaining = sum(self._remains(song) or 0.0 for song in self._lengths)
        return now - self._began + remaining * (now - began) / done

    def remaining_seconds(self) -> float | None:
        """Return how long the call still takes, without songs of unknown length."""
        total = self.total_seconds()
        return None if total is None else total - (self._clock() - self._began)

    def describe_total(self) -> str | None:
        """Return the estimate if it should be said now: once, and again where it has changed."""
        total, now = self.total_seconds(), self._clock()
        if total is None or now < self._next:
            return None
        if total - (now - self._began) < LEAST_SECONDS or abs(total - self._said) <= CHANGE * self._said:
            return None
        text = f"{'about' if not self._said else 'now about'} {format_seconds(total)} for "
        text += f"{len(self._lengths)} files" if len(self._lengths) > 1 else "this file"
        if self.num_unknown:
            text = f"at least {text}: how long {self.num_unknown} of them are is not known"
        self._pause *= 2  # an estimate that goes on changing is not said every few seconds
        self._said, self._next = total, now + self._pause
        return text

    def _remains(self, song: Hashable) -> float | None:
        """Return how many seconds of a song remain, None if unknown."""
        length, done = self._lengths[song], self._done[song]
        if song in self._finished:
            return 0.0
        return None if length is None or done > length else length - done


def format_seconds(seconds: float) -> str:
    """Return a duration with two digits at most: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    hours = seconds / _HOUR
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
