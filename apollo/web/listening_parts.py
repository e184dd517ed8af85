"""What the page plays: input, output without noise, and noise, in pieces that are mixed in the browser.

Pieces of all parts begin at the same samples, so that those of one number are aligned. They are FLAC of 24
bits at an eighth of the level, since restored samples may exceed full scale: rounding is 126 dB below full
scale. More than two channels are mixed to mono.

Shape legend: samples are [channels, samples].
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apollo.audio.formats import MAX_STRENGTH
from apollo.listening.pictures import spectrogram_png, top_db
from apollo.listening.spectrogram import Spectrogram
from apollo.web.song_folder import SongFolder

PIECE_SECONDS = 4.0
STORED_LEVEL = 0.125
STRENGTH_STEP = 0.05
BEFORE, DETERMINISTIC, NOISE = "before", "deterministic", "noise"
SPECTROGRAMS = (BEFORE, "after")


class ListeningParts:
    """Write the pieces of a song while it is restored, and measure what the page shows.

    Args:
        song: Its folder.
        frames: Expected samples per channel, None if unknown.
        sample_rate: Hz.
        strength: Of the noise in the picture; None if the model has none.
    """

    def __init__(
        self, song: SongFolder, frames: int | None, sample_rate: int, strength: float | None
    ) -> None:
        self._song, self._rate, self._strength = song, sample_rate, strength
        names = (BEFORE, DETERMINISTIC) if strength is None else (BEFORE, DETERMINISTIC, NOISE)
        self._writers = {name: _PieceWriter(song, name, sample_rate) for name in names}
        self._spectrograms = [Spectrogram(frames, sample_rate) for _ in SPECTROGRAMS]
        count = 1 if strength is None else round(MAX_STRENGTH / STRENGTH_STEP) + 1
        self._peaks = [1.0] * count  # of the output, by strength; 1 where it does not exceed full scale
        self._channels = 0
        (song.path / "parts").mkdir(exist_ok=True)

    def add(self, before: Tensor, deterministic: Tensor, noise: Tensor | None) -> None:
        """Add samples; the input may be ahead of the other two."""
        self._channels = len(deterministic)
        before = before[: self._channels]  # behind the last chunk come no samples of any rows
        added = torch.zeros_like(deterministic) if noise is None else noise
        self._measure_peaks(deterministic, added)
        after = deterministic + (self._strength or 0.0) * added
        for spectrogram, samples in zip(self._spectrograms, (before, after)):
            spectrogram.add(samples)
        parts = {BEFORE: before, DETERMINISTIC: deterministic} | ({} if noise is None else {NOISE: noise})
        for name, samples in parts.items():
            self._writers[name].add(samples.mean(0, keepdim=True) if len(samples) > 2 else samples)

    def _measure_peaks(self, deterministic: Tensor, noise: Tensor) -> None:
        """Measure the peak at each strength, where one may exceed full scale."""
        if not deterministic.shape[1]:
            return
        if float(deterministic.abs().max() + MAX_STRENGTH * noise.abs().max()) <= 1:
            return
        for number in range(len(self._peaks)):
            peak = float((deterministic + number * STRENGTH_STEP * noise).abs().max())
            self._peaks[number] = max(self._peaks[number], peak)

    def finish(self) -> dict[str, Any]:
        """Write what is left, and the spectrograms; return what the page needs to play it."""
        for writer in self._writers.values():
            writer.finish()
        levels = [one.level_db() for one in self._spectrograms]
        for name, level in zip(SPECTROGRAMS, levels):
            self._song.spectrogram(name).write_bytes(spectrogram_png(level, top_db(*levels)))
        writer = self._writers[BEFORE]
        return {
            "sample_rate": self._rate,
            "channels": self._channels,
            "samples": writer.samples,
            "piece_samples": writer.piece_samples,
            "pieces": writer.number,
            "parts": list(self._writers),
            "gain": 1 / STORED_LEVEL,
            "strength_step": STRENGTH_STEP,
            # as `apollo restore --clip rescale` scales the whole file down
            "output_gains": [1 / peak for peak in self._peaks],
        }


class _PieceWriter:
    """Cut a part into pieces."""

    def __init__(self, song: SongFolder, name: str, sample_rate: int) -> None:
        self._song, self._name, self._rate = song, name, sample_rate
        self._pending: list[Tensor] = []
        self.piece_samples = round(PIECE_SECONDS * sample_rate)
        self.samples = self.number = 0

    def add(self, samples: Tensor) -> None:
        self.samples += samples.shape[1]
        self._pending.append(samples)
        if sum(one.shape[1] for one in self._pending) < self.piece_samples:
            return
        *whole, rest = torch.cat(self._pending, 1).split(self.piece_samples, 1)
        if rest.shape[1] == self.piece_samples:
            whole, rest = [*whole, rest], rest[:, :0]
        for piece in whole:
            self._write(piece)
        self._pending = [rest]

    def finish(self) -> None:
        rest = torch.cat(self._pending, 1)
        if rest.shape[1]:
            self._write(rest)

    def _write(self, samples: Tensor) -> None:
        path = self._song.piece(self._name, self.number)
        self.number += 1
        _write_flac(path, STORED_LEVEL * samples, self._rate)


def _write_flac(path: Path, samples: Tensor, sample_rate: int) -> None:
    import soundfile

    soundfile.write(
        path, samples.T.numpy(), sample_rate, format="FLAC", subtype="PCM_24", compression_level=0.0
    )
