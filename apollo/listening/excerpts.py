"""Choose excerpts of a song to compare before and after, from a stream, in bounded memory.

Shape legend: blocks are [channels, samples].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apollo.listening.loudness import k_weight

EXCERPT_SECONDS = 10.0
MAX_CHANGED = 3
_MIN_SECONDS = 2.0  # of the song's last excerpt


@dataclass(frozen=True)
class Excerpt:
    """One place of a song.

    Args:
        start: Its first sample.
        before: Samples of the input.
        after: Samples of the result, as many.
        change: Energy of the difference, K-weighted.
    """

    start: int
    before: Tensor
    after: Tensor
    change: float


class ExcerptChooser:
    """Keep the start of a song, and the places where before and after differ most, by K-weighted energy.

    A song is divided into excerpts of 10 s. More than two channels are mixed to mono.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.channels = 0
        self._samples = int(EXCERPT_SECONDS * sample_rate)
        self._waiting: tuple[Tensor, Tensor] | None = None  # before and after, up to an excerpt
        self._start = 0
        self._first: list[Excerpt] = []
        self._changed: list[Excerpt] = []

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add blocks of both; either may be ahead of the other."""
        self.channels = len(before)
        if len(before) > 2:
            before, after = before.mean(0, keepdim=True), after.mean(0, keepdim=True)
        if self._waiting is None:
            self._waiting = before[:, :0], after[:, :0]
        self._waiting = torch.cat((self._waiting[0], before), 1), torch.cat((self._waiting[1], after), 1)
        while min(one.shape[1] for one in self._waiting) >= self._samples:
            self._take(self._samples)

    def finish(self) -> list[Excerpt]:
        """Return the chosen excerpts: those that differ most, the largest change first, then the start."""
        rest = 0 if self._waiting is None else min(one.shape[1] for one in self._waiting)
        if rest >= (int(_MIN_SECONDS * self.sample_rate) if self._first else 1):
            self._take(rest)
        return [*self._changed, *self._first]

    def _take(self, samples: int) -> None:
        assert self._waiting is not None  # noqa: S101 - our invariant
        before, after = (one[:, :samples].clone() for one in self._waiting)
        self._waiting = self._waiting[0][:, samples:].clone(), self._waiting[1][:, samples:].clone()
        change = float(k_weight(after - before, self.sample_rate).square().sum())
        excerpt = Excerpt(self._start, before, after, change)
        self._start += samples
        if not self._first:
            self._first = [excerpt]
            return
        ranked = sorted([*self._changed, excerpt], key=lambda one: -one.change)
        self._changed = ranked[:MAX_CHANGED]
