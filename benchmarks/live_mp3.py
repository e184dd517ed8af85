"""Training pairs from songs in memory: clean pieces, and the same through libsndfile's MP3.

Needs torch, numpy and soundfile. Examples are a function of (seed, epoch, position), as in `apollo.training`.

Shape legend: samples of files [frames, channels]; of examples [channels, frames]; 44,100 Hz.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from apollo import rng
from apollo.audio import mp3
from apollo.model.config import GeneratorConfig
from apollo.training.augmentation import LevelsConfig, set_levels
from apollo.training.data import Example
from apollo.training.pieces import draw_piece

SAMPLE_RATE = GeneratorConfig().sample_rate
SONGS = "songs.json"
MP3_KBPS = (32, 48, 64, 96, 128)  # constant bitrates; MPEG-1 has none below 32
GAIN = 0.95  # LAME scales its input by this at constant bitrates up to 160 kbps
_LEVEL_OF_32 = 0.999  # soundfile sets the level while the mode is still variable, where 1 is refused
_DELAY = 1_105  # of encoder (576) and decoder (529)
_MARGIN = 2 * 1_152  # encoded before and after a piece: two frames
_FULL_SCALE = 32_768
_VALIDATION_SHARE = 10  # one song of so many
_LONGEST_EPOCH = 1 << 32  # examples


def round_trip(clean: NDArray[np.float32], kbps: int) -> NDArray[np.float32]:
    """Encode samples [frames, channels] as MP3 and decode them, aligned and of the same length.

    libsndfile writes a gapless tag where it fits into a frame: from 64 kbps on. Below, the decoded samples
    begin with the delay of encoder and decoder. It encodes int16 at another level than float32 (1.2.2).
    """
    import soundfile

    stream = io.BytesIO()
    soundfile.write(
        stream,
        np.pad(clean, ((0, _MARGIN), (0, 0))),
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=min((320 - kbps) / 288, _LEVEL_OF_32),
        bitrate_mode="CONSTANT",
    )
    start = _DELAY if mp3.parse(stream.getvalue()).samples is None else 0
    stream.seek(0)
    decoded: NDArray[np.float32] = soundfile.read(stream, dtype="float32", always_2d=True)[0]
    return decoded[start : start + len(clean)]


def resample(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Resample [frames, channels] to 44.1 kHz by its spectrum."""
    if rate == SAMPLE_RATE:
        return samples
    seconds = -(-len(samples) // rate)  # lengths that a Fourier transform is fast at
    spectrum = torch.fft.rfft(torch.from_numpy(samples.T.copy()), seconds * rate)
    length = seconds * SAMPLE_RATE
    resampled = torch.fft.irfft(spectrum[:, : length // 2 + 1], length) * (SAMPLE_RATE / rate)
    found: NDArray[np.float32] = resampled[:, : len(samples) * SAMPLE_RATE // rate].T.numpy()
    return found


@dataclass(frozen=True)
class Song:
    """A decoded song.

    Args:
        name: For logs.
        path: File of int16 samples [frames, channels], which is mapped into memory.
        bandwidth_hz: Frequency up to which it is known.
    """

    name: str
    path: str
    bandwidth_hz: float


def decode_songs(folder: Path, scratch: Path) -> tuple[list[Song], list[Song]]:
    """Decode the songs of `benchmarks.pack_songs` into `scratch`; return those to train and to validate with.

    Raises:
        ValueError: there are fewer than two.
    """
    packed = json.loads((folder / SONGS).read_text())

    def decode(entry: dict[str, str | float]) -> Song:
        import soundfile

        samples, rate = soundfile.read(folder / str(entry["file"]), dtype="float32", always_2d=True)
        path = scratch / f"{entry['file']}.npy"
        whole = np.rint(resample(samples, rate) * _FULL_SCALE)
        np.save(path, whole.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16))
        return Song(str(entry["song"]), str(path), float(entry["bandwidth_hz"]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        songs = list(pool.map(decode, packed))
    if len(songs) < 2:
        raise ValueError(f"{folder} has {len(songs)} songs: training and validation need one each")
    held_out = -(-len(songs) // _VALIDATION_SHARE)
    return songs[held_out:], songs[:held_out]


class Mp3Pieces(Dataset[Example]):
    """Pieces of songs by index, each at a random place of a random song and a random bitrate.

    Args:
        songs: Stereo songs.
        seconds: Length of the pieces.
        levels: Levels and augmentation; None for the levels that the decoder returns.
        seed: Seed of the run.
    """

    def __init__(
        self, songs: Sequence[Song], *, seconds: float, levels: LevelsConfig | None, seed: int = 0
    ) -> None:
        self._songs, self._levels, self._seed = songs, levels, seed
        self._samples = round(seconds * SAMPLE_RATE)

    def __getitem__(self, index: int) -> Example:
        """Make an example."""
        song = self._songs[rng.integer_below(len(self._songs), index, self._seed, "song")]
        kbps = MP3_KBPS[rng.integer_below(len(MP3_KBPS), index, self._seed, "bitrate")]
        samples = np.load(song.path, mmap_mode="r")
        piece, clean = draw_piece(
            lambda piece: _to_tensor(_to_float(samples[piece])),
            samples=len(samples),
            piece_samples=self._samples,
            seed=self._seed,
            index=index,
        )
        first = max(piece.start - _MARGIN, 0)
        around = round_trip(_to_float(samples[first : piece.stop + _MARGIN]), kbps)
        degraded = _to_tensor(around[piece.start - first : piece.stop - first])
        if self._levels is not None:
            clean, degraded = set_levels(
                clean,
                degraded,
                gain=GAIN,
                config=self._levels,
                seed=self._seed,
                index=index,
                sample_rate=SAMPLE_RATE,
            )
        return Example(clean, degraded, f"{song.name}/mp3_{kbps}000", song.bandwidth_hz)


def _to_float(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)


def _to_tensor(samples: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(samples.T.copy())


class LiveSource:
    """Source of training examples that worker processes make.

    Args:
        pieces: Examples by index.
        workers: Number of processes; 0 makes them in this one.
    """

    def __init__(self, pieces: Mp3Pieces, *, workers: int) -> None:
        self._indices: list[int] = []  # of the next pass of the loader
        self._loader: DataLoader[Example] = DataLoader(
            pieces,
            batch_size=None,
            sampler=self._indices,
            num_workers=workers,
            collate_fn=_unchanged,
            multiprocessing_context="spawn" if workers else None,  # a fork beside CUDA may deadlock
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
        )

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Yield the examples at positions of an epoch; see `apollo.training.data.ExampleSource`."""
        self._indices[:] = [epoch * _LONGEST_EPOCH + position for position in positions]
        yield from self._loader


def _unchanged(example: Any) -> Any:
    return example


class ValidationPieces:
    """Validation examples, made once: without augmentation, at the levels that the decoder returns."""

    def __init__(self, songs: Sequence[Song], *, count: int, seconds: float) -> None:
        pieces = Mp3Pieces(songs, seconds=seconds, levels=None)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._examples = list(pool.map(pieces.__getitem__, range(count)))

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, epoch: int, positions: Sequence[int]) -> Iterator[Example]:
        """Yield the examples at positions, the same in every epoch."""
        return (self._examples[position % len(self)] for position in positions)
