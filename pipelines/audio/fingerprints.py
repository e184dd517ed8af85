"""Audio fingerprints: find songs that are one recording, so that none is in two splits under two names.

Source: Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (2002): a sub-fingerprint of
32 bits per frame, each the sign of an energy difference between neighbouring bands and frames, which coding,
rounding and level hardly change. Differs in its hop (46 instead of 11.6 ms: whole songs are compared here).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.schema import SAMPLE_RATE

_WINDOW, HOP = 16_384, 2_048
_BANDS = 33
_BAND_LIMITS_HZ = np.geomspace(300.0, 2_000.0, _BANDS + 1)
_SILENCE = 1e-7  # mean square, -70 dBFS: such frames match everything
_MAX_FRAMES = 64  # a sub-fingerprint in more frames than this is not specific
_MIN_VOTES = 8
_MAX_BIT_ERROR_RATE = 0.3  # 0.35 in the paper, for 3 s; unrelated songs are at 0.5
_MIN_OVERLAP = 0.5


class FingerprintExtractor:
    """Computes the sub-fingerprints of a song, block by block."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)
        self._before: NDArray[np.float64] | None = None
        self._words: list[NDArray[np.uint32]] = []
        self._hann = np.hanning(_WINDOW).astype(np.float32)
        self._bins = np.round(_BAND_LIMITS_HZ * _WINDOW / SAMPLE_RATE).astype(int)

    def add(self, samples: NDArray[np.float32]) -> None:
        """Add the next block [frames, channels]."""
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
        """Return the sub-fingerprints so far, uint32, one per 46 ms; 0 is silence."""
        return np.concatenate(self._words) if self._words else np.zeros(0, np.uint32)


def find_same_recordings(fingerprints: Sequence[NDArray[np.uint32]]) -> list[tuple[int, int]]:
    """Return the pairs of songs that are one recording, possibly with a time shift.

    Two songs match when over half of the shorter one overlaps the other with a bit error rate below 0.3.
    """
    votes: dict[tuple[int, int, int], int] = defaultdict(int)
    for first, second, shift in _coincidences(fingerprints):
        votes[first, second, shift] += 1
    likely: dict[tuple[int, int], list[int]] = defaultdict(list)
    for (first, second, shift), count in votes.items():
        if count >= _MIN_VOTES:
            likely[first, second].append(shift)
    return [
        pair
        for pair, shifts in sorted(likely.items())
        if any(_agree(fingerprints[pair[0]], fingerprints[pair[1]], shift) for shift in shifts)
    ]


def _coincidences(fingerprints: Sequence[NDArray[np.uint32]]) -> Iterable[tuple[int, int, int]]:
    """Yield (song, later song, shift) for every sub-fingerprint that two songs share."""
    words = np.concatenate([*fingerprints, np.zeros(0, np.uint32)])
    order = np.argsort(words, kind="stable")  # [words of all songs]
    words = words[order]
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(words)) + 1, [len(words)]])
    numbers = np.diff(bounds)
    shared = np.flatnonzero((numbers > 1) & (numbers <= _MAX_FRAMES))  # few; the others are not looked at
    begins = np.cumsum([0, *(len(p) for p in fingerprints)])
    for low, high in zip(bounds[shared].tolist(), bounds[shared + 1].tolist(), strict=True):
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
    if stop - start < _MIN_OVERLAP * min(len(first), len(second)):
        return False
    ours, theirs = first[start:stop], second[start + shift : stop + shift]
    audible = (ours != 0) & (theirs != 0)
    if audible.sum() < _MIN_OVERLAP * max((first != 0).sum(), 1) and audible.sum() < _MIN_OVERLAP * max(
        (second != 0).sum(), 1
    ):
        return False
    return float(np.bitwise_count(ours[audible] ^ theirs[audible]).mean()) < _MAX_BIT_ERROR_RATE * 32
