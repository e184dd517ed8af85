"""Telling whether two songs are the same recording, so that no song reaches two splits under two names.

Source: Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (2002): 32 bits per frame, each the
sign of an energy difference between neighbouring bands and frames, which coding, rounding and level hardly
change. Differs in its hop (46 instead of 11.6 ms: whole songs are compared here, not 3 s of them).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.schema import SAMPLE_RATE

_WINDOW, HOP = 16_384, 2_048
_BANDS = 33
_EDGES_HZ = np.geomspace(300.0, 2_000.0, _BANDS + 1)
_SILENCE = 1e-7  # mean square, -70 dBFS: such frames match everything
_COMMON = 64  # a word in more frames than this tells nothing
_FEW_VOTES = 8
_BIT_ERRORS = 0.3  # the paper uses 0.35 for 3 s; unrelated songs are at 0.5, and minutes are compared here
_OVERLAP = 0.5


class FingerprintExtractor:
    """Makes the words of a song from its samples, a block at a time."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)
        self._before: NDArray[np.float64] | None = None
        self._words: list[NDArray[np.uint32]] = []
        self._hann = np.hanning(_WINDOW).astype(np.float32)
        self._bins = np.round(_EDGES_HZ * _WINDOW / SAMPLE_RATE).astype(int)

    def add(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples [frames, channels]."""
        mono = np.concatenate([self._rest, samples.mean(axis=1)])
        count = (len(mono) - _WINDOW) // HOP + 1
        if count <= 0:
            self._rest = mono
            return
        frames = np.lib.stride_tricks.sliding_window_view(mono, _WINDOW)[: count * HOP : HOP]
        power = np.abs(np.fft.rfft(frames * self._hann)[:, : self._bins[-1]]) ** 2
        bands = np.add.reduceat(power, self._bins[:-1], axis=1, dtype=np.float64)
        previous = bands[:1] if self._before is None else self._before
        differences = np.diff(np.diff(np.concatenate([previous, bands]), axis=0), axis=1)
        words = np.packbits(differences > 0, axis=1).view(">u4").ravel().astype(np.uint32)
        words[np.square(frames).mean(axis=1) < _SILENCE] = 0
        self._words.append(words)
        self._before, self._rest = bands[-1:], mono[count * HOP :]

    def sub_fingerprints(self) -> NDArray[np.uint32]:
        """Give the words so far, one per 46 ms; 0 stands for silence."""
        return np.concatenate(self._words) if self._words else np.zeros(0, np.uint32)


def find_same_recordings(fingerprints: Sequence[NDArray[np.uint32]]) -> list[tuple[int, int]]:
    """Find the pairs of songs that are one recording, possibly shifted against each other.

    Two songs match when over half of the shorter one lies on the other with under 30 % bit errors.
    """
    votes: dict[tuple[int, int, int], int] = defaultdict(int)
    for first, second, shift in _coincidences(fingerprints):
        votes[first, second, shift] += 1
    likely: dict[tuple[int, int], list[int]] = defaultdict(list)
    for (first, second, shift), count in votes.items():
        if count >= _FEW_VOTES:
            likely[first, second].append(shift)
    return [
        pair
        for pair, shifts in sorted(likely.items())
        if any(_agree(fingerprints[pair[0]], fingerprints[pair[1]], shift) for shift in shifts)
    ]


def _coincidences(fingerprints: Sequence[NDArray[np.uint32]]) -> Iterable[tuple[int, int, int]]:
    """Yield (song, later song, shift) for every word that two songs share."""
    words = np.concatenate([*fingerprints, np.zeros(0, np.uint32)])
    order = np.argsort(words, kind="stable")  # [words of all songs]
    words = words[order]
    edges = np.concatenate([[0], np.flatnonzero(np.diff(words)) + 1, [len(words)]])
    numbers = np.diff(edges)
    shared = np.flatnonzero((numbers > 1) & (numbers <= _COMMON))  # few, and all that is looked at from here
    begins = np.cumsum([0, *(len(p) for p in fingerprints)])
    for low, high in zip(edges[shared].tolist(), edges[shared + 1].tolist(), strict=True):
        songs = np.searchsorted(begins, order[low:high], side="right") - 1
        if words[low] == 0 or songs[0] == songs[-1]:
            continue
        places = order[low:high] - begins[songs]
        for i in range(high - low):
            for j in range(i + 1, high - low):
                if songs[i] != songs[j]:
                    yield int(songs[i]), int(songs[j]), int(places[j] - places[i])


def _agree(first: NDArray[np.uint32], second: NDArray[np.uint32], shift: int) -> bool:
    start, stop = max(0, -shift), min(len(first), len(second) - shift)
    if stop - start < _OVERLAP * min(len(first), len(second)):
        return False
    ours, theirs = first[start:stop], second[start + shift : stop + shift]
    sounding = (ours != 0) & (theirs != 0)
    if sounding.sum() < _OVERLAP * max((first != 0).sum(), 1) and sounding.sum() < _OVERLAP * max(
        (second != 0).sum(), 1
    ):
        return False
    return float(np.bitwise_count(ours[sounding] ^ theirs[sounding]).mean()) < _BIT_ERRORS * 32
