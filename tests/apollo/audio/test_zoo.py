"""Containers and codings: each is restored to the samples of an independent decode, or refused with a reason.

What keeps every sample is compared with the recording itself; the rest with the reader that was not used:
what libsndfile reads with ffmpeg's decode, MP3 with libsndfile's. Codings that one of them alone knows are
compared with that one, called plainly.
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
READ_BY_LIBSNDFILE: dict[str, Make] = {  # and compared with ffmpeg
    "u8.wav": _sound(subtype="PCM_U8"),
    "ulaw.wav": _sound(subtype="ULAW"),
    "alaw.au": _sound(subtype="ALAW", format="AU"),
    "ms-adpcm.wav": _sound(subtype="MS_ADPCM"),
    "ima-adpcm.wav": _sound(subtype="IMA_ADPCM"),
    "ima.aiff": _sound(subtype="IMA_ADPCM", format="AIFF"),
    "gsm.wav": _mono(subtype="GSM610"),
    "g721.au": _mono(subtype="G721_32", format="AU"),
}
ROUNDED = {  # how far the two decoders may differ
    "ms-adpcm.wav": 0.02,  # one rounds predictions down, the other to 0; it adds up until the end of a block
    "ima.aiff": 2**-8,  # each packet begins with 9 bits of a sample; ffmpeg keeps the one before, if near
    "g721.au": 0.01,  # G.726 of other rates in one decoder, the reference code of 1988 in the other
}
LONGER = {  # how many samples one decoder may give more at the end
    "gsm.wav": 320,  # libsndfile: a block
    "vorbis.ogg": 128,  # ffmpeg does not cut the end of a stream of one page
}
ONLY_LIBSNDFILE: dict[str, Make] = {
    "dwvw.aiff": _mono(subtype="DWVW_16", format="AIFF"),
    "nms.wav": _mono(subtype="NMS_ADPCM_32"),
}
READ_BY_FFMPEG: dict[str, Make] = {  # and compared with libsndfile
    "mp3.mp3": _ffmpeg("-b:a", "128k"),
    "mp3-variable.mp3": _ffmpeg("-q:a", "4"),
    "vorbis.ogg": _ffmpeg("-c:a", "libvorbis", "-q:a", "4"),
    "mp3-in.wav": _ffmpeg("-c:a", "libmp3lame", "-b:a", "128k"),
}
BY_FFMPEG: dict[str, Make] = {
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


def _compare(
    samples: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = 1e-6, longer: int = 0
) -> None:
    assert samples.shape[1] == expected.shape[1]
    assert abs(len(samples) - len(expected)) <= longer
    length = min(len(samples), len(expected))
    np.testing.assert_allclose(samples[:length], expected[:length], atol=tolerance)


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


def _decode_with_libsndfile(song: Path) -> NDArray[np.float32]:
    with soundfile.SoundFile(song) as sound:
        sound.seekable = lambda: False  # it seeks after every read, which some codings cannot
        samples: NDArray[np.float32] = sound.read(sound.frames, dtype="float32", always_2d=True)
        return samples


def _decode_with_ffmpeg(song: Path, folder: Path) -> NDArray[np.float32]:
    decoded = encode(song, folder / "decoded.wav", *RESAMPLED)
    return soundfile.read(decoded, dtype="float32", always_2d=True)[0]


@pytest.mark.parametrize("name", READ_BY_LIBSNDFILE)
def test_what_libsndfile_reads_is_restored_to_what_ffmpeg_decodes(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    song = _make(tmp_path, name, READ_BY_LIBSNDFILE[name])
    outcome = one(generator, song)
    expected = _decode_with_ffmpeg(song, tmp_path / "in")
    _compare(read(outcome), expected, ROUNDED.get(name, 1e-6), LONGER.get(name, 0))
    assert outcome.warnings == []


@pytest.mark.parametrize("name", READ_BY_FFMPEG)
def test_what_ffmpeg_reads_is_restored_to_what_libsndfile_decodes(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    song = _make(tmp_path, name, READ_BY_FFMPEG[name])
    outcome = one(generator, song)
    _compare(read(outcome), _decode_with_libsndfile(song), 1e-4, LONGER.get(name, 0))
    assert outcome.warnings == []


@pytest.mark.parametrize("name", ONLY_LIBSNDFILE)
def test_codings_of_libsndfile_alone_are_restored_to_what_it_decodes_at_once(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    song = _make(tmp_path, name, ONLY_LIBSNDFILE[name])
    outcome = one(generator, song)
    _compare(read(outcome), _decode_with_libsndfile(song))
    assert outcome.warnings == []


@pytest.mark.parametrize("name", BY_FFMPEG)
def test_lossy_files_are_restored_to_what_ffmpeg_decodes_at_once(
    generator: Generator, tmp_path: Path, name: str
) -> None:
    song = _make(tmp_path, name, BY_FFMPEG[name])
    outcome = one(generator, song)
    _compare(read(outcome), _decode_with_ffmpeg(song, tmp_path / "in"), 1e-5)
    assert outcome.warnings == []


def test_a_wav_that_no_reader_understands_is_refused_with_the_reason(
    generator: Generator, tmp_path: Path
) -> None:
    song = _make(tmp_path, "odd-chunk.wav", _edited(_odd_chunk))
    outcome = one(generator, song)
    assert (outcome.status, outcome.reason) == ("failed", "no audio that libsndfile or ffmpeg can read")
