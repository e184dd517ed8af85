"""Codec: complete, aligned, honest bitstreams at every length, and no lie of ffmpeg believed."""

import os
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from apollo.audio import mp3
from apollo.audio.ffmpeg import FfmpegError, FfmpegMissingError, find_ffmpeg
from pipelines.audio.codec import (
    CodecConfig,
    CodecError,
    Encoded,
    Encoder,
    decode,
)
from pipelines.audio.codec_gain import NOMINAL_GAIN, gain_spectrum, measure_gain
from pipelines.audio.degradations import Step
from pipelines.preprocess.render import to_flac

EDGE_LENGTHS = [1, 2, 575, 576, 577, 1_151, 1_152, 1_153, 1_199, 2_305, 5_000]
RANDOM_LENGTHS = sorted(int(n) for n in np.random.default_rng(16).integers(3, 5_000, 10))
LONG_LENGTHS = [int(n) for n in np.random.default_rng(17).integers(20_000, 200_000, 3)]
CORRELATED_FRAMES = 576  # a granule; at 32 kbps the noise in less does not tell a lag from its neighbour
DRAWS = 12  # of shorter noise, which tell it together
REAL_BITRATES = {24_000: 32_000}  # MPEG-1 begins at 32 kbps
BLOCK = 500


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(CodecConfig())


@pytest.fixture(scope="module")
def auto_encoder() -> Encoder:
    return Encoder(CodecConfig(sample_rate="auto"))


def _noise(frames: int, seed: int = 0) -> NDArray[np.int16]:
    noise = np.random.default_rng((frames, seed)).normal(0, 4_000, (frames, 2))
    return noise.clip(-32_768, 32_767).astype(np.int16)


def _correlation(clean: NDArray[np.int16], decoded: NDArray[np.float32]) -> NDArray[np.float64]:
    """Circular cross-correlation, padded to twice the length: [lags], negative ones at the end."""
    size = 2 * len(clean)
    product = np.fft.rfft(clean.mean(axis=1), size).conj() * np.fft.rfft(decoded.mean(axis=1), size)
    return np.asarray(np.fft.irfft(product, size))


def _lag(clean: NDArray[np.int16], decoded: NDArray[np.float32]) -> int:
    """Samples by which the decoded signal is late, at the maximum of the cross-correlation."""
    peak = int(_correlation(clean, decoded).argmax())
    return peak if peak < len(clean) else peak - 2 * len(clean)


def _assert_aligned(encoder: Encoder, frames: int) -> dict[str, Encoded]:
    clean = _noise(frames)
    encoded = encoder.encode(clean)
    for name, result in encoded.items():
        decoded = decode(result.stream, frames=frames)
        assert decoded.shape == (frames, 2), (name, frames)
        assert np.isfinite(decoded).all(), (name, frames)
        if frames >= CORRELATED_FRAMES:
            assert _lag(clean, decoded) == 0, (name, frames)
    return encoded


@pytest.mark.parametrize("frames", EDGE_LENGTHS + RANDOM_LENGTHS)
def test_every_bitrate_is_aligned_and_as_long_at_edge_and_random_lengths(
    encoder: Encoder, frames: int
) -> None:
    assert len(_assert_aligned(encoder, frames)) == 6


@pytest.mark.parametrize("frames", [16, 50, 210, 575])
def test_lengths_too_short_to_tell_a_lag_alone_are_aligned_on_average(encoder: Encoder, frames: int) -> None:
    total = {name: np.zeros(2 * frames) for name in CodecConfig().columns}
    for seed in range(DRAWS):
        clean = _noise(frames, seed)
        for name, result in encoder.encode(clean).items():
            total[name] += _correlation(clean, decode(result.stream, frames=frames))
    assert {name: int(correlation.argmax()) for name, correlation in total.items()} == dict.fromkeys(total, 0)


@pytest.mark.parametrize("frames", LONG_LENGTHS)
def test_every_bitrate_is_aligned_and_as_long_at_long_lengths(encoder: Encoder, frames: int) -> None:
    assert len(_assert_aligned(encoder, frames)) == 6


@pytest.mark.parametrize("rate", [44_100, "auto"])
def test_piece_is_that_of_the_whole_bit_for_bit(rate: Literal[44100, "auto"]) -> None:
    frames = 132_300
    clean = _noise(frames)
    clean[: frames // 2] //= 100  # quiet, so that bits are saved for later frames
    config = CodecConfig(bitrates_bps=(24_000, 32_000, 64_000, 320_000), sample_rate=rate)
    streams = {name: made.stream for name, made in Encoder(config).encode(clean).items()}
    streams["flac"] = to_flac(clean)
    draw = np.random.default_rng(1)
    for name, stream in streams.items():
        whole = decode(stream, frames=frames)
        ends = [(0, 1), (0, frames), (frames - 1, frames), (13_823, 13_900)]
        ends += [(start, start + 22_050) for start in draw.integers(0, frames - 22_050, 30).tolist()]
        for first, end in ends:
            piece = decode(stream, frames=frames, piece=slice(first, end))
            assert piece.shape == (end - first, 2) and piece.dtype == np.float32
            assert np.array_equal(piece, whole[first:end]), (name, first, end)


def test_piece_of_a_truncated_stream_is_an_error(encoder: Encoder) -> None:
    stream = encoder.encode(_noise(88_200))["mp3_64000"].stream
    for piece in (slice(80_000, 88_200), slice(0, 88_200)):
        with pytest.raises(CodecError):
            decode(stream[: len(stream) // 2], frames=88_200, piece=piece)


@pytest.mark.faults
@pytest.mark.parametrize("first", range(1, 5_001, BLOCK))
def test_every_length_from_1_to_5000_is_aligned_and_as_long(encoder: Encoder, first: int) -> None:
    for frames in range(first, first + BLOCK):
        _assert_aligned(encoder, frames)


def test_recorded_bitrate_is_the_one_in_the_frame_headers(encoder: Encoder) -> None:
    config = CodecConfig()
    encoded = encoder.encode(_noise(44_100))
    assert tuple(encoded) == config.columns
    for name, asked in zip(config.columns, config.bitrates_bps, strict=True):
        stream = mp3.parse(encoded[name].stream)
        assert encoded[name].bitrate_bps == stream.bitrate_bps == REAL_BITRATES.get(asked, asked)
        assert (stream.sample_rate, stream.samples) == (44_100, 44_100)


@pytest.mark.parametrize("frames", [1, 2, 575, 1_153, 5_000, 44_101])
def test_auto_rate_is_aligned_and_as_long(auto_encoder: Encoder, frames: int) -> None:
    _assert_aligned(auto_encoder, frames)


def test_auto_rate_gives_true_low_bitrates_at_half_the_rate(auto_encoder: Encoder) -> None:
    encoded = auto_encoder.encode(_noise(44_100))
    headers = {name: mp3.parse(result.stream) for name, result in encoded.items()}
    assert {name: (found.bitrate_bps, found.sample_rate) for name, found in headers.items()} == {
        "mp3_24000": (24_000, 22_050),
        "mp3_32000": (32_000, 22_050),
        "mp3_48000": (48_000, 44_100),
        "mp3_64000": (64_000, 44_100),
        "mp3_96000": (96_000, 44_100),
        "mp3_128000": (128_000, 44_100),
    }


def test_same_samples_give_the_same_bytes_whatever_was_encoded_before(encoder: Encoder) -> None:
    clean = _noise(30_000)
    first = encoder.encode(clean)
    encoder.encode(_noise(90_000))
    again = Encoder(CodecConfig()).encode(clean)
    assert {name: result.stream for name, result in encoder.encode(clean).items()} == {
        name: result.stream for name, result in again.items()
    }
    assert first == again


def test_left_and_right_stay_on_their_sides(encoder: Encoder) -> None:
    clean = _noise(44_100)
    clean[:, 1] = 0
    for result in encoder.encode(clean).values():
        power = np.square(decode(result.stream, frames=44_100), dtype=np.float64).mean(axis=0)
        assert power[1] < 1e-3 * power[0]


def test_gain_of_the_real_codec_is_near_lames_scale(encoder: Encoder) -> None:
    time_seconds = np.arange(3 * 44_100) / 44_100
    tones = sum(np.sin(2 * np.pi * 220 * k * time_seconds + k) / k for k in range(1, 12))
    clean = np.rint(np.stack([tones, 0.7 * tones], axis=1) / 3 * 20_000).astype(np.int16)
    for name, result in encoder.encode(clean).items():
        assert result.gain == pytest.approx(NOMINAL_GAIN, abs=0.02), name  # steady tones are coded finely


def test_gain_of_silence_is_the_nominal_one(encoder: Encoder) -> None:
    for result in encoder.encode(np.zeros((44_100, 2), np.int16)).values():
        assert result.gain == NOMINAL_GAIN


@pytest.mark.parametrize("gain", [0.6, 0.95, 1.0, 1.4])
def test_known_gain_is_measured_though_most_bins_are_quantised_to_zero(gain: float) -> None:
    clean = gain_spectrum(np.random.default_rng(1).normal(0, 0.1, (44_100, 2)).astype(np.float32))
    kept = np.random.default_rng(2).random(clean.shape) < 0.4
    scaled = (clean * np.float32(gain) * kept).astype(np.complex64)
    assert measure_gain(clean, scaled) == pytest.approx(gain, rel=1e-5)


def test_gain_ignores_phase_noise_of_zero_mean() -> None:
    clean = gain_spectrum(np.random.default_rng(1).normal(0, 0.1, (44_100, 2)).astype(np.float32))
    generator = np.random.default_rng(5)
    noise = generator.normal(0, 0.02, clean.shape) + 1j * generator.normal(0, 0.02, clean.shape)
    assert measure_gain(clean, (clean * (0.9 + noise)).astype(np.complex64)) == pytest.approx(0.9, abs=0.01)


def test_gain_is_nominal_without_strong_bins_that_were_kept() -> None:
    clean = gain_spectrum(np.random.default_rng(1).normal(0, 0.1, (44_100, 2)).astype(np.float32))
    assert measure_gain(clean, np.zeros_like(clean)) == NOMINAL_GAIN
    assert measure_gain(np.zeros_like(clean), clean) == NOMINAL_GAIN


@pytest.mark.parametrize("frames", [1, 4_095, 4_096, 4_097, 132_300])
def test_gain_spectrum_has_its_shape_at_every_length(frames: int) -> None:
    spectrum = gain_spectrum(np.ones((frames, 2), np.float32))
    assert spectrum.shape[1:] == (2, round(16_000 * 4_096 / 44_100) - round(100 * 4_096 / 44_100))
    assert 1 <= spectrum.shape[0] <= 16


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"bitrates_bps": (24,)}, "24 kbps is 24000"),
        ({"bitrates_bps": (321_000,)}, "bitrates_bps"),
        ({"bitrates_bps": ()}, "one or more"),
        ({"bitrates_bps": (32_000, 32_000)}, "different"),
        ({"quality": 10}, "quality is 10"),
        ({"quality": -1}, "quality is -1"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0"),
    ],
)
def test_wrong_configuration_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodecConfig(**wrong)  # type: ignore[arg-type]


def test_columns_are_named_after_the_requested_bitrates() -> None:
    config = CodecConfig(bitrates_bps=(64_000, 320_000), sample_rate="auto")
    assert config.columns == ("mp3_64000", "mp3_320000")
    steps = [Step("mp3", rate) for rate in (32_000, 47_999, 48_000)]
    assert [config.encoded_rate(step) for step in steps] == [22_050, 22_050, 44_100]
    assert config.encoded_rate(Step("mp3", 5, variable=True)) == 44_100


@pytest.mark.parametrize("damage", ["empty", "text", "short", "long"])
def test_decoding_what_is_not_whole_is_an_error(encoder: Encoder, damage: str) -> None:
    stream = encoder.encode(_noise(20_000))["mp3_64000"].stream
    damaged = {"empty": b"", "text": b"no audio at all", "short": stream, "long": stream}[damage]
    frames = {"short": 40_000, "long": 10_000}.get(damage, 20_000)
    with pytest.raises(CodecError, match="decode"):
        decode(damaged, frames=frames)


def _lying_encoder(folder: Path, script: str, timeout_seconds: float = 20) -> Encoder:
    """An encoder whose ffmpeg is a shell script; $REAL is the real one, $OUTPUTS what it must write to."""
    program = folder / "ffmpeg"
    program.write_text(
        f"#!/bin/sh\nREAL='{find_ffmpeg()}'\nFLAG='{folder}/lie'\nPIDS='{folder}/pids'\n"
        'OUTPUTS=$(printf "%s\\n" "$@" | grep ^/dev/fd/)\n'
        '[ -e "$FLAG" ] || exec "$REAL" "$@"\n'
        f'echo $$ > "$PIDS"\n{script}\n'
    )
    program.chmod(0o755)
    return Encoder(CodecConfig(ffmpeg=str(program), timeout_seconds=timeout_seconds))


@pytest.mark.parametrize(
    "script, error, message",
    [
        ("cat > /dev/null; exit 0", CodecError, "no MPEG audio frame"),
        ("exit 0", CodecError, "no MPEG audio frame"),
        (
            '"$REAL" "$@"; for o in $OUTPUTS; do truncate -s $(( $(wc -c < $o) / 2 )) $o; done',
            CodecError,
            "missing_frames=[1-9]",
        ),
        ('"$REAL" "$@"; for o in $OUTPUTS; do truncate -s -20 $o; done', CodecError, "missing_frames=1"),
        ('head -c 80000 | "$REAL" "$@"', CodecError, "20000 samples, 30000 expected"),
        ('"$REAL" "$@"; for o in $OUTPUTS; do echo text > $o; done', CodecError, "no MPEG audio frame"),
        (
            "cat > /dev/null; echo 'no such encoder' >&2; exit 3",
            FfmpegError,
            "exited with code 3: no such encoder",
        ),
        ("kill -9 $$", FfmpegError, "exited with code -9"),
    ],
    ids=["silent", "ignores-input", "half", "cut-end", "half-input", "text", "fails", "dies"],
)
def test_failing_ffmpeg_is_an_error_and_never_the_previous_excerpt(
    tmp_path: Path, script: str, error: type[Exception], message: str
) -> None:
    encoder = _lying_encoder(tmp_path, script)
    clean = _noise(30_000)
    honest = encoder.encode(clean)
    (tmp_path / "lie").touch()
    with pytest.raises(error, match=message):
        encoder.encode(clean)
    (tmp_path / "lie").unlink()
    assert encoder.encode(clean) == honest


def test_hanging_ffmpeg_is_killed_at_its_limit_and_leaves_no_child(tmp_path: Path) -> None:
    encoder = _lying_encoder(tmp_path, "exec sleep 600", timeout_seconds=1)
    (tmp_path / "lie").touch()
    began = time.monotonic()
    with pytest.raises(FfmpegError, match="timed out after 1 s"):
        encoder.encode(_noise(200_000))
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pids").read_text()), 0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_hanging_wrapper_of_ffmpeg_leaves_no_grandchild(tmp_path: Path) -> None:
    encoder = _lying_encoder(tmp_path, 'sleep 600 & echo $! > "$PIDS"; wait', timeout_seconds=1)
    (tmp_path / "lie").touch()
    with pytest.raises(FfmpegError, match="timed out after 1 s"):
        encoder.encode(_noise(30_000))
    grandchild = Path("/proc", (tmp_path / "pids").read_text().strip(), "stat")
    end = time.monotonic() + 5  # until it is gone, or waits as a zombie for somebody to ask for it
    while grandchild.exists() and ") Z" not in grandchild.read_text():
        assert time.monotonic() < end


@pytest.mark.parametrize("kind", ["missing", "not-executable"])
def test_ffmpeg_that_cannot_run_is_named_at_once(tmp_path: Path, kind: str) -> None:
    program = tmp_path / "ffmpeg"
    if kind == "not-executable":
        program.write_text("#!/bin/sh\n")
    with pytest.raises(FfmpegMissingError, match=r"does not exist or is not executable.*--codec\.ffmpeg"):
        Encoder(CodecConfig(ffmpeg=str(program)))
