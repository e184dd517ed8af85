"""Containers and codings: each is restored to the samples of an independent decode, or refused with a reason.

What keeps every sample is compared with the recording itself; the rest with the reader that was not used, or
with ffmpeg called plainly.
"""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from apollo.audio.ffmpeg import find_ffmpeg
from apollo.model.generator import Generator
from tests.support.datasets import encode, music, write
from tests.support.identity_generator import one, read

RATE, SECONDS = 44_100, 0.7
Make = Callable[[Path, Path], object]


def _sound(**options: object) -> Make:
    return lambda wav, path: soundfile.write(path, soundfile.read(wav)[0], RATE, **options)


def _mono(**options: object) -> Make:
    return lambda wav, path: soundfile.write(path, soundfile.read(wav)[0][:, 0], RATE, **options)


def _ffmpeg(*options: str) -> Make:
    return lambda wav, path: encode(wav, path, *options)


def _piped(*options: str) -> Make:
    def make(wav: Path, path: Path) -> None:
        command = [find_ffmpeg(), "-loglevel", "error", "-i", str(wav), *options, "pipe:1"]
        path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)

    return make


def _edited(edit: Callable[[bytearray, int], bytes | bytearray]) -> Make:
    """Change a WAV's bytes; the edit gets the position of its data chunk."""

    def make(wav: Path, path: Path) -> None:
        content = bytearray(wav.read_bytes())
        path.write_bytes(edit(content, content.find(b"data")))

    return make


def _without_sizes(content: bytearray, at: int) -> bytearray:
    content[4:8] = content[at + 4 : at + 8] = bytes(4)
    return content


def _wrong_riff_size(content: bytearray, _at: int) -> bytearray:
    content[4:8] = struct.pack("<I", 36)
    return content


def _bw64(content: bytearray, at: int) -> bytes:
    samples = bytes(content[at + 8 :])
    sizes = struct.pack("<IQQQI", 28, len(content) + 28, len(samples), len(samples) // 4, 0)
    chunks = b"ds64" + sizes + bytes(content[12:at]) + b"data\xff\xff\xff\xff"
    return b"BW64\xff\xff\xff\xffWAVE" + chunks + samples


def _odd_chunk(content: bytearray, _at: int) -> bytes:
    return bytes(content[:36]) + b"note" + struct.pack("<I", 5) + b"hello" + bytes(content[36:])


EXACT: dict[str, Make] = {
    "double.wav": _sound(subtype="DOUBLE"),
    "extensible.wav": _sound(subtype="PCM_24", format="WAVEX"),
    "rf64.wav": _sound(subtype="PCM_16", format="RF64"),
    "w64.w64": _sound(subtype="PCM_16", format="W64"),
    "double.aiff": _sound(subtype="DOUBLE", format="AIFF"),
    "alac.caf": _sound(subtype="ALAC_16", format="CAF"),
    "sowt.aifc": _ffmpeg("-c:a", "pcm_s16le", "-f", "aiff"),
    "flac.flac": _ffmpeg("-c:a", "flac"),
    "flac32.flac": _ffmpeg("-c:a", "flac", "-sample_fmt", "s32", "-strict", "experimental"),
    "flac-in.ogg": _ffmpeg("-c:a", "flac"),
    "flac-in.mka": _ffmpeg("-c:a", "flac"),
    "alac.m4a": _ffmpeg("-c:a", "alac"),
    "tta.tta": _ffmpeg(),
    "wavpack.wv": _ffmpeg(),
    "pcm.avi": _ffmpeg("-c:a", "pcm_s16le"),
    "pcm.mov": _ffmpeg("-c:a", "pcm_s16le"),
    "voc.voc": _ffmpeg("-c:a", "pcm_s16le"),
    "piped.wav": _piped("-f", "wav"),
    "piped-float.wav": _piped("-f", "wav", "-c:a", "pcm_f32le"),
    "piped.aiff": _piped("-f", "aiff"),
    "piped.caf": _piped("-f", "caf"),
    "piped.au": _piped("-f", "au"),
    "piped.flac": _piped("-f", "flac"),
    "piped.w64": _piped("-f", "w64"),
    "piped.mka": _piped("-f", "matroska", "-c:a", "flac"),
    "bw64.wav": _edited(_bw64),
    "sizes-0.wav": _edited(_without_sizes),
    "riff-size-wrong.wav": _edited(_wrong_riff_size),
}
BY_LIBSNDFILE: dict[str, Make] = {
    "u8.wav": _sound(subtype="PCM_U8"),
    "ulaw.wav": _sound(subtype="ULAW"),
    "alaw.au": _sound(subtype="ALAW", format="AU"),
    "ms-adpcm.wav": _sound(subtype="MS_ADPCM"),
    "ima-adpcm.wav": _sound(subtype="IMA_ADPCM"),
    "ima.aiff": _sound(subtype="IMA_ADPCM", format="AIFF"),
    "gsm.wav": _mono(subtype="GSM610"),
    "g721.au": _mono(subtype="G721_32", format="AU"),
    "dwvw.aiff": _mono(subtype="DWVW_16", format="AIFF"),
    "nms.wav": _mono(subtype="NMS_ADPCM_32"),
}
BY_FFMPEG: dict[str, Make] = {
    "mp3-in.wav": _ffmpeg("-c:a", "libmp3lame", "-b:a", "128k"),
    "layer2.mp3": _ffmpeg("-c:a", "mp2", "-f", "mp2", "-b:a", "192k"),
    "speech.mp3": _ffmpeg("-ar", "8000", "-ac", "1", "-b:a", "8k"),
    "piped.mp3": _piped("-f", "mp3", "-b:a", "64k"),
    "adts.aac": _ffmpeg("-c:a", "aac", "-b:a", "128k"),
    "aac.m4b": _ffmpeg("-c:a", "aac", "-b:a", "128k", "-f", "ipod"),
    "wma.wma": _ffmpeg("-c:a", "wmav2", "-b:a", "128k"),
    "ac3.ac3": _ffmpeg("-c:a", "ac3", "-b:a", "192k"),
    "aac.ts": _ffmpeg("-c:a", "aac", "-f", "mpegts"),
    "aac.flv": _ffmpeg("-c:a", "aac"),
}
RESAMPLED = ("-af", f"aresample={RATE}:resampler=soxr:precision=28", "-c:a", "pcm_f32le")


def _make(folder: Path, name: str, make: Make) -> Path:
    wav = write(folder / "in" / "in.wav", music(1, SECONDS))
    make(wav, folder / name)
    return folder / name


def _compare(samples: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = 1e-6) -> None:
    assert samples.shape == expected.shape
    np.testing.assert_allclose(samples, expected, atol=tolerance)


@pytest.mark.parametrize("name", EXACT)
def test_what_keeps_every_sample_is_restored_to_the_recording(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    song = _make(tmp_path, name, EXACT[name])
    expected, _ = soundfile.read(tmp_path / "in" / "in.wav", dtype="float32")
    outcome = one(generator, song)
    _compare(read(outcome), expected)
    unfinished = name in ("sizes-0.wav", "piped.aiff")
    assert [text.partition(":")[0] for text in outcome.warnings] == ["unfinished"] * unfinished


@pytest.mark.parametrize("name", BY_LIBSNDFILE)
def test_other_codings_of_libsndfile_are_restored_to_what_it_decodes(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    song = _make(tmp_path, name, BY_LIBSNDFILE[name])
    with soundfile.SoundFile(song) as sound:
        sound.seekable = lambda: False  # it seeks after every read, which some codings cannot
        expected = sound.read(sound.frames, dtype="float32", always_2d=True)
    outcome = one(generator, song)
    _compare(read(outcome), expected)
    assert outcome.warnings == []


@pytest.mark.parametrize("name", BY_FFMPEG)
def test_lossy_files_are_restored_to_what_ffmpeg_decodes_at_once(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    song = _make(tmp_path, name, BY_FFMPEG[name])
    expected, _ = soundfile.read(
        encode(song, tmp_path / "in" / "decoded.wav", *RESAMPLED), dtype="float32", always_2d=True
    )
    outcome = one(generator, song)
    _compare(read(outcome), expected, 1e-5)
    assert outcome.warnings == []


def test_a_wav_that_no_reader_understands_is_refused_with_the_reason(
    generator: Generator, tmp_path: Path
) -> None:
    song = _make(tmp_path, "odd-chunk.wav", _edited(_odd_chunk))
    outcome = one(generator, song)
    assert (outcome.status, outcome.reason) == ("failed", "no audio that libsndfile or ffmpeg can read")
