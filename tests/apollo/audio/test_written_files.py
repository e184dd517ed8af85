"""What is written: containers that fit, pictures that grow, long paths, modes; folders of other endings."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from apollo.audio import writing
from apollo.audio.formats import SongsConfig
from apollo.audio.songs import find_songs
from apollo.listening import spectrogram
from apollo.listening.spectrogram import Spectrogram
from apollo.model.generator import Generator
from tests.support.datasets import encode, music, write
from tests.support.identity_generator import one, read, restore

RATE = 44_100


def test_a_recording_without_a_duration_becomes_a_plain_wav_and_a_whole_picture(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = write(tmp_path / "in.wav", music(1, 4.0, 48_000), 48_000)
    song = encode(wav, tmp_path / "song.webm", "-c:a", "libopus", "-b:a", "64k", "-live", "1")
    drawn: list[tuple[Spectrogram, Spectrogram]] = []
    monkeypatch.setattr("apollo.audio.side_files.save_comparison", lambda *pair, **_: drawn.append(pair))
    outcome = one(generator, song, picture=True)
    assert Path(outcome.output).read_bytes()[:4] == b"RIFF"
    assert len(read(outcome)) == pytest.approx(4 * RATE, abs=1_000)
    for picture in drawn[0]:
        assert picture.level_db().shape[1] == pytest.approx(4 * RATE / 512, abs=10)


def test_a_picture_that_grows_is_the_picture_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrogram, "_COLUMNS", 10)
    samples = torch.from_numpy(music(1, 3.0)[: RATE * 3 - 77].T.astype(np.float32))
    whole = Spectrogram(None, RATE)
    whole.add(samples)
    assert 10 <= whole.level_db().shape[1] <= 20
    for size in (100, 512, 5_000, 44_100):
        grown = Spectrogram(None, RATE)
        for start in range(0, samples.shape[1], size):
            grown.add(samples[:, start : start + size])
        assert grown.hop == whole.hop
        torch.testing.assert_close(grown.level_db(), whole.level_db())


@pytest.mark.parametrize("clip", ["rescale", "none"])
@pytest.mark.parametrize("format", ["float", "wav16", "flac24"])
def test_a_song_longer_than_its_header_says_outgrows_a_wav(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, clip: str
) -> None:
    monkeypatch.setattr(writing, "_WAV_LIMIT_BYTES", 8 * RATE * 7)  # 7 s of stereo
    wav = write(tmp_path / "in.wav", music(1, 12.0))
    song = encode(wav, tmp_path / "song.mka", "-c:a", "flac", "-live", "1")
    outcome = one(generator, song, format=format, clip=clip)
    with soundfile.SoundFile(outcome.output) as result:
        assert result.format == {"float": "RF64", "wav16": "RF64", "flac24": "FLAC"}[format]
    np.testing.assert_allclose(read(outcome), music(1, 12.0), atol=2**-14)
    assert len(list((song.parent / "out").iterdir())) == 1


def test_an_output_path_of_more_than_1024_bytes_is_written(generator: Generator, tmp_path: Path) -> None:
    place = Path(tmp_path, *["n" * 120] * 9)
    write(tmp_path / "song.wav", music(1, 0.5))
    encode(tmp_path / "song.wav", tmp_path / "song.mp3", "-b:a", "64k")
    place.mkdir(parents=True)
    for name in ("song.wav", "song.mp3"):
        (tmp_path / name).rename(place / name)
    outcomes = restore(generator, place, output=place / "out", format="flac24", picture=True)
    assert [outcome.status for outcome in outcomes] == ["restored"] * 2
    for outcome in outcomes:
        assert outcome.warnings == []
        assert len(outcome.output) > 1_024
        assert outcome.samples == RATE // 2
        with open(outcome.output, "rb") as stream:
            assert soundfile.info(stream).frames == RATE // 2


def test_results_have_the_mode_of_the_umask_which_is_not_touched(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.1))
    before = os.umask(0o027)
    try:
        monkeypatch.setattr("os.umask", lambda _: pytest.fail("the umask belongs to all threads"))
        outcome = one(generator, song, format="wav16")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert stat.S_IMODE(Path(outcome.output).stat().st_mode) == 0o640


def test_a_name_of_latin_1_bytes_has_a_picture_and_a_page(generator: Generator, tmp_path: Path) -> None:
    song = write(tmp_path / "a.wav", music(1, 0.2)).rename(
        os.fsdecode(os.fsencode(tmp_path) + b"/a caf\xe9.wav")
    )
    outcome = one(generator, song, picture=True, compare=True)
    assert (outcome.status, outcome.warnings) == ("restored", [])
    assert "<h1>a caf�.wav</h1>" in Path(outcome.output).with_suffix(".compare.html").read_text()
    assert Path(outcome.output).with_suffix(".spectrogram.png").stat().st_size > 10_000


def test_a_picture_and_a_page_that_fail_end_neither_the_song_nor_the_batch(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed")

    for name in ("save_comparison", "write_song_page"):
        monkeypatch.setattr(f"apollo.audio.side_files.{name}", fail)
    songs = [write(tmp_path / f"{name}.wav", music(1, 0.1)) for name in "ab"]
    for outcome in restore(generator, *songs, output=tmp_path / "out", picture=True, compare=True):
        assert outcome.status == "restored"
        for name, warning in zip(("spectrogram", "comparison page"), outcome.warnings, strict=True):
            assert f"the {name} cannot be written: UnicodeEncodeError" in warning


@pytest.mark.parametrize("length", [2_100, 40_000, 150_000])
@pytest.mark.parametrize("format", ["float", "flac24"])
def test_long_tags_do_not_hinder_a_result(
    generator: Generator, tmp_path: Path, length: int, format: str
) -> None:
    with soundfile.SoundFile(tmp_path / "song.flac", "w", RATE, 2, "PCM_16") as file:
        file.title = "lorem ipsum " * (length // 12)
        file.copyright = "lorem ipsum " * (length // 12)
        file.artist = "Somebody"
        file.write(music(1, 0.5))
    outcome = one(generator, tmp_path / "song.flac", format=format)
    np.testing.assert_allclose(read(outcome), music(1, 0.5), atol=2**-14)


def test_a_folder_is_searched_for_all_endings_and_the_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["book.m4b", "clip.mov", "phone.3gp", "video.mkv", "radio.mpga", "broadcast.rf64", "one.MP3"]
    others = ["album.cue", "cover.jpg", "no ending"]
    for name in (*names, *others, ".hidden.mp3"):
        (tmp_path / "album").mkdir(exist_ok=True)
        (tmp_path / "album" / name).touch()
    jobs = find_songs([str(tmp_path / "album")], SongsConfig(output=str(tmp_path / "out")))
    assert sorted(job.source.name for job in jobs) == sorted(names)
    (record,) = caplog.records
    assert record.getMessage() == (
        "3 files were left out, by their names' extensions: 'album.cue', 'cover.jpg', 'no ending'"
    )
