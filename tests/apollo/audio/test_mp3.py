"""MP3 headers: known bytes worked out by hand, and real streams of libmp3lame."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from apollo.audio import mp3
from apollo.audio.ffmpeg import find_ffmpeg

STEREO_128K = b"\xff\xfb\x90\x00"  # MPEG-1 Layer III, 128 kbps, 44.1 kHz, stereo, no CRC, no padding
STEREO_128K_BYTES = 417  # 144 * 128000 // 44100
DELAY, PADDING = 576, 1_000


def _frame(header: bytes, length: int, content: bytes = b"") -> bytes:
    return (header + content).ljust(length, b"\0")


def _info_tag(frames: int) -> bytes:
    """An Info tag with all four fields, then LAME's: its delays are 21 bytes after its start."""
    fields = frames.to_bytes(4, "big") + bytes(4) + bytes(100) + bytes(4)
    lame = b"LAME3.100" + bytes(12) + bytes([DELAY >> 4, (DELAY & 15) << 4 | PADDING >> 8, PADDING & 255])
    return b"Info" + (15).to_bytes(4, "big") + fields + lame


def _tagged(side_info: int, frames: int) -> bytes:
    return bytes(side_info) + _info_tag(frames)


def _encoded(folder: Path, *options: str, samples: int = 44_100, rate: int = 44_100) -> bytes:
    """Encode noise with the bundled ffmpeg."""
    noise = np.random.default_rng(0).normal(0, 0.1, (samples, 2))
    source, target = folder / "noise.wav", folder / "noise.mp3"
    soundfile.write(source, noise, rate)
    command = [find_ffmpeg(), "-loglevel", "error", "-y", "-i", str(source), "-c:a", "libmp3lame"]
    subprocess.run([*command, "-id3v2_version", "0", *options, str(target)], check=True)
    return target.read_bytes()


def test_two_frames_by_hand_are_counted_with_their_bitrate_and_no_sample_count() -> None:
    stream = _frame(STEREO_128K, STEREO_128K_BYTES) + _frame(b"\xff\xfb\x92\x00", STEREO_128K_BYTES + 1)
    assert mp3.parse(stream) == mp3.Mp3Info(44_100, 128_000, 2, None, 0, ((0, 2 * STEREO_128K_BYTES + 1, 2),))


def test_bitrate_is_the_mean_over_the_frames() -> None:
    frame_32k = _frame(b"\xff\xfb\x10\x00", 104)  # 144 * 32000 // 44100
    info = mp3.parse(_frame(STEREO_128K, STEREO_128K_BYTES) + frame_32k)
    assert (info.bitrate_bps, info.constant) == (80_000, False)


@pytest.mark.parametrize(
    "header, length, side_info, samples_per_frame, expected",
    [
        (b"\xff\xfb\x90\x00", 417, 32, 1_152, (44_100, 128_000)),
        (b"\xff\xfb\x90\xc0", 417, 17, 1_152, (44_100, 128_000)),  # mono
        (b"\xff\xfa\x90\x00", 417, 34, 1_152, (44_100, 128_000)),  # two bytes of CRC
        (b"\xff\xfb\xb4\x00", 576, 32, 1_152, (48_000, 192_000)),
        (b"\xff\xf3\x80\x00", 208, 17, 576, (22_050, 64_000)),  # MPEG-2: 72 * 64000 // 22050
        (b"\xff\xf3\x88\xc0", 288, 9, 576, (16_000, 64_000)),
        (b"\xff\xe3\x80\x00", 417, 17, 576, (11_025, 64_000)),  # MPEG-2.5
    ],
)
def test_gapless_tag_by_hand_gives_the_samples_after_trimming(
    header: bytes, length: int, side_info: int, samples_per_frame: int, expected: tuple[int, int]
) -> None:
    stream = _frame(header, length, _tagged(side_info, 3)) + 3 * _frame(header, length)
    samples = 3 * samples_per_frame - DELAY - PADDING
    channels = 1 if header[3] >> 6 == 3 else 2
    expected_info = mp3.Mp3Info(*expected, 3, samples, 0, ((0, 4 * length, channels),), True, "LAME3.100")
    assert mp3.parse(stream) == expected_info


def test_tag_without_lame_delays_gives_no_sample_count() -> None:
    tag = bytes(32) + b"Xing" + (1).to_bytes(4, "big") + (1).to_bytes(4, "big")
    stream = _frame(STEREO_128K, STEREO_128K_BYTES, tag) + _frame(STEREO_128K, STEREO_128K_BYTES)
    assert mp3.parse(stream) == mp3.Mp3Info(44_100, 128_000, 1, None, 0, ((0, 2 * STEREO_128K_BYTES, 2),))


def test_id3_tag_before_the_first_frame_is_skipped() -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x02" + bytes(130)  # sizes have seven bits a byte: 1 * 128 + 2
    assert mp3.parse(tag + _frame(STEREO_128K, STEREO_128K_BYTES)).frames == 1


def test_id3_footer_is_skipped_too() -> None:
    tag = b"ID3\x04\x00\x10\x00\x00\x00\x05" + bytes(5) + bytes(10)
    assert mp3.parse(tag + _frame(STEREO_128K, STEREO_128K_BYTES)).frames == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff",
        b"RIFF" + bytes(100),
        b"\xff\xfb\xf0\x00" + bytes(500),  # bitrate index 15
        b"\xff\xfb\x9c\x00" + bytes(500),  # sample rate index 3
        b"\xff\xeb\x90\x00" + bytes(500),  # reserved version
        b"\xff\xfd\x90\x00" + bytes(500),  # Layer II
        b"ID3\x04\x00\x00\x00\x00\x00\x7f",  # the tag reaches beyond the end
        np.random.default_rng(3).integers(0, 128, 4_096, np.uint8).tobytes(),
    ],
)
def test_garbage_is_a_value_error(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="no MPEG audio frame"):
        mp3.parse(garbage)


def test_random_bytes_after_a_good_header_never_crash() -> None:
    generator = np.random.default_rng(4)
    for _ in range(300):
        tail = generator.integers(0, 256, generator.integers(0, 900), np.uint8).tobytes()
        assert mp3.parse(STEREO_128K + tail).frames <= 3


@pytest.mark.parametrize("samples", [1_151, 1_152, 44_100])
def test_real_stream_has_bitrate_frames_and_exact_samples(tmp_path: Path, samples: int) -> None:
    stream = mp3.parse(_encoded(tmp_path, "-b:a", "96k", samples=samples))
    assert (stream.sample_rate, stream.bitrate_bps, stream.missing_frames) == (44_100, 96_000, 0)
    assert stream.samples == samples
    assert stream.frames >= -(-samples // 1_152)


@pytest.mark.parametrize("rate", [22_050, 24_000, 16_000, 11_025, 12_000, 8_000, 32_000, 48_000])
def test_real_streams_at_other_rates_are_read(tmp_path: Path, rate: int) -> None:
    stream = mp3.parse(_encoded(tmp_path, "-b:a", "32k", samples=rate, rate=rate))
    assert (stream.sample_rate, stream.bitrate_bps, stream.samples) == (rate, 32_000, rate)


def test_real_stream_without_a_tag_has_no_sample_count_and_misses_nothing(tmp_path: Path) -> None:
    with_tag = mp3.parse(_encoded(tmp_path, "-b:a", "64k"))
    without = mp3.parse(_encoded(tmp_path, "-b:a", "64k", "-write_xing", "0"))
    assert (without.samples, without.missing_frames, without.bitrate_bps) == (None, 0, 64_000)
    assert without.frames == with_tag.frames


def test_variable_bitrate_lies_between_the_frames_bitrates(tmp_path: Path) -> None:
    stream = mp3.parse(_encoded(tmp_path, "-q:a", "6"))
    assert 32_000 < stream.bitrate_bps < 320_000
    assert stream.samples == 44_100


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_frames_that_a_cut_takes_are_missing(tmp_path: Path, share: float) -> None:
    stream = _encoded(tmp_path, "-b:a", "128k")
    whole, cut = mp3.parse(stream), mp3.parse(stream[: int(len(stream) * share)])
    assert cut.missing_frames == whole.frames - cut.frames > 0


def test_frames_behind_a_damaged_header_are_missing(tmp_path: Path) -> None:
    stream = bytearray(_encoded(tmp_path, "-b:a", "128k"))
    whole = mp3.parse(bytes(stream))
    middle = stream.find(b"\xff\xfb", len(stream) // 2)
    stream[middle : middle + 4] = bytes(4)
    assert mp3.parse(bytes(stream)).missing_frames > whole.frames // 3
