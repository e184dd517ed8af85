"""Restoring files: every format, rate and channel count, exact lengths, and what odd input becomes.

The generator is a correction of zero, so that a restored song is the song itself.
"""

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from material import encode, music, write
from numpy.typing import NDArray

from apollo.config import GeneratorConfig
from apollo.generator import Generator
from apollo.options import SongsConfig
from apollo.songs import Outcome, find_songs, restore_songs

RATE = 44_100


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(dim=16, layers=1, output="correction")).eval()


def restore(generator: Generator, *inputs: Path, output: Path, **options: object) -> list[Outcome]:
    config = SongsConfig(output=str(output), **options)
    return list(restore_songs(generator, find_songs([str(path) for path in inputs], config), config))


def one(generator: Generator, song: Path, **options: object) -> Outcome:
    (outcome,) = restore(generator, song, output=song.parent / "out", **options)
    assert [path.name for path in (song.parent / "out").glob(".*")] == []
    return outcome


def read(outcome: Outcome) -> NDArray[np.float32]:
    assert outcome.status == "restored", outcome.reason
    samples, rate = soundfile.read(outcome.output, dtype="float32", always_2d=True)
    assert rate == RATE
    assert len(samples) == outcome.samples
    return samples


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


def test_clipping_turns_down_cuts_or_keeps(generator: Generator, tmp_path: Path) -> None:
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
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_folders_keep_their_shape_and_results_are_no_songs(generator: Generator, tmp_path: Path) -> None:
    album = tmp_path / "album"
    for name in ("1.wav", "disc 2/1.wav", "disc 2/b-side.flac", "disc 2/cover.txt", ".hidden.wav"):
        write(album / name, music(1, 0.1), format="WAV")
    outcomes = restore(generator, album, output=album / "restored")
    names = [str(Path(outcome.output).relative_to(album / "restored")) for outcome in outcomes]
    assert names == ["1.wav", "disc 2/1.wav", "disc 2/b-side.wav"]
    again = restore(generator, album, output=album / "restored")
    assert [outcome.status for outcome in again] == ["skipped"] * 3


def test_names_that_would_collide_are_kept_apart(generator: Generator, tmp_path: Path) -> None:
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


def test_a_template_cannot_lead_outside_nor_onto_the_input(generator: Generator, tmp_path: Path) -> None:
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


def test_a_picture_lies_beside_the_result(generator: Generator, tmp_path: Path) -> None:
    for name, seconds in (("a $ name", 2.0), ("short", 0.01)):
        song = write(tmp_path / f"{name}.wav", music(1, seconds))
        outcome = one(generator, song, picture=True)
        header = Path(outcome.output).with_suffix(".png").read_bytes()[:24]
        width, height = struct.unpack(">II", header[16:24])
        assert header[:4] == b"\x89PNG"
        assert width > 1_000
        assert height > 600


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_a_truncated_mp3_gives_what_is_there_and_says_so(generator: Generator, tmp_path: Path) -> None:
    song = encode(write(tmp_path / "in.wav", music(1, 4.0)), tmp_path / "song.mp3", "-b:a", "64k")
    cut(song, 0.5)
    outcome = one(generator, song)
    assert 1.8 * RATE < len(read(outcome)) < 2.2 * RATE
    assert "MP3 frames are missing" in outcome.warnings[0]


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_truncated_files_of_other_formats_give_what_is_there(
    generator: Generator, tmp_path: Path, rate: int
) -> None:
    for name, options in (("song.wav", ()), ("song.flac", ()), ("song.ogg", ("-c:a", "libvorbis"))):
        plain = write(tmp_path / "in.wav", music(1, 4.0, rate), rate)
        song = encode(plain, tmp_path / name, *options)
        cut(song, 0.5)
        outcome = one(generator, song, overwrite=True)
        assert 0.9 * RATE < len(read(outcome)) < 2.5 * RATE, name  # Vorbis has pages of a second
        assert outcome.warnings, name


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.wav": (lambda path: path.write_bytes(b""), "empty"),
    "text.mp3": (lambda path: path.write_text("These are the words of a song.\n" * 50), "no audio"),
    "random.flac": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5_000)), "no audio"),
    "zeros.mp3": (lambda path: path.write_bytes(bytes(9_000)), "no audio"),
    "playlist.wav": (lambda path: path.write_text("#EXTM3U\n/etc/passwd\n"), "no audio"),
    "nothing.wav": (lambda path: write(path, np.zeros((0, 2))), "no samples"),
    "nan.wav": (
        lambda path: write(path, np.where(np.arange(9_000) == 8_000, np.nan, 0.1), subtype="FLOAT"),
        "no numbers",
    ),
    "inf.wav": (
        lambda path: write(path, np.where(np.arange(9_000) == 10, np.inf, 0.1), subtype="FLOAT"),
        "no numbers",
    ),
    "loop.wav": (lambda path: path.symlink_to(path.name), "cannot be opened"),
    "gone.wav": (lambda path: path.symlink_to("nowhere.wav"), "cannot be opened"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_listed_with_its_reason_and_the_others_are_done(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    make, reason = REFUSED[name]
    make(tmp_path / name)
    good = write(tmp_path / "z-good.wav", music(1, 0.5))
    outcomes = restore(generator, tmp_path / name, good, output=tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["failed", "restored"]
    assert reason in str(outcomes[0].reason)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["z-good.wav"]


ODD_NAMES = [
    "-o.wav",
    "new\nline.wav",
    "quo'te\".wav",
    "%03d.wav",
    "concat:x.wav",
    "ünï…",
    "x" * 250 + ".wav",
]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("rate", [RATE, 48_000])  # through libsndfile, through ffmpeg
def test_odd_names_are_only_names(generator: Generator, tmp_path: Path, name: str, rate: int) -> None:
    song = write(tmp_path / name, music(1, 0.5, rate), rate, format="WAV")
    assert len(read(one(generator, song))) == RATE // 2


def test_a_read_only_output_and_an_unreadable_input_fail_alone(generator: Generator, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write and read everything")
    song = write(tmp_path / "song.wav", music(1, 0.5))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    (outcome,) = restore(generator, song, output=locked)
    assert "Permission denied" in str(outcome.reason)
    song.chmod(0)
    assert "Permission denied" in str(one(generator, song).reason)
    locked.chmod(0)
    with pytest.raises(ValueError, match="Permission denied"):
        find_songs([str(locked)], SongsConfig())


def test_a_read_only_disk_fails_clearly(generator: Generator, tmp_path: Path, small_disk: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 0.5))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    (outcome,) = restore(generator, song, output=small_disk / "out")
    assert "Read-only file system" in str(outcome.reason)


@pytest.mark.parametrize("format", ["float", "wav16", "flac24"])
def test_a_full_disk_fails_clearly_and_leaves_nothing(
    generator: Generator, tmp_path: Path, small_disk: Path, format: str
) -> None:
    big, small = (write(tmp_path / f"{s:.0f}.wav", music(1, s)) for s in (20.0, 1.0))
    outcomes = restore(generator, big, small, output=small_disk / "out", format=format)
    assert [outcome.status for outcome in outcomes] == ["failed", "restored"]
    assert "no space left" in str(outcomes[0].reason).lower()
    assert [path.stem for path in (small_disk / "out").iterdir()] == ["1"]


def test_a_killed_run_leaves_no_result_that_is_not_whole(generator: Generator, tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", music(1, 12.0))
    config = SongsConfig(output=str(tmp_path / "out"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(restore_songs(generator, find_songs([str(song)], config), config, tell=interrupt))
    assert list((tmp_path / "out").iterdir()) == []


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
        ({"format": "mp3"}, "format"),
        ({"clip": "fold"}, "clip"),
        ({"batch": 0}, "batch"),
        ({"filename": "{artist}"}, "artist"),
        ({"filename": "song"}, "one name"),
        ({"filename": "{stem"}, "template"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SongsConfig(**options)


def test_inputs_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        find_songs([str(tmp_path / "nowhere.wav")], SongsConfig())
    with pytest.raises(ValueError, match="no audio files"):
        find_songs([str(tmp_path)], SongsConfig())
