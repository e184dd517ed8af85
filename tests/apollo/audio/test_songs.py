"""Restoring files: every format, rate and channel count, exact lengths, names and options."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch import Tensor

from apollo.audio.formats import SongsConfig
from apollo.audio.songs import find_songs
from apollo.inference.streaming import StreamRestorer, StreamState
from apollo.model.generator import Generator
from tests.support.datasets import encode, music, write
from tests.support.identity_generator import one, read, restore

RATE = 44_100


@pytest.mark.parametrize("frames", [1, 2, 440, 441, 442, 1_000, 44_100, 100_003])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_wav_keeps_length_channels_and_samples(
    generator: Generator, tmp_path: Path, frames: int, channels: int
) -> None:
    samples = music(frames, 3.0, channels=channels)[:frames]
    song = write(tmp_path / "song.wav", samples, subtype="FLOAT")
    before = song.read_bytes()
    restored = read(one(generator, song))
    np.testing.assert_allclose(restored, samples, atol=2e-7)  # float32, and an STFT round trip
    assert song.read_bytes() == before


LOSSY = {
    "song.mp3": ("-b:a", "128k"),
    "song.ogg": ("-c:a", "libvorbis", "-q:a", "6"),
    "song.opus": ("-c:a", "libopus", "-b:a", "128k"),
    "song.m4a": ("-c:a", "aac", "-b:a", "192k"),
    "song.mka": ("-c:a", "libvorbis", "-q:a", "6"),
    "song.flac": (),
    "alac.m4a": ("-c:a", "alac"),
    "song.aiff": (),
    "song.wv": (),
}


@pytest.mark.parametrize("name", ["song.mp3", "song.ogg", "song.flac"])
def test_a_long_file_read_in_blocks_is_the_file_read_at_once(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    options = LOSSY[name] if name != "song.mp3" else ("-b:a", "24k")
    song = encode(write(tmp_path / "in.wav", music(3, 12.0), subtype="FLOAT"), tmp_path / name, *options)
    expected, _ = soundfile.read(song, dtype="float32")
    np.testing.assert_allclose(read(one(generator, song)), expected, atol=2e-5)


@pytest.mark.parametrize("name", LOSSY)
def test_every_format_keeps_its_length_and_does_not_shift(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    samples = music(3, 2.0)[:88_123]
    song = encode(write(tmp_path / "in.wav", samples, subtype="FLOAT"), tmp_path / name, *LOSSY[name])
    restored = read(one(generator, song))
    # ffmpeg's AAC fills its last frame; Opus goes through 48 kHz
    longer = {"song.m4a": 1_023, "song.opus": 1}.get(name, 0)
    assert 0 <= len(restored) - len(samples) <= longer
    size = 1 << 17
    spectra = [np.fft.rfft(signal[: len(samples)].sum(1), size) for signal in (restored, samples)]
    assert np.argmax(np.fft.irfft(spectra[0] * spectra[1].conj())) == 0


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(8_000, 1, "PCM_16"), (22_050, 2, "PCM_U8"), (48_000, 2, "PCM_24"), (96_000, 6, "PCM_24")],
)
def test_other_rates_are_resampled_and_channels_kept(
    generator: Generator, tmp_path: Path, rate: int, channels: int, subtype: str
) -> None:
    time = np.arange(rate)[:, None] / rate
    tones = 0.3 * np.sin(2 * np.pi * (300 + 100 * np.arange(channels)) * time)
    restored = read(one(generator, write(tmp_path / "song.wav", tones, rate, subtype=subtype)))
    assert restored.shape == (RATE, channels)
    time = np.arange(RATE)[:, None] / RATE
    expected = 0.3 * np.sin(2 * np.pi * (300 + 100 * np.arange(channels)) * time)
    inner = slice(2_000, -2_000)  # a resampler's edges ring
    np.testing.assert_allclose(restored[inner], expected[inner], atol=1.2e-2 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize(
    ("format", "subtype", "step"),
    [
        ("float", "FLOAT", 2e-7),
        ("wav24", "PCM_24", 2**-22),
        ("wav16", "PCM_16", 2**-14),
        ("flac24", "PCM_24", 2**-22),
        ("flac16", "PCM_16", 2**-14),
    ],
)
def test_every_output_format_holds_the_samples(
    generator: Generator, tmp_path: Path, format: str, subtype: str, step: float
) -> None:
    song = write(tmp_path / "song.wav", music(1, 1.0), subtype="FLOAT")
    outcome = one(generator, song, format=format)
    assert soundfile.info(outcome.output).subtype == subtype
    assert outcome.output.endswith(".flac" if "flac" in format else ".wav")
    np.testing.assert_allclose(read(outcome), music(1, 1.0), atol=step)


def test_clip_modes_rescale_clamp_or_keep(generator: Generator, tmp_path: Path) -> None:
    loud = 2 * music(1, 1.0) / np.abs(music(1, 1.0)).max()
    song = write(tmp_path / "song.wav", loud, subtype="FLOAT")
    for clip, expected in (("rescale", loud / 2), ("clamp", loud.clip(-1, 1)), ("none", loud)):
        outcome = one(generator, song, clip=clip, overwrite=True)
        np.testing.assert_allclose(read(outcome), expected, atol=1e-6)
        assert outcome.peak == pytest.approx(2, abs=1e-5)
        assert outcome.gain == pytest.approx(0.5 if clip == "rescale" else 1, abs=1e-5)
    assert np.abs(read(one(generator, song, format="wav16", overwrite=True))).max() == pytest.approx(
        1, abs=2**-14
    )


def test_results_do_not_depend_on_the_batch(generator: Generator, tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 23.0))
    first = read(one(generator, song))
    second = read(one(generator, song, batch=4, overwrite=True))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("text", ["DefaultCPUAllocator: can't allocate memory", "can't start new thread"])
def test_a_song_that_does_not_fit_in_memory_fails_and_the_next_one_is_restored(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    wide = write(tmp_path / "wide.wav", music(1, 0.5, channels=6))
    plain = write(tmp_path / "plain.wav", music(2, 0.5))
    push = StreamRestorer.push

    def push_or_fail(self: StreamRestorer, state: StreamState, samples: Tensor) -> object:
        if len(samples) > 2:
            raise RuntimeError(text)
        return push(self, state, samples)

    monkeypatch.setattr(StreamRestorer, "push", push_or_fail)
    outcomes = restore(generator, wide, plain, output=tmp_path / "out")
    assert [(one.status, one.kind) for one in outcomes] == [("failed", "memory"), ("restored", None)]
    assert "out of memory: end other programs" in str(outcomes[0].reason)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["plain.wav"]


def test_outputs_keep_the_folder_structure_and_are_not_inputs(generator: Generator, tmp_path: Path) -> None:
    album = tmp_path / "album"
    for name in ("1.wav", "disc 2/1.wav", "disc 2/b-side.flac", "disc 2/cover.txt", ".hidden.wav"):
        write(album / name, music(1, 0.1), format="WAV")
    outcomes = restore(generator, album, output=album / "restored")
    names = [str(Path(outcome.output).relative_to(album / "restored")) for outcome in outcomes]
    assert names == ["1.wav", "disc 2/1.wav", "disc 2/b-side.wav"]
    again = restore(generator, album, output=album / "restored")
    assert [outcome.status for outcome in again] == ["skipped"] * 3


def test_colliding_names_are_disambiguated(generator: Generator, tmp_path: Path) -> None:
    for name in ("a/song.wav", "a/song.flac", "b/song.wav"):
        write(tmp_path / name, music(1, 0.1), format="WAV")
    inputs = [tmp_path / name for name in ("a/song.wav", "a/song.flac", "b/song.wav")]
    outcomes = restore(generator, *inputs, output=tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["failed", "restored", "failed"]
    assert "{parent}" in str(outcomes[0].reason)
    outcomes = restore(generator, *inputs, output=tmp_path / "out2", filename="{parent}-{stem}")
    assert [Path(outcome.output).name for outcome in outcomes] == [
        "song.wav.wav",
        "song.flac.wav",
        "b-song.wav",
    ]


def test_a_template_cannot_lead_outside_or_onto_the_input(generator: Generator, tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.1))
    before = song.read_bytes()
    (outside,) = restore(generator, song, output=tmp_path / "out", filename="../{stem}-x")
    (onto,) = restore(generator, song, output=tmp_path, overwrite=True)
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path)
    (through,) = restore(generator, song, output=linked, overwrite=True)
    assert [outside.status, onto.status, through.status] == ["failed"] * 3
    assert "outside" in str(outside.reason)
    assert "input" in str(onto.reason)
    assert song.read_bytes() == before
    assert [path.name for path in tmp_path.glob("song*")] == ["song.wav"]


def test_tags_are_kept(generator: Generator, tmp_path: Path) -> None:
    tags = ("-metadata", "title=Ünter $x$ <b>", "-metadata", "artist=Somebody")
    song = encode(write(tmp_path / "in.wav", music(1, 1.0)), tmp_path / "song.mp3", *tags)
    outcome = one(generator, song, format="flac24", picture=True)
    with soundfile.SoundFile(outcome.output) as result:
        assert (result.title, result.artist) == ("Ünter $x$ <b>", "Somebody")


def test_a_spectrogram_is_written_beside_the_output(generator: Generator, tmp_path: Path) -> None:
    for name, seconds in (("a $ name", 2.0), ("short", 0.01)):
        song = write(tmp_path / f"{name}.wav", music(1, seconds))
        outcome = one(generator, song, picture=True)
        header = Path(outcome.output).with_suffix(".spectrogram.png").read_bytes()[:24]
        width, height = struct.unpack(">II", header[16:24])
        assert header[:4] == b"\x89PNG"
        assert width > 1_000
        assert height > 600


def test_the_published_clips_keep_their_lengths(
    generator: Generator, recordings: Path, tmp_path: Path
) -> None:
    shutil.copytree(recordings / "apollo-demo", tmp_path / "clips")
    outcomes = restore(generator, tmp_path / "clips", output=tmp_path / "out")
    assert outcomes
    for outcome in outcomes:
        expected, _ = soundfile.read(outcome.input, always_2d=True)
        np.testing.assert_allclose(read(outcome) / outcome.gain, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"format": "mp2"}, "format"),
        ({"format": "aac", "bit_depth": 16}, "bit_depth"),
        ({"format": "flac", "bit_depth": 20}, "bit_depth"),
        ({"rate": "48000"}, "rate"),
        ({"clip": "fold"}, "clip"),
        ({"batch": 0}, "batch"),
        ({"filename": "{artist}"}, "artist"),
        ({"filename": "song"}, "same for all outputs"),
        ({"filename": "{stem"}, "template"),
        ({"filename": "{stem:>5000}"}, "no format specification"),
        ({"filename": "{stem:{foo}}"}, "no format specification"),
        ({"filename": "{stem}/"}, "ends with /"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SongsConfig(**options)


def test_missing_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        find_songs([str(tmp_path / "nowhere.wav")], SongsConfig())
    with pytest.raises(ValueError, match="output folder is an input"):
        find_songs([str(tmp_path)], SongsConfig(output=str(tmp_path)))


def test_an_output_beside_the_working_folder_is_taken(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "album/song.wav", music(1, 0.1))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (outcome,) = restore(generator, Path("../album"), output=Path("../out"))
    assert outcome.output == str(tmp_path / "out/song.wav")
    monkeypatch.chdir(tmp_path / "album")
    for expected in ("restored", "skipped"):  # the second time, results under the input are no songs
        (outcome,) = restore(generator, Path("../album"), output=Path("results"))
        assert outcome.status == expected


def test_no_input_is_overwritten_by_the_result_of_another(generator: Generator, tmp_path: Path) -> None:
    first, second = write(tmp_path / "d/a.wav", music(1, 0.1)), write(tmp_path / "d.wav", music(2, 0.1))
    before = second.read_bytes()
    outcomes = restore(generator, first, second, output=tmp_path, filename="{parent}", overwrite=True)
    assert outcomes[0].status == "failed"
    assert "output path is an input" in str(outcomes[0].reason)
    assert second.read_bytes() == before


def test_a_folder_without_songs_does_not_stop_the_others(generator: Generator, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    song = write(tmp_path / "song.wav", music(1, 0.1))
    outcomes = restore(generator, tmp_path / "empty", song, output=tmp_path / "out")
    assert sorted((outcome.status, outcome.reason) for outcome in outcomes) == [
        ("failed", "no audio files in this folder"),
        ("restored", None),
    ]


def test_a_stream_without_a_length_becomes_a_plain_wav(generator: Generator, tmp_path: Path) -> None:
    plain = write(tmp_path / "in.wav", music(1, 2.0))
    song = encode(plain, tmp_path / "song.mp3", "-b:a", "64k", "-write_xing", "0")
    for format in ("float", "wav16"):
        outcome = one(generator, song, format=format, overwrite=True)
        assert Path(outcome.output).read_bytes()[:4] == b"RIFF"
