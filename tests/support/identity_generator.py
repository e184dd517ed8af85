"""Restoring with a correction of zero: a restored song is the song itself."""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from apollo.audio.formats import SongsConfig
from apollo.audio.songs import SongResult, find_songs, restore_songs
from apollo.model.generator import Generator

RATE = 44_100


def restore(generator: Generator, *inputs: Path, output: Path, **options: object) -> list[SongResult]:
    config = SongsConfig(output=str(output), **options)
    return list(restore_songs(generator, find_songs([str(path) for path in inputs], config), config))


def one(generator: Generator, song: Path, **options: object) -> SongResult:
    (outcome,) = restore(generator, song, output=song.parent / "out", **options)
    assert [path.name for path in (song.parent / "out").glob(".*")] == []
    return outcome


def read(outcome: SongResult, sample_rate: int = RATE) -> NDArray[np.float32]:
    assert outcome.status == "restored", outcome.reason
    samples, rate = soundfile.read(outcome.output, dtype="float32", always_2d=True)
    assert rate == outcome.sample_rate == sample_rate
    assert len(samples) == outcome.samples
    return samples
