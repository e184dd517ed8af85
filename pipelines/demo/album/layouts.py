"""Layouts: write a performed song as MoisesDB or MUSDB18-HQ publishes one, whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid5

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipelines.demo.album.composer import Part, Song
from pipelines.demo.album.synthesizer import SAMPLE_RATE_HZ, Audio, add_reverb, play

Samples = NDArray[np.int16]  # [samples, channels], as it is written

PEAK_DB = -1.0
FULL_SCALE = 32767
MUSDB_STEMS = ("vocals", "drums", "bass", "other")
MUSDB_STEM_OF = {"vocals": "vocals", "drums": "drums", "percussion": "drums", "bass": "bass"}


@dataclass(frozen=True, kw_only=True)
class PlayedTrack:
    """A part and how it sounds in the song: [channels, samples], float32; all tracks start together."""

    part: Part
    audio: Audio


def perform(song: Song) -> list[PlayedTrack]:
    """Play every part of a song, scaled as a whole so that no mix, stem or track peaks above PEAK_DB."""
    rng = np.random.default_rng((*song.seed, 3))
    tracks = []
    for part in song.parts:
        audio = add_reverb(play(part, rng), rng)
        mono = audio.mean(axis=0, keepdims=True)
        tracks.append(PlayedTrack(part=part, audio=mono if part.track.mono else audio))
    stems = [_mix(_members(tracks, stem)) for stem in MUSDB_STEMS]  # a stem may peak above the mix
    peak = max(
        float(np.abs(audio).max(initial=0.0)) for audio in (_mix(tracks), *stems, *(t.audio for t in tracks))
    )
    gain = np.float32(10.0 ** (PEAK_DB / 20.0) / peak)
    return [PlayedTrack(part=track.part, audio=track.audio * gain) for track in tracks]


def write_moisesdb_song(song: Song, songs_directory: Path) -> Path:
    """Write `<uuid>/data.json` and `<uuid>/<stem>/<track id>.wav`, unless the song is there."""

    def write(directory: Path) -> None:
        stems: dict[str, list[dict[str, object]]] = {}
        for number, track in enumerate(perform(song)):
            source = track.part.track
            track_id = str(uuid5(song.uuid, str(number)))
            (directory / source.stem).mkdir(exist_ok=True)
            _write_wav(directory / source.stem / f"{track_id}.wav", _rounded(track.audio))
            entry = {"id": track_id, "trackType": source.track_type, "extension": "wav", "has_bleed": False}
            stems.setdefault(source.stem, []).append(entry)
        description = {
            "artist": song.artist,
            "song": song.title,
            "genre": song.genre,
            "stems": [{"stemName": stem, "tracks": entries} for stem, entries in stems.items()],
        }
        (directory / "data.json").write_text(
            json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8"
        )

    return _write_whole(songs_directory / str(song.uuid), write)


def write_musdb_song(song: Song, subset_directory: Path) -> Path:
    """Write `<Artist - Title>/{mixture,vocals,drums,bass,other}.wav`, unless the song is there."""

    def write(directory: Path) -> None:
        tracks = perform(song)
        length = max(track.audio.shape[1] for track in tracks)
        mixture = np.zeros((length, 2), np.int16)
        for stem in MUSDB_STEMS:
            samples = _rounded(_mix(_members(tracks, stem), length))
            mixture += samples
            _write_wav(directory / f"{stem}.wav", samples)
        _write_wav(directory / "mixture.wav", mixture)

    return _write_whole(subset_directory / f"{song.artist} - {song.title}", write)


def _members(tracks: list[PlayedTrack], stem: str) -> list[PlayedTrack]:
    return [track for track in tracks if MUSDB_STEM_OF.get(track.part.track.stem, "other") == stem]


def _mix(tracks: list[PlayedTrack], length: int = 0) -> Audio:
    mix = np.zeros((2, max([length, *(track.audio.shape[1] for track in tracks)])), np.float32)
    for track in tracks:
        mix[:, : track.audio.shape[1]] += track.audio
    return mix


def _rounded(audio: Audio) -> Samples:
    return np.rint(audio.T * FULL_SCALE).astype(np.int16)


def _write_wav(path: Path, samples: Samples) -> None:
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")


def _write_whole(directory: Path, write: Callable[[Path], None]) -> Path:
    """Fill a hidden sibling and rename it: a directory that has its final name is complete."""
    if directory.exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=directory.parent))
    try:
        unfinished.chmod(0o755)
        write(unfinished)
        os.rename(unfinished, directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return directory
