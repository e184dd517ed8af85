"""The built-in album: real layouts, full spectrum, the same bytes from the same seed, nothing done twice."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from pipelines.demo.album import MOISESDB, MUSDB, compose_songs, write_album
from pipelines.demo.album.composer import STEPS_PER_BAR, Note, Part, Song, read_kit
from pipelines.demo.album.styles import STYLES, Track
from pipelines.demo.album.synthesizer import INSTRUMENTS, PIECES, play
from pipelines.preprocess.splits import SplitCandidate, SplitsConfig, assign_splits
from pipelines.schema import SPLITS

MOISESDB_STEMS = {
    "vocals",
    "bass",
    "drums",
    "other",
    "guitar",
    "other_plucked",
    "percussion",
    "piano",
    "other_keys",
    "bowed_strings",
    "wind",
}
SECONDS = 12.0
PRESET = Path(__file__).parents[3] / "jobs" / "configs" / "preprocess" / "demo.yaml"


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pop song in MoisesDB's layout and a soul song in MUSDB18-HQ's, 12 s each."""
    destination = tmp_path_factory.mktemp("album")
    write_album(destination, seed=5, songs=(1, 0, 1), seconds=SECONDS)
    return destination


@pytest.fixture(scope="module")
def moisesdb_song(album: Path) -> Path:
    (song,) = (album / "moisesdb" / "moisesdb_v0.1").iterdir()
    return song


@pytest.fixture(scope="module")
def musdb_song(album: Path) -> Path:
    (song,) = (album / "musdb18hq" / "test").iterdir()
    return song


def _digests(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _default_songs() -> list[Song]:
    return [
        *compose_songs(MOISESDB),
        *compose_songs(MUSDB),
    ]


def _moisesdb_mix(song: Path) -> np.ndarray:
    tracks = [soundfile.read(path, always_2d=True)[0] for path in sorted(song.rglob("*.wav"))]
    mix = np.zeros((max(len(track) for track in tracks), 2))
    for track in tracks:
        mix[: len(track)] += track
    return mix


def _share_of_bright_frames(audio: np.ndarray, *, low_hz: float, high_hz: float, level_db: float) -> float:
    """Share of 2048-sample frames whose level between two frequencies is above a level in dBFS."""
    frames = np.lib.stride_tricks.sliding_window_view(audio.mean(axis=1), 2048)[::1024]
    power = (np.abs(np.fft.rfft(frames * np.hanning(2048))) / 512.0) ** 2
    frequency = np.fft.rfftfreq(2048, 1.0 / 44100)
    band = power[:, (frequency >= low_hz) & (frequency < high_hz)].sum(axis=1)
    return float((band > 10.0 ** (level_db / 10.0)).mean())


def test_same_seed_gives_the_same_bytes(album: Path, tmp_path: Path) -> None:
    write_album(tmp_path, seed=5, songs=(1, 0, 1), seconds=SECONDS)
    assert _digests(tmp_path) == _digests(album)


def test_other_seed_gives_other_music() -> None:
    one, other = (compose_songs(MOISESDB, seed=seed) for seed in (0, 1))
    assert not {song.uuid for song in one} & {song.uuid for song in other}
    for song_of_one, song_of_other in zip(one, other, strict=True):
        assert song_of_one.parts[0].notes != song_of_other.parts[0].notes


def test_default_album_has_every_stem_and_no_song_twice() -> None:
    moisesdb = compose_songs(MOISESDB)
    stems = [{part.track.stem for part in song.parts} for song in moisesdb]
    assert set().union(*stems) == MOISESDB_STEMS
    assert all(5 <= len(of_song) <= 9 for of_song in stems)
    songs = _default_songs()
    assert len({(song.artist, song.title) for song in songs}) == len({song.uuid for song in songs}) == 12
    assert len({song.artist for song in moisesdb}) >= 4
    assert not {song.artist for song in moisesdb} & {song.artist for song in songs[8:]}


def test_stems_enter_and_leave() -> None:
    for song in _default_songs():
        ends = [max(note.start_seconds + note.duration_seconds for note in part.notes) for part in song.parts]
        starts = [part.notes[0].start_seconds for part in song.parts]
        assert max(starts) > 2.0, song.title
        assert min(ends) < max(ends) - 2.0, song.title
        assert 20.0 < max(ends) < 28.0, song.title


def test_every_figure_fills_its_bar_and_names_a_known_instrument() -> None:
    for style in STYLES:
        assert len(style.artists) == len({*MOISESDB, *MUSDB})
        for track in style.tracks:
            kit = read_kit(track.instrument)
            assert {len(row) for row in (kit or {"": track.figure}).values()} == {STEPS_PER_BAR}, track
            assert set(kit) <= set(PIECES)
            assert kit or track.instrument in INSTRUMENTS


def test_tones_have_the_pitch_of_their_note() -> None:
    track = Track("piano", "grand piano", "piano", "1")
    note = Note(start_seconds=0.0, duration_seconds=1.5, velocity=1.0, pitch=69)
    tone = play(Part(track=track, notes=(note,)), np.random.default_rng(0))[0]
    spectrum = np.abs(np.fft.rfft(tone * np.hanning(tone.size), 2**18)) ** 2
    frequency = np.fft.rfftfreq(2**18, 1.0 / 44100)
    harmonic = np.round(frequency / 440.0).clip(1)
    near = np.abs(frequency / (harmonic * 440.0) - 1.0) < 0.02  # a third of a semitone
    assert spectrum[near].sum() > 0.8 * spectrum.sum()


def test_chords_stay_in_the_scale() -> None:
    song = compose_songs(MOISESDB)[0]
    (piano,) = (part for part in song.parts if part.track.stem == "piano")
    assert len({note.pitch % 12 for note in piano.notes}) <= 7
    assert all(abs(note.pitch - piano.track.centre) <= 24 for note in piano.notes)


def test_moisesdb_layout_lists_every_file(moisesdb_song: Path) -> None:
    description = json.loads((moisesdb_song / "data.json").read_text("utf-8"))
    assert set(description) == {"artist", "song", "genre", "stems"}
    listed = {
        f"{stem['stemName']}/{track['id']}.{track['extension']}"
        for stem in description["stems"]
        for track in stem["tracks"]
    }
    assert listed == {str(path.relative_to(moisesdb_song)) for path in moisesdb_song.rglob("*.wav")}
    assert all(
        set(track) == {"id", "trackType", "extension", "has_bleed"} and track["has_bleed"] is False
        for stem in description["stems"]
        for track in stem["tracks"]
    )
    assert {stem["stemName"] for stem in description["stems"]} <= MOISESDB_STEMS
    assert max(len(stem["tracks"]) for stem in description["stems"]) > 1


def test_moisesdb_tracks_differ_in_length_and_one_is_mono(moisesdb_song: Path) -> None:
    infos = [soundfile.info(path) for path in moisesdb_song.rglob("*.wav")]
    assert {(info.samplerate, info.subtype) for info in infos} == {(44100, "PCM_16")}
    assert len({info.frames for info in infos}) > 2
    assert {info.channels for info in infos} == {1, 2}
    assert np.abs(_moisesdb_mix(moisesdb_song)).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3)


def test_musdb_mixture_is_the_sum_of_its_stems(musdb_song: Path) -> None:
    assert musdb_song.name == "Delphine Carraway - Kinder Weather"
    audio = {path.stem: soundfile.read(path, dtype="int16")[0].astype(int) for path in musdb_song.iterdir()}
    mixture = audio.pop("mixture")
    assert set(audio) == {"vocals", "drums", "bass", "other"}
    np.testing.assert_array_equal(sum(audio.values()), mixture)  # exact: rounded stems are added as integers
    assert np.abs(mixture).max() == pytest.approx(32767 * 10 ** (-1 / 20), abs=3)
    assert all(np.abs(stem).max() > 1000 for stem in audio.values())
    assert soundfile.info(musdb_song / "mixture.wav").samplerate == 44100


def test_mixes_reach_the_top_of_the_spectrum(moisesdb_song: Path, musdb_song: Path) -> None:
    for mix in (_moisesdb_mix(moisesdb_song), soundfile.read(musdb_song / "mixture.wav")[0]):
        assert _share_of_bright_frames(mix, low_hz=16000, high_hz=18000, level_db=-70.0) > 0.6
        assert _share_of_bright_frames(mix, low_hz=18000, high_hz=20000, level_db=-70.0) > 0.6


def test_second_run_touches_nothing_and_first_leaves_no_rubble(album: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in album.rglob("*")}
    paths = write_album(album, seed=5, songs=(1, 0, 1), seconds=SECONDS)
    assert {path: path.stat().st_mtime_ns for path in album.rglob("*")} == before
    assert len(paths) == 2
    assert not [path for path in before if path.name.startswith(".")]


def test_failed_song_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(soundfile, "write", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_album(tmp_path, songs=(1, 0, 0), seconds=SECONDS)
    assert list((tmp_path / "moisesdb" / "moisesdb_v0.1").iterdir()) == []


def test_the_demo_holds_out_songs_enough_for_an_interval() -> None:
    """With one song to validate on there is no interval, and no champion whatever was learned."""
    preset = yaml.safe_load(PRESET.read_text())
    songs = compose_songs(MOISESDB)
    members = [SplitCandidate(f"moisesdb/{song.uuid}", song.artist, None, True) for song in songs]
    officials = ("train", "train", "train", "test")
    members += [
        SplitCandidate(f"musdb18hq/{place}", "", split, True) for place, split in enumerate(officials)
    ]
    division = assign_splits(members, [], dict.fromkeys(SPLITS, 1), SplitsConfig(**preset["splits"]))
    assert Counter(division.split.values()) == {"train": 6, "valid": 3, "test": 3}
