"""What files are: honest lossless ones, lossy ones, and lossless ones with a lossy history."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from apollo.audio.band_edge import BandEdge, measure_band_edge
from apollo.audio.codec_traces import TraceSearch
from apollo.audio.inspection import Inspection, describe_lossless, inspect_file
from apollo.audio.mp3_filterbank import lines_at_all_offsets, needed_samples
from apollo.audio.reading import AudioReader
from apollo.audio.rejects import AudioError
from apollo.audio.verdicts import CONFIDENT, judge_lossless
from tests.support.datasets import encode, music, write

RATE = 44_100
SECONDS = 4.5
CODINGS = {
    "MP3": ("mp3", "-c:a", "libmp3lame", "-b:a", "128k"),
    "AAC": ("m4a", "-c:a", "aac", "-b:a", "128k"),
    "Vorbis": ("ogg", "-c:a", "libvorbis", "-q:a", "4"),
    "Opus": ("opus", "-c:a", "libopus", "-b:a", "96k"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Honest files by sample rate."""
    folder = tmp_path_factory.mktemp("originals")
    return {rate: write(folder / f"{rate}.wav", music(3, SECONDS, rate), rate) for rate in (RATE, 48_000)}


def lowpass(samples: NDArray[np.float64], edge_hz: float, rate: int = RATE) -> NDArray[np.float64]:
    """Remove everything above a frequency."""
    spectrum = np.fft.rfft(samples, axis=0)
    spectrum[np.fft.rfftfreq(len(samples), 1 / rate) > edge_hz] = 0
    return np.fft.irfft(spectrum, len(samples), axis=0)


def transcode(original: Path, folder: Path, codec: str, *options: str) -> Path:
    extension, *arguments = CODINGS[codec]
    coded = encode(original, folder / f"coded.{extension}", *arguments)
    return encode(coded, folder / "song.flac", "-sample_fmt", "s16", *options)


@pytest.mark.parametrize("codec", CODINGS)
def test_a_codecs_history_is_found_and_named(codec: str, originals: dict[int, Path], tmp_path: Path) -> None:
    original = originals[48_000 if codec == "Opus" else RATE]
    result = inspect_file(str(transcode(original, tmp_path, codec)))
    assert (result.verdict, result.history) == ("transcode", codec), result
    assert result.confidence > 0.9


def test_a_history_is_found_after_cutting_and_scaling_and_in_mono(
    originals: dict[int, Path], tmp_path: Path
) -> None:
    filters = ("-af", "atrim=start_sample=12345,volume=0.6", "-ac", "1")
    result = inspect_file(str(transcode(originals[RATE], tmp_path, "MP3", *filters)))
    assert (result.verdict, result.history, result.channels) == ("transcode", "MP3", 1)


def test_a_history_is_found_after_resampling(originals: dict[int, Path], tmp_path: Path) -> None:
    song = transcode(originals[RATE], tmp_path, "MP3", "-af", "aresample=48000:resampler=soxr:precision=28")
    result = inspect_file(str(song))
    assert (result.verdict, result.history, result.sample_rate) == ("transcode", "MP3", 48_000)


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_an_honest_file_is_confidently_lossless(rate: int, originals: dict[int, Path]) -> None:
    result = inspect_file(str(originals[rate]))
    assert (result.verdict, result.container, result.codec) == ("lossless", "WAV", "pcm_s16le")
    assert result.confidence >= CONFIDENT
    assert result.seconds == pytest.approx(SECONDS)
    assert result.analysed == [(0.0, SECONDS)]


def test_dull_and_filtered_recordings_are_not_accused(tmp_path: Path) -> None:
    samples = music(4, SECONDS)
    slope = 1 / (1 + np.fft.rfftfreq(len(samples), 1 / RATE)[:, None] / 1_000)  # 6 dB per octave
    dull = np.fft.irfft(np.fft.rfft(samples, axis=0) * slope, len(samples), axis=0)
    for name, changed in (("dull", dull), ("from 32 kHz", lowpass(samples, 15_600))):
        result = inspect_file(str(write(tmp_path / f"{name}.wav", changed)))
        assert result.verdict in ("lossless", "unknown"), (name, result)
        assert result.confidence < CONFIDENT or result.edge_hz is None
        assert (result.edge_hz is not None) == (name == "from 32 kHz")


@pytest.mark.parametrize(
    ("options", "kbps", "mode"),
    [(("-b:a", "128k"), 128, "constant"), (("-q:a", "4"), None, "variable")],
)
def test_an_mp3s_bitrate_and_encoder_are_those_of_its_frames(
    options: tuple[str, ...], kbps: int | None, mode: str, originals: dict[int, Path], tmp_path: Path
) -> None:
    title = ("-metadata", "title=Stream #0:0: Audio: flac, 44100 Hz\n  Duration: 01:00:00.00, ")
    song = encode(originals[RATE], tmp_path / "song.mp3", *options, *title)
    result = inspect_file(str(song))
    assert (result.verdict, result.confidence, result.container) == ("lossy", 1.0, "MP3")
    assert (result.codec, result.bitrate_mode, result.encoder[:4]) == ("mp3", mode, "Lavc")
    assert result.seconds == pytest.approx(SECONDS, abs=0.1)
    if kbps:
        assert result.bitrate_bps == kbps * 1000
        assert any("kHz" in reason for reason in result.reasons)


@pytest.mark.parametrize(("codec", "container"), [("AAC", "MP4"), ("Vorbis", "Ogg"), ("Opus", "Ogg")])
def test_other_lossy_files_name_container_and_bitrate(
    codec: str, container: str, originals: dict[int, Path], tmp_path: Path
) -> None:
    extension, *arguments = CODINGS[codec]
    song = encode(originals[48_000], tmp_path / f"song.{extension}", *arguments)
    result = inspect_file(str(song))
    assert (result.verdict, result.container, result.codec) == ("lossy", container, codec.lower())
    assert result.bitrate_bps == pytest.approx(song.stat().st_size * 8 / SECONDS, rel=0.15)


def test_a_high_bitrate_around_a_low_one_is_a_transcode(originals: dict[int, Path], tmp_path: Path) -> None:
    low = encode(originals[RATE], tmp_path / "low.mp3", "-b:a", "96k")
    high = encode(low, tmp_path / "high.mp3", "-b:a", "320k")
    assert inspect_file(str(low)).verdict == "lossy"
    result = inspect_file(str(high))
    assert result.verdict == "transcode"
    assert any("320 kbps would keep more" in reason for reason in result.reasons)
    assert any("MP3 at 96 kbps cuts there" in reason for reason in result.reasons)


def test_odd_inputs_get_no_accusation(tmp_path: Path) -> None:
    quiet = np.zeros((2 * RATE, 2))
    rate_8k = 0.3 * music(6, 3.0, 8_000, 1)
    songs = {
        "silence": write(tmp_path / "silence.wav", quiet),
        "short": write(tmp_path / "short.flac", music(5, 0.2)),
        "one sample": write(tmp_path / "one.wav", music(5, 1 / RATE)),
        "voice": write(tmp_path / "voice.wav", rate_8k, 8_000),
        "float": write(tmp_path / "float.wav", music(5, 1.0), subtype="FLOAT"),
    }
    results = {name: inspect_file(str(path)) for name, path in songs.items()}
    verdicts = {name: (result.verdict, result.confidence >= CONFIDENT) for name, result in results.items()}
    assert verdicts == {
        "silence": ("unknown", False),
        "short": ("lossless", False),
        "one sample": ("unknown", False),
        "voice": ("unknown", False),
        "float": ("lossless", False),
    }


def test_a_file_at_96_khz_is_lossless_by_its_own_highs(tmp_path: Path) -> None:
    result = inspect_file(str(write(tmp_path / "song.flac", music(5, SECONDS, 96_000), 96_000)))
    assert (result.verdict, result.sample_rate) == ("lossless", 96_000)
    assert result.bandwidth_hz is not None
    assert result.bandwidth_hz > 40_000


def test_the_content_counts_not_the_extension(originals: dict[int, Path], tmp_path: Path) -> None:
    song = encode(originals[RATE], tmp_path / "song.mp3", "-b:a", "64k")
    result = inspect_file(str(song.rename(tmp_path / "song.flac")))
    assert (result.verdict, result.container, result.codec) == ("lossy", "MP3", "mp3")


@pytest.mark.parametrize("content", [b"", b"no music", b"fLaC" + bytes(100), b"RIFF" + struct.pack("<I", 4)])
def test_files_without_audio_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "song.flac").write_bytes(content)
    with pytest.raises(AudioError):
        inspect_file(str(tmp_path / "song.flac"))
    assert describe_lossless(str(tmp_path / "song.flac")) is None


def test_a_generated_signal_that_repeats_with_the_blocks_is_not_accused(tmp_path: Path) -> None:
    for period in (1_152, 2_048):
        pulses = np.zeros((4 * RATE, 1))
        pulses[::period] = 0.8
        result = inspect_file(str(write(tmp_path / f"{period}.wav", pulses)))
        assert result.verdict != "transcode", (period, result)


def test_a_truncated_file_is_judged_by_what_is_there(originals: dict[int, Path], tmp_path: Path) -> None:
    samples = np.tile(music(7, 2.0), (30, 1))
    song = write(tmp_path / "song.flac", samples)
    song.write_bytes(song.read_bytes()[: song.stat().st_size // 10])
    result = inspect_file(str(song))
    assert result.verdict == "lossless"
    assert [round(end) for _, end in result.analysed] == [6]
    assert result.warnings


def test_a_long_file_is_analysed_in_windows_of_its_middle(tmp_path: Path) -> None:
    samples = np.tile(music(7, 2.0, channels=1), (30, 1))
    result = inspect_file(str(write(tmp_path / "song.wav", samples)))
    assert len(result.analysed) == 4
    assert all(start > 8 and end < 52 and end - start == 3.0 for start, end in result.analysed)


def test_windows_are_the_samples_at_their_places(tmp_path: Path) -> None:
    samples = music(8, 3.0)
    song = write(tmp_path / "song.wav", samples)
    packed = encode(song, tmp_path / "song.m4a", "-c:a", "alac")
    for path in (song, packed):
        with AudioReader(str(path), RATE) as reader:
            windows = reader.read_windows([100, 60_000, 3 * RATE - 50], 70_000)
        assert [window.shape[1] for window in windows] == [70_000, 70_000, 50]
        for start, window in zip((100, 60_000, 3 * RATE - 50), windows, strict=True):
            expected = samples[start : start + 70_000].T
            np.testing.assert_allclose(window.numpy(), expected, atol=2**-15)


def test_an_edge_is_where_the_filter_is_and_noise_has_none() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((3 * RATE, 2))
    filtered = torch.from_numpy(lowpass(noise, 16_000).T)
    edge = measure_band_edge([filtered], RATE)
    assert edge.edge_hz == pytest.approx(16_000, abs=150)
    assert edge.constant
    assert edge.drop_db > 60
    whole = measure_band_edge([torch.from_numpy(noise.T)], RATE)
    assert (whole.edge_hz, whole.bandwidth_hz > 21_900) == (None, True)
    assert measure_band_edge([torch.zeros(2, RATE)], RATE) == BandEdge(0)
    assert measure_band_edge([torch.zeros(2, 10)], RATE) == BandEdge(0)


def test_the_filter_bank_of_mp3_keeps_power_and_separates_frequencies() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(needed_samples(8), generator=generator)
    lines = lines_at_all_offsets(noise, 8, range(2, 24))
    assert lines.shape == (576, 8, 22, 18)
    assert lines[:, :, 1:-1].square().mean() == pytest.approx(1, rel=0.1)
    tone = torch.sin(torch.pi * (10 * 18 + 5.5) / 576 * torch.arange(needed_samples(8)))
    power = lines_at_all_offsets(tone, 8, range(2, 24)).square().mean((0, 1)).flatten()
    assert int(power.argmax()) == 8 * 18 + 5
    assert power[8 * 18 + 3 : 8 * 18 + 8].sum() > 0.99 * power.sum()


def test_nothing_is_said_of_what_is_too_quiet_for_a_search() -> None:
    verdict = judge_lossless(BandEdge(22_000), TraceSearch(None, 10), RATE)
    assert (verdict.verdict, verdict.confidence) == ("unknown", 0)


def test_real_recordings(recordings: Path) -> None:
    """Of the excerpts that were decoded from Vorbis and AAC, and those that were not."""

    def inspect(name: str) -> Inspection:
        return inspect_file(str(recordings / name))

    assert inspect("songs/vibe_ace.flac").history == "Vorbis"
    assert inspect("source-separation-anchors/vocals.flac").history == "AAC"
    assert inspect("apollo-demo/64k/degraded.flac").history == "MP3"
    assert inspect("apollo-demo/64k/clean.flac").verdict == "lossless"
    assert inspect("songs/flac_test_25.flac").verdict == "lossless"
