"""Output formats, sample rates and bit depths: lengths, lags, dither, failures of encoders, interrupts."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from apollo.audio import encoding
from apollo.audio.ffmpeg import find_ffmpeg
from apollo.audio.formats import FORMATS, SongsConfig
from apollo.audio.quantization import quantize
from apollo.audio.reading import AudioReader
from apollo.audio.resampling import Resampler
from apollo.audio.tags import Picture, SongTags
from apollo.audio.writing import AudioWriter, WriteError
from apollo.model.generator import Generator
from tests.support.datasets import encode, music, write
from tests.support.identity_generator import one, read, restore

RATE = 44_100
ENCODED = [name for name, format in FORMATS.items() if format.is_encoded]
SHORTEST_MP3 = 47  # as decoders trim it: less padding than LAME's tag can hold


def write_file(
    path: Path,
    format: str,
    samples: NDArray[np.floating],
    rate: int,
    clip: str = "none",
    tags: SongTags | None = None,
) -> Path:
    """Write samples [frames, channels] in blocks of 5,000."""
    writer = AudioWriter(
        path,
        channels=samples.shape[1],
        sample_rate=rate,
        format=format,
        clip=clip,
        frames=len(samples),
        tags=tags or SongTags({"TITLE": ["Title"]}),
    )
    with writer:
        for start in range(0, len(samples), 5_000):
            writer.write(torch.from_numpy(samples[start : start + 5_000].T.astype(np.float32)))
        writer.commit()
    return path


def decode(path: Path, channels: int) -> NDArray[np.float32]:
    """Decode with ffmpeg, at the file's own rate: [frames, channels]."""
    command = [find_ffmpeg(), "-loglevel", "error", "-i", f"file:{path}", "-f", "f32le", "-"]
    found = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout
    return np.frombuffer(found, np.float32).reshape(-1, channels)


def lag(found: NDArray[np.floating], expected: NDArray[np.floating]) -> int:
    size = 1 << 17
    spectra = [np.fft.rfft(signal[: len(expected)].sum(1), size) for signal in (found, expected)]
    peak = int(np.argmax(np.fft.irfft(spectra[0] * spectra[1].conj())))
    return peak if peak < size // 2 else peak - size


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_keeps_length_and_place_to_the_sample(tmp_path: Path, format: str) -> None:
    rate = FORMATS[format].choose_rate(RATE)
    for frames in (1, 441, 1_152, 48_001):
        samples = music(3, 1.2)[:frames]
        path = write_file(tmp_path / f"{frames}", format, samples, rate)
        found = decode(path, 2)
        assert len(found) == (max(frames, SHORTEST_MP3) if format == "mp3" else frames)
        if not format.startswith(("aac", "alac")):
            assert soundfile.info(path).frames == len(found)
        if FORMATS[format].bits or format == "float":
            step = 2.0 ** (1 - (FORMATS[format].bits or 32))
            assert np.abs(found - samples).max() <= 1.6 * step + 1e-7
        elif frames > 1_152:
            assert lag(found, samples) == 0
            assert np.square(found - samples).mean() < 0.2 * np.square(samples).mean()  # noise up to 22 kHz


@pytest.mark.parametrize("format", ENCODED)
def test_channels_keep_their_order_or_are_refused(tmp_path: Path, format: str) -> None:
    rate = FORMATS[format].choose_rate(RATE)
    time_s = np.arange(rate // 2) / rate
    for channels in range(1, 9):
        tones = np.stack([0.3 * np.sin(2 * np.pi * (60 + 15 * one) * time_s) for one in range(channels)], 1)
        if channels not in FORMATS[format].layouts:
            with pytest.raises(WriteError, match=f"cannot hold {channels} channels"):
                write_file(tmp_path / "song", format, tones, rate)
            continue
        found = decode(write_file(tmp_path / "song", format, tones, rate), channels)
        for number in range(channels):
            assert np.corrcoef(found[:, number], tones[:, number])[0, 1] > 0.98, (channels, number)


@pytest.mark.parametrize("format", ["flac16", "alac16", "mp3", "opus"])
def test_the_same_song_becomes_the_same_bytes(tmp_path: Path, format: str) -> None:
    rate, samples = FORMATS[format].choose_rate(RATE), music(3, 0.5)
    paths = [write_file(tmp_path / name, format, samples, rate) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(("rate", "frames"), [(48_000, 90_001), (22_050, 20_001), (96_000, 100_003)])
def test_the_rate_of_the_input_is_kept_to_the_sample(
    generator: Generator, tmp_path: Path, rate: int, frames: int
) -> None:
    time_s = np.arange(frames)[:, None] / rate
    tones = 0.3 * np.sin(2 * np.pi * np.array([[300, 700]]) * time_s)
    song = write(tmp_path / "song.wav", tones, rate, subtype="FLOAT")
    outcome = one(generator, song, rate="same")
    found = read(outcome, rate)
    assert (len(found), outcome.samples, outcome.sample_rate) == (frames, frames, rate)
    np.testing.assert_allclose(found[2_000:-2_000], tones[2_000:-2_000], atol=1e-4)


def test_a_48_khz_song_is_44100_hz_unless_asked_and_an_opus_is_always_48_khz(
    generator: Generator, tmp_path: Path
) -> None:
    song = encode(write(tmp_path / "in.wav", music(1, 1.0)[:30_001], 48_000), tmp_path / "song.opus")
    for options, rate in (({}, RATE), ({"rate": "same"}, 48_000), ({"format": "opus"}, 48_000)):
        outcome = one(generator, song, overwrite=True, **options)
        assert outcome.sample_rate == soundfile.info(outcome.output).samplerate == rate
        assert outcome.samples == (30_001 if rate == 48_000 else round(30_001 * RATE / 48_000))


def test_a_rate_that_a_format_lacks_becomes_the_next_one(generator: Generator, tmp_path: Path) -> None:
    rates = {8_000: 32_000, 88_200: 44_100, 96_000: 48_000, 32_000: 32_000, 45_000: 48_000}
    assert {rate: FORMATS["mp3"].choose_rate(rate) for rate in rates} == rates
    song = write(tmp_path / "song.wav", music(1, 0.2, 96_000), 96_000)
    outcome = one(generator, song, format="mp3", rate="same")
    assert outcome.warnings == ["mp3 has no 96000 Hz: 48000 Hz instead"]


def test_resampling_does_not_depend_on_blocks() -> None:
    samples = torch.from_numpy(music(1, 1.0).T.astype(np.float32))
    results = []
    for size in (997, 44_100):
        resampler = Resampler(RATE, 48_000, 2)
        pieces = [resampler.push(samples[:, at : at + size]) for at in range(0, RATE, size)]
        results.append(torch.cat([*pieces, resampler.finish(48_001)], 1))
    assert results[0].shape == (2, 48_001)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_dither_is_triangular_of_two_steps_and_makes_the_error_independent_of_the_signal() -> None:
    for level in (0.0, 0.25, 0.5, 0.9):  # steps
        samples = torch.full((2, 200_000), (1_000 + level) / 32_768)
        error = quantize(samples, 16, 0, dither=True).double() - samples.double() * 32_768
        assert error.abs().max() <= 1.5
        assert abs(float(error.mean())) < 0.01  # without dither: up to half a step
        assert float(error.square().mean()) == pytest.approx(
            1 / 4, abs=0.01
        )  # 1/6 of noise, 1/12 of rounding
    left, right = error
    assert abs(float(np.corrcoef(left, right)[0, 1])) < 0.02


def test_dither_is_a_function_of_position_and_silence_stays_silence() -> None:
    samples = torch.from_numpy(music(1, 0.2).T.astype(np.float32))
    samples[:, 2_000:4_000] = 0
    whole = quantize(samples, 16, 0, dither=True)
    pieces = [
        quantize(samples[:, at : at + 999], 16, at, dither=True) for at in range(0, samples.shape[1], 999)
    ]
    assert torch.equal(whole, torch.cat(pieces, 1))
    assert not whole[:, 2_000:4_000].any()


def test_a_digital_silence_of_a_song_is_one_in_its_output(generator: Generator, tmp_path: Path) -> None:
    samples = music(1, 3.0)
    samples[RATE : 2 * RATE] = 0
    outcome = one(generator, write(tmp_path / "song.wav", samples), format="flac", bit_depth=16)
    assert soundfile.info(outcome.output).subtype == "PCM_16"
    assert not read(outcome)[RATE + 2_000 : 2 * RATE - 2_000].any()


@pytest.mark.parametrize("bits", [16, 24])
def test_integers_are_exact_and_full_scale_is_clipped(bits: int) -> None:
    limit = 1 << (bits - 1)
    values = torch.tensor([[-limit - 5, -limit, -1, 0, 1, limit - 1, limit, 3 * limit]])
    found = quantize(values.double() / limit, bits, 0, dither=False) >> (0 if bits == 16 else 8)
    assert found.tolist() == [[-limit, -limit, -1, 0, 1, limit - 1, limit - 1, limit - 1]]


def test_names_of_formats_with_and_without_a_bit_depth() -> None:
    assert SongsConfig(format="flac").format == SongsConfig(format="flac24", bit_depth=24).format == "flac24"
    assert SongsConfig(format="alac", bit_depth=16).format == "alac16"
    with pytest.raises(ValueError, match="not for flac24"):
        SongsConfig(format="flac24", bit_depth=16)


@pytest.mark.parametrize("format", ENCODED)
def test_inputs_with_one_name_never_share_an_output(
    generator: Generator, tmp_path: Path, format: str
) -> None:
    songs = [write(tmp_path / name, music(1, 0.1), format="WAV") for name in ("a.wav", "a.flac", "x/a.wav")]
    before = [song.read_bytes() for song in songs]
    outcomes = restore(generator, tmp_path, output=tmp_path / "out", format=format)
    names = [os.path.relpath(outcome.output, tmp_path / "out") for outcome in outcomes]
    extension = FORMATS[format].extension
    assert names == [f"a.flac.{extension}", f"a.wav.{extension}", f"x/a.{extension}"]
    assert [outcome.status for outcome in outcomes] == ["restored"] * 3
    assert [song.read_bytes() for song in songs] == before


@pytest.mark.parametrize("format", ENCODED)
def test_loud_songs_are_scaled_before_they_are_encoded(tmp_path: Path, format: str) -> None:
    samples = 3 * music(1, 0.5) / np.abs(music(1, 0.5)).max()
    rate = FORMATS[format].choose_rate(RATE)
    found = decode(write_file(tmp_path / "song", format, samples, rate, clip="rescale"), 2)
    np.testing.assert_allclose(np.square(found).mean(), np.square(samples / 3).mean(), rtol=0.15)


@pytest.mark.parametrize("clip", ["rescale", "none"])
@pytest.mark.parametrize("format", ["flac24", "alac24", "mp3", "opus"])
def test_a_full_disk_is_the_reason_and_leaves_nothing(small_disk: Path, format: str, clip: str) -> None:
    (small_disk / "other").write_bytes(bytes(1_400_000))
    noise = np.random.default_rng(0).uniform(-1, 1, (8 * RATE, 2))
    with pytest.raises(WriteError, match="no space left on device"):
        write_file(small_disk / "song", format, noise, FORMATS[format].choose_rate(RATE), clip)
    assert [path.name for path in small_disk.iterdir()] == ["other"]


@pytest.mark.parametrize("format", ["flac16", "mp3", "alac16", "opus"])
def test_a_disk_that_is_full_when_the_tags_come_fails_the_song(small_disk: Path, format: str) -> None:
    tags = SongTags({"TITLE": ["Title"]}, [Picture(b"\xff\xd8" + bytes(1_400_000), "image/jpeg")])
    noise = np.random.default_rng(0).uniform(-1, 1, (4 * RATE, 2))
    with pytest.raises(WriteError, match=r"[Nn]o space left on device"):
        write_file(small_disk / "song", format, noise, FORMATS[format].choose_rate(RATE), tags=tags)
    assert list(small_disk.iterdir()) == []


def test_an_encoder_that_fails_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nread -r line\necho broken encoder >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(encoding, "find_ffmpeg", lambda: str(program))
    with pytest.raises(WriteError, match=r"code 3: broken encoder"):
        write_file(tmp_path / "out/song", "mp3", music(1, 5.0), RATE)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_encoder_that_stalls_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nsleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(encoding, "find_ffmpeg", lambda: str(program))
    monkeypatch.setattr(encoding, "STALL_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(WriteError, match="timed out"):
        write_file(tmp_path / "out/song", "mp3", music(1, 5.0), RATE)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_reason(generator: Generator, tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "out").mkdir(mode=0o500)
    outcome = one(generator, write(tmp_path / "song.wav", music(1, 0.1)), format="mp3")
    assert "Permission denied" in str(outcome.reason)


_PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
import torch
from apollo.audio.tags import SongTags
from apollo.audio.writing import AudioWriter
writer = AudioWriter(Path(sys.argv[1]), channels=2, sample_rate=44100, format="mp3", clip="none", frames=None,
                     tags=SongTags())
try:
    with writer:
        print(writer._encoder._process.pid, flush=True)
        while True:
            writer.write(torch.rand(2, 4410) - 0.5)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_leaves_no_encoder_and_no_partial_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "out/song.mp3")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        encoder = Path("/proc", process.stdout.readline().decode().strip())
        assert encoder.exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not encoder.exists()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("action", ["encode", "decode"])
def test_an_interrupt_while_a_watchdog_starts_leaves_no_timer_to_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    start = threading.Timer.start
    song = encode(write(tmp_path / "in.wav", music(1, 0.5)), tmp_path / "song.m4a")

    def interrupted(timer: threading.Timer) -> None:
        start(timer)
        raise KeyboardInterrupt

    actions: dict[str, Callable[[], object]] = {
        "encode": lambda: write_file(tmp_path / "song.mp3", "mp3", music(1, 0.5), RATE),
        "decode": AudioReader(str(song), RATE).__enter__,
    }
    monkeypatch.setattr(threading.Timer, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        actions[action]()
    timers = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers)
