"""Files as people have them: every sample is read, and what headers say is checked, what tags say ignored."""

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from apollo.audio.ffmpeg import find_ffmpeg
from apollo.audio.probing import probe
from apollo.audio.reading import AudioReader
from apollo.audio.soundfiles import needs_libsndfile, open_sound, reads_in_pieces
from tests.support.datasets import encode, music, write

RATE = 44_100
NO_TAGS = ("-id3v2_version", "0")


def read(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    """Return all samples [frames, channels] and the warnings."""
    with AudioReader(str(path), RATE) as song:
        blocks = list(song.blocks(RATE))
        return torch.cat(blocks, 1).numpy().T, song.warnings


def tone(seconds: float, rate: int = RATE, channels: int = 2) -> NDArray[np.float64]:
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.repeat(np.sin(2 * np.pi * 1_000 * time)[:, None], channels, 1)


def id3(*frames: tuple[bytes, bytes]) -> bytes:
    """Build an ID3v2.3 tag."""
    body = b"".join(name + struct.pack(">IH", len(content), 0) + content for name, content in frames)
    return b"ID3\x03\x00\x00" + bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0)) + body


def mp3(folder: Path, seed: int = 1, *options: str) -> bytes:
    """Return one second of MP3 without tags."""
    wav = write(folder / "plain.wav", music(seed, 1.0))
    return encode(wav, folder / "plain.mp3", "-b:a", "64k", *NO_TAGS, *options).read_bytes()


LIE = "Stream #0:0: Audio: flac, 96000 Hz, mono"


def test_nothing_that_a_tag_says_is_a_fact(tmp_path: Path) -> None:
    body, line = mp3(tmp_path), b"\n  Duration: 09:00:00.00, start: 0.0, bitrate: 1 kb/s\n  " + LIE.encode()
    output = b"\n[info] Output #0, wav, to 'pipe:1':\n[aist @ 0x1] [error] damaged\n"
    songs = {
        "title.mp3": id3((b"TIT2", b"\x00" + LIE.encode())) + body,
        "name.mp3": id3((b"TXXX", b"\x00x" + line + b"\x00value")) + body,  # the name of a tag
        "messages.mp3": id3((b"TXXX", b"\x00x" + output + b"\x00value")) + body,
        "new\n  Duration: 09:00:00.00, start: 0.mp3": body,
    }
    for name, content in songs.items():
        path = tmp_path / name
        path.write_bytes(content)
        info = probe(str(path), find_ffmpeg())
        assert (info.codec, info.lossy, info.sample_rate, info.layout) == ("mp3", True, RATE, "stereo"), name
        assert info.seconds is None or info.seconds < 2, name
        samples, warnings = read(path)
        assert (len(samples), warnings) == (RATE, []), name


def test_a_tag_of_a_wav_does_not_make_it_truncated(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        file.title = "x\ndata : 999999999"
        file.write(music(1, 1.0))
    samples, warnings = read(path)
    assert (len(samples), warnings) == (RATE, [])


def codings() -> list[tuple[str, str]]:
    """Return all formats and codings that libsndfile knows by their content."""
    headerless = ("RAW", "SD2")
    return [
        (format, coding)
        for format in soundfile.available_formats()
        for coding in soundfile.available_subtypes(format)
        if format not in headerless
    ]


def _write_coding(path: Path, format: str, coding: str) -> bool:
    for channels, rate in ((2, RATE), (1, RATE), (1, 8_000)):
        try:
            soundfile.write(path, music(1, 1.0, rate, channels), rate, format=format, subtype=coding)
        except (soundfile.LibsndfileError, ValueError):
            continue
        return True
    return False


def test_what_is_read_in_pieces_is_exact_in_pieces_of_every_coding(tmp_path: Path) -> None:
    path, piecewise = tmp_path / "song", set()
    for format, coding in codings():
        if not _write_coding(path, format, coding):
            continue
        with open_sound(str(path), sequentially=True) as sound:
            whole = sound.read(sound.frames, dtype="float32", always_2d=True)
        with open_sound(str(path), sequentially=True) as sound:
            pieces = []
            while len(piece := sound.read(1_000, dtype="float32", always_2d=True)):
                pieces.append(piece)
            np.testing.assert_array_equal(np.concatenate(pieces), whole, err_msg=f"{format} {coding}")
        with open_sound(str(path)) as sound:
            if not reads_in_pieces(sound):
                continue
            piecewise.add(coding)
            for start in (5_000, 0, 4_999, 7_000, 100):
                sound.seek(start)
                window = sound.read(777, dtype="float32", always_2d=True)
                np.testing.assert_array_equal(
                    window, whole[start : start + 777], err_msg=f"{format} {coding}"
                )
    assert {"PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAC_16"} <= piecewise
    assert not {"MPEG_LAYER_III", "VORBIS", "OPUS", "GSM610", "DWVW_16", "G721_32"} & piecewise


@pytest.mark.parametrize("coding", ["DWVW_16", "GSM610", "G721_32", "NMS_ADPCM_32"])
def test_codings_that_only_libsndfile_knows_are_read_by_it(tmp_path: Path, coding: str) -> None:
    format = {"DWVW_16": "AIFF", "G721_32": "AU"}.get(coding, "WAV")
    path = write(tmp_path / "song", music(1, 1.0, channels=1), subtype=coding, format=format)
    with open_sound(str(path), sequentially=True) as sound:
        assert needs_libsndfile(sound)
        expected = sound.read(sound.frames, dtype="float32", always_2d=True)
    samples, warnings = read(path)
    np.testing.assert_array_equal(samples, expected)
    assert warnings == []


def test_mp3_in_a_wav_is_read_without_gaps(tmp_path: Path) -> None:
    wav = write(tmp_path / "in.wav", music(3, 6.0))
    path = encode(wav, tmp_path / "low.wav", "-c:a", "libmp3lame", "-b:a", "32k")
    expected = encode(path, tmp_path / "decoded.wav", "-c:a", "pcm_f32le")
    samples, warnings = read(path)
    np.testing.assert_allclose(samples, soundfile.read(expected, dtype="float32")[0], atol=1e-5)
    assert warnings == []


def test_a_flac_from_a_pipe_keeps_every_sample(tmp_path: Path) -> None:
    samples = music(1, 1.3)
    path = encode(write(tmp_path / "in.wav", samples), tmp_path / "song.flac")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples: 36 bits of the STREAMINFO
    content[22:26] = bytes(4)
    path.write_bytes(content)
    found, warnings = read(path)
    np.testing.assert_allclose(found, samples, atol=2**-15)
    assert warnings == []


def _with_data_size(wav: Path, target: Path, size: int) -> Path:
    content = bytearray(wav.read_bytes())
    at = content.find(b"data")
    content[at + 4 : at + 8] = struct.pack("<I", size)
    if size == 0:
        content[4:8] = bytes(4)
    target.write_bytes(content)
    return target


QUARTER = RATE  # bytes of a quarter of a second of 16 bit stereo


def _declare_less(content: bytearray, extension: str) -> None:
    """Make a header declare a quarter of a second."""
    at = content.find(b"SSND" if extension == "aiff" else b"data")
    if extension == "au":
        content[8:12] = struct.pack(">I", QUARTER)
    elif extension == "w64":
        content[at + 16 : at + 24] = struct.pack("<Q", 24 + QUARTER)
    elif extension == "caf":
        content[at + 4 : at + 12] = struct.pack(">q", 4 + QUARTER)
    elif extension == "aiff":
        content[at + 4 : at + 8] = struct.pack(">I", 8 + QUARTER)
    else:
        content[at + 4 : at + 8] = struct.pack("<I", QUARTER)


@pytest.mark.parametrize("rate", [RATE, 48_000])
@pytest.mark.parametrize("extension", ["wav", "aiff", "au", "caf", "w64"])
def test_more_samples_than_a_header_declares_are_told(tmp_path: Path, extension: str, rate: int) -> None:
    wav = write(tmp_path / "in.wav", music(1, 1.0, rate), rate)
    content = bytearray(encode(wav, tmp_path / f"song.{extension}").read_bytes())
    _declare_less(content, extension)
    (tmp_path / f"song.{extension}").write_bytes(content)
    samples, warnings = read(tmp_path / f"song.{extension}")
    expected, _ = read(write(tmp_path / "less.wav", music(1, 1.0, rate)[: QUARTER // 4], rate))
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    assert len(warnings) == 1
    found = re.match(
        rf"header declares {QUARTER} bytes of samples, (\d+) bytes of unknown content", warnings[0]
    )
    assert found
    assert int(found[1]) == pytest.approx(4 * rate - QUARTER, abs=100)
    assert "were left out" in warnings[0]


@pytest.mark.parametrize("extension", ["wav", "aiff", "caf", "w64", "au"])
def test_a_few_samples_more_than_declared_are_told_too(tmp_path: Path, extension: str) -> None:
    wav = write(tmp_path / "in.wav", music(1, QUARTER / 4 / RATE + 0.01))
    content = bytearray(encode(wav, tmp_path / f"song.{extension}").read_bytes())
    _declare_less(content, extension)
    (tmp_path / f"song.{extension}").write_bytes(content)
    samples, warnings = read(tmp_path / f"song.{extension}")
    assert len(samples) == QUARTER // 4
    assert len(warnings) == 1


def test_a_format_without_the_size_of_a_sample_is_damage(tmp_path: Path) -> None:
    wav = write(tmp_path / "in.wav", music(1, 1.0))
    content = bytearray(encode(wav, tmp_path / "song.w64").read_bytes())
    at = content.find(b"fmt ") + 16
    content[at : at + 8] = struct.pack("<Q", 24 + 14)
    (tmp_path / "song.w64").write_bytes(content)
    _, warnings = read(tmp_path / "song.w64")
    assert warnings == ["damaged: the fmt chunk has 14 bytes, so the size of a sample is unknown"]


@pytest.mark.parametrize("rate", [RATE, 48_000])
@pytest.mark.parametrize("declared", [0.25, 9.0])
def test_a_flac_that_declares_another_length_keeps_every_sample(
    tmp_path: Path, declared: float, rate: int
) -> None:
    path = encode(write(tmp_path / "in.wav", music(1, 1.1, rate), rate), tmp_path / "song.flac")
    expected, _ = read(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = struct.pack(">I", round(declared * rate))
    path.write_bytes(content)
    samples, warnings = read(path)
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    numbers = f"header declares {round(declared * rate)} samples, {round(1.1 * rate)} are present"
    assert warnings == ([f"truncated: {numbers}"] if declared > 1 else [f"{numbers}: all were read"])


def test_a_flac_with_damage_in_the_middle_keeps_what_follows(tmp_path: Path) -> None:
    samples = music(1, 2.0)
    path = encode(write(tmp_path / "in.wav", samples), tmp_path / "song.flac")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(content)
    found, warnings = read(path)
    assert len(found) > len(samples) - 2 * 4_608
    np.testing.assert_allclose(found[: RATE // 2], samples[: RATE // 2], atol=2**-15)
    np.testing.assert_allclose(found[-RATE // 2 :], samples[-RATE // 2 :], atol=2**-15)
    assert len(warnings) == 1


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_an_unfinished_au_is_read_to_its_end_with_a_warning(tmp_path: Path, rate: int) -> None:
    path = encode(write(tmp_path / "in.wav", music(1, 1.0, rate), rate), tmp_path / "song.au")
    expected, _ = read(path)
    content = bytearray(path.read_bytes())
    content[8:12] = bytes(4)
    path.write_bytes(content)
    samples, warnings = read(path)
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    assert [text.partition(";")[0] for text in warnings] == ["unfinished: header declares no samples"]


@pytest.mark.parametrize(
    "follows", ["LIST chunk", "LIST chunk of a wrong size", "ID3v1 tag", "padding", "id3 tag"]
)
def test_what_may_follow_the_samples_is_no_warning(tmp_path: Path, follows: str) -> None:
    wav = write(tmp_path / "in.wav", music(1, 1.0))
    tail = {
        "LIST chunk": b"LIST" + struct.pack("<I", 6_000) + b"INFO" + bytes(5_996),
        "ID3v1 tag": b"TAG" + bytes(125),
        "padding": bytes(2_000),
        "LIST chunk of a wrong size": b"LIST" + struct.pack("<I", 600) + b"INFO" + bytes(100),
        "id3 tag": id3((b"APIC", bytes(20_000))),
    }[follows]
    wav.write_bytes(wav.read_bytes() + tail)
    samples, warnings = read(wav)
    assert (len(samples), warnings) == (RATE, [])


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_an_unfinished_wav_is_read_to_its_end_with_a_warning(tmp_path: Path, rate: int) -> None:
    wav = write(tmp_path / "in.wav", music(1, 1.0, rate), rate)
    samples, warnings = read(_with_data_size(wav, tmp_path / "unfinished.wav", 0))
    np.testing.assert_array_equal(samples, read(wav)[0])
    assert len(warnings) == 1
    assert "unfinished: header declares no samples" in warnings[0]


def _level_db(samples: NDArray[np.float32]) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(samples))) * np.sqrt(2) / 0.3))


def _pitch_hz(samples: NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


def _end_tags() -> dict[str, bytes]:
    item = struct.pack("<II", 8, 0) + b"REPLAYGAIN_TRACK_GAIN\x00-6.50 dB"
    foot = b"APETAGEX" + struct.pack("<III", 2_000, len(item) + 32, 1)
    ape = item + foot + bytes(12)
    ape_with_header = foot + struct.pack("<I", 0xA000_0000) + bytes(8) + item + foot
    ape_with_header += struct.pack("<I", 0x8000_0000) + bytes(8)
    inner = b"LYRICSBEGIN" + b"IND0000300" + b"LYR00020la la la la la la la"
    id3v1 = b"TAG" + b"Title".ljust(30, b"\0") + bytes(95)
    return {
        "id3v1": id3v1,
        "ape": ape,
        "ape with header and id3v1": ape_with_header + id3v1,
        "lyrics3v1": b"LYRICSBEGIN" + b"la " * 50 + b"LYRICSEND" + id3v1,
        "lyrics3v2": inner + b"%06d" % len(inner) + b"LYRICS200" + id3v1,
        "all": ape + inner + b"%06d" % len(inner) + b"LYRICS200" + id3v1,
    }


FILES_IN_A_FILE = ("wav", "flac", "aiff", "au", "caf", "w64", "tta", "wv", "m4a", "wma", "mka", "voc")
JOINTS = {  # what stands between joined MP3s
    "": b"",
    "ID3v1 and ID3v2 tags": b"TAG" + bytes(125) + id3((b"APIC", bytes(50_000))),
    **{name: _end_tags()[name] for name in ("ape", "ape with header and id3v1", "lyrics3v1", "all")},
    "zeros": bytes(3_000),
}


def _join(folder: Path, extension: str, joint: bytes, forms: Sequence[tuple[int, int]]) -> Path:
    """Encode a second of each form, channels and sample rate, and join the files."""
    content = b""
    for serial, (channels, rate) in enumerate(forms):
        wav = write(folder / "in.wav", tone(1.0, rate, channels), rate)
        options: tuple[str, ...] = ()
        if extension == "mp3":
            options = ("-b:a", "64k", *NO_TAGS, "-write_xing", "0")
            content += joint
        elif extension in ("ogg", "opus"):
            quality = ("-b:a", "96k") if extension == "opus" else ("-c:a", "libvorbis", "-q:a", "4")
            options = (*quality, "-serial_offset", str(serial + 1))
        elif extension == "mka":
            options = ("-c:a", "flac")
        content += encode(wav, folder / f"part.{extension}", *options).read_bytes()
    path = folder / f"joined.{extension}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("extension", "joint"),
    [("mp3", joint) for joint in JOINTS] + [(name, "") for name in ("ogg", "opus", *FILES_IN_A_FILE)],
)
def test_every_part_of_a_joined_file_keeps_level_pitch_and_channels(
    tmp_path: Path, extension: str, joint: str
) -> None:
    """Stereo, mono, another rate, as a dump of a radio stream has them."""
    forms = ((2, RATE), (1, RATE), (2, 22_050), (1, 22_050))
    if extension == "opus":
        forms = ((1, 48_000), (2, 48_000))
    for order in (forms, forms[::-1]):
        samples, warnings = read(_join(tmp_path, extension, JOINTS[joint], order))
        assert warnings == []
        assert samples.shape[1] == 2
        assert len(samples) == pytest.approx(len(order) * RATE, abs=len(order) * 3_000)
        for part in range(len(order)):
            at = round((part + 0.5) * len(samples) / len(order))
            for channel in (0, 1):
                inner = samples[at - 9_000 : at + 9_000, channel]
                assert _level_db(inner) == pytest.approx(0, abs=0.7), (order, part, channel)
                assert _pitch_hz(inner) == pytest.approx(1_000, abs=3), (order, part, channel)


@pytest.mark.parametrize("rate", [RATE, 48_000])
@pytest.mark.parametrize("extension", [name for name in FILES_IN_A_FILE if name != "wma"])
def test_joined_files_of_one_form_are_read_one_after_the_other(
    tmp_path: Path, extension: str, rate: int
) -> None:
    options = ("-c:a", "flac") if extension == "mka" else ("-c:a", "pcm_s16le") if extension == "voc" else ()
    content, expected = b"", []
    for seed in (1, 2):
        path = encode(
            write(tmp_path / "in.wav", music(seed, 1.0, rate), rate), tmp_path / f"a.{extension}", *options
        )
        content += path.read_bytes()
        expected.append(read(path)[0])
    (tmp_path / f"joined.{extension}").write_bytes(content)
    samples, warnings = read(tmp_path / f"joined.{extension}")
    np.testing.assert_allclose(samples, np.concatenate(expected), atol=1e-6)
    assert warnings == []


def test_more_files_in_a_file_than_are_read_are_told(tmp_path: Path) -> None:
    wav = write(tmp_path / "in.wav", music(1, 0.01)).read_bytes()
    (tmp_path / "joined.wav").write_bytes(wav * 102)
    samples, warnings = read(tmp_path / "joined.wav")
    assert len(samples) == round(0.01 * RATE)
    assert warnings == [f"another file follows at byte {len(wav)}: only the first was read"]


def test_a_second_file_that_ends_early_is_told(tmp_path: Path) -> None:
    wav = write(tmp_path / "in.wav", music(1, 1.0)).read_bytes()
    (tmp_path / "joined.wav").write_bytes(wav + wav[: 44 + 2 * RATE])
    samples, warnings = read(tmp_path / "joined.wav")
    assert len(samples) == pytest.approx(1.5 * RATE, abs=20)
    assert len(warnings) == 1
    assert warnings[0].startswith("file 2 of 2 in it: truncated: header declares")


def test_zeros_instead_of_frames_are_damage(tmp_path: Path) -> None:
    content = bytearray(mp3(tmp_path, 1, "-write_xing", "0"))
    frames = [found.start() for found in re.finditer(rb"\xff\xfb", content)]
    content[frames[10] : frames[14]] = bytes(frames[14] - frames[10])
    (tmp_path / "song.mp3").write_bytes(content)
    samples, warnings = read(tmp_path / "song.mp3")
    assert len(samples) > 0.85 * RATE
    assert any(f"zeros instead of MP3 frames from byte {frames[10]} on" in text for text in warnings)


@pytest.mark.parametrize("extension", ["aac", "ac3", "eac3", "mp2"])
@pytest.mark.parametrize("first_rate", [RATE, 48_000])
@pytest.mark.parametrize("channels", [(2, 1), (1, 2)])
def test_a_change_within_another_format_is_said(
    tmp_path: Path, extension: str, first_rate: int, channels: tuple[int, int]
) -> None:
    content = b""
    for rate, number in zip((first_rate, RATE), channels, strict=True):
        wav = write(tmp_path / "in.wav", tone(1.0, rate, number), rate)
        content += encode(wav, tmp_path / f"part.{extension}", "-b:a", "96k").read_bytes()
    (tmp_path / f"song.{extension}").write_bytes(content)
    samples, warnings = read(tmp_path / f"song.{extension}")
    assert len(samples) > 1.9 * RATE
    first, second = ("stereo", "mono") if channels == (2, 1) else ("mono", "stereo")
    assert re.search(rf"changes midway from \d+ Hz, {first} to \d+ Hz, {second}", warnings[0])
    assert f"mixed into {first}: its level and channels change" in warnings[0]


@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_a_free_format_mp3_is_read_by_the_other_reader(tmp_path: Path, rate: int) -> None:
    wav = write(tmp_path / "in.wav", music(1, 1.0, rate), rate)
    plain = encode(wav, tmp_path / "plain.mp3", "-b:a", "128k", *NO_TAGS, "-write_xing", "0")
    content = bytearray(plain.read_bytes())
    at = 0
    while at < len(content) - 4:
        frame = 144 * 128_000 // rate + (content[at + 2] >> 1 & 1)
        content[at + 2] &= 0x0F  # bitrate index 0
        at += frame
    (tmp_path / "free.mp3").write_bytes(content)
    samples, warnings = read(tmp_path / "free.mp3")
    expected, _ = read(plain)
    length = min(len(samples), len(expected))
    assert length == pytest.approx(RATE, abs=4_000)
    np.testing.assert_allclose(samples[3_000 : length - 3_000], expected[3_000 : length - 3_000], atol=1e-3)
    assert warnings == []


@pytest.mark.parametrize("name", _end_tags())
def test_a_tag_behind_the_last_frame_is_no_damage(tmp_path: Path, name: str) -> None:
    body = mp3(tmp_path)
    (tmp_path / "song.mp3").write_bytes(body + _end_tags()[name])
    samples, warnings = read(tmp_path / "song.mp3")
    np.testing.assert_array_equal(samples, read(tmp_path / "plain.mp3")[0])
    assert warnings == []


def test_a_damaged_cover_is_no_damage_of_the_song(tmp_path: Path) -> None:
    picture = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + np.random.default_rng(0).bytes(100_000)
    (tmp_path / "song.mp3").write_bytes(
        id3((b"APIC", b"\x00image/jpeg\x00\x03\x00" + picture)) + mp3(tmp_path)
    )
    samples, warnings = read(tmp_path / "song.mp3")
    assert (len(samples), warnings) == (RATE, [])


def _film(path: Path, seconds: float, *options: str) -> Path:
    wav = write(path.with_suffix(".wav"), music(1, 2.0))
    picture = ("-f", "lavfi", "-i", f"color=black:s=64x64:r=10:d={seconds}")
    # behind the first input, which `encode` names
    return encode(wav, path, *picture, "-c:v", "mpeg4", "-map", "0:a", "-map", "1:v", *options)


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_a_picture_longer_than_the_sound_is_no_missing_end(tmp_path: Path, extension: str) -> None:
    film = _film(tmp_path / f"film.{extension}", 5.0)
    samples, warnings = read(film)
    assert len(samples) == pytest.approx(2 * RATE, abs=3_000)
    assert warnings == []
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    if extension == "mkv":  # an MP4 without its index at the end cannot be read at all
        assert read(film)[1]


def test_of_several_languages_the_one_taken_is_named(tmp_path: Path) -> None:
    wav, other = write(tmp_path / "a.wav", music(1, 1.0)), write(tmp_path / "b.wav", music(2, 1.0))
    tags = ("-metadata:s:a:0", "language=fra", "-metadata:s:a:1", "language=eng")
    film = encode(
        wav, tmp_path / "film.mka", "-i", str(other), "-map", "0", "-map", "1", "-c:a", "flac", *tags
    )
    samples, warnings = read(film)
    np.testing.assert_allclose(samples, music(1, 1.0), atol=2**-15)
    assert warnings == ["contains 2 audio streams: only the first was read (its tag says language fra)"]


@pytest.mark.parametrize("length", [2_100, 40_000, 150_000])
def test_long_tags_do_not_hide_the_samples(tmp_path: Path, length: int) -> None:
    title = b"\x00" + b"lorem ipsum " * (length // 12)
    (tmp_path / "song.mp3").write_bytes(id3((b"TIT2", title), (b"TCOP", title)) + mp3(tmp_path))
    samples, warnings = read(tmp_path / "song.mp3")
    assert (len(samples), warnings) == (RATE, [])
