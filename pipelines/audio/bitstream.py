"""Decode the bitstreams of a shard, aligned with the excerpt that was encoded.

libsndfile reads MP3, Opus, Vorbis and FLAC in this process; a process of ffmpeg reads AAC.

Shape legend: samples are [frames, channels], 44,100 Hz.
"""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

from apollo.audio import ffmpeg as ffmpeg_process
from apollo.audio.ffmpeg import FfmpegError
from apollo.audio.rejects import RejectError, RejectKind
from pipelines.schema import CHANNELS, SAMPLE_RATE

_LONGEST_EXTRA = 1_152  # tiny inputs come back up to a frame longer: LAME's tag cannot hold all their padding
_LOWEST_RATE = 8_000  # Hz: MP3 has none below
# By format: samples decoded before a piece. At 32 kbps an MP3 frame may need the bits of 8 frames before it
# (511 bytes, of 68 a frame), and the overlap of one more.
_SEEKABLE = {"FLAC": 0, "MP3": 12 * 1_152}
_DECODE_SECONDS = 60.0  # for one excerpt


_MEDIA_TYPES = {b"OggS": "audio/ogg", b"fLaC": "audio/flac"}


class CodecError(RejectError):
    """A bitstream is damaged, misaligned, or of the wrong length."""

    kind = RejectKind.DAMAGED


def media_type(stream: bytes) -> str:
    """Return the media type of a bitstream for pages."""
    if stream[4:8] == b"ftyp":
        return "audio/mp4"
    return _MEDIA_TYPES.get(stream[:4], "audio/mpeg")


def decode(stream: bytes, *, frames: int, piece: slice | None = None) -> NDArray[np.float32]:
    """Decode a bitstream or FLAC of a shard at 44.1 kHz, aligned with the encoded excerpt and as long.

    Args:
        stream: The whole file.
        frames: Length of the encoded excerpt.
        piece: Range of samples to return, the same as of the whole; FLAC and MP3 at 44.1 kHz are not decoded
            far beyond it.

    Returns:
        Samples [frames, channels], or of the piece.

    Raises:
        CodecError: the file is damaged, or shorter or longer than it must be.
    """
    if piece == slice(0, frames):
        piece = None  # the whole, which is decoded to its end and checked there
    if stream[4:8] == b"ftyp":
        return _decode_mp4(stream, frames)[piece or slice(None)]
    try:
        with soundfile.SoundFile(io.BytesIO(stream)) as file:
            rate, found = file.samplerate, file.frames
            most = frames * rate // SAMPLE_RATE + _LONGEST_EXTRA + 2
            if found > most or rate < _LOWEST_RATE or file.channels > CHANNELS:  # a few bytes may hold hours
                raise CodecError(
                    f"decodes to {found} samples of {file.channels} channels at {rate} Hz, {frames} expected"
                )
            if piece is not None and rate == SAMPLE_RATE and file.format in _SEEKABLE and frames <= found:
                return _read_piece(file, piece)
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise CodecError(f"cannot be decoded: {error.error_string}", RejectKind.UNDECODABLE) from error
    if rate != SAMPLE_RATE:
        import soxr

        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if not frames <= len(samples) < frames + _LONGEST_EXTRA * SAMPLE_RATE / rate + 2:
        raise CodecError(f"decodes to {len(samples)} samples, {frames} expected")
    return np.asarray(samples[:frames][piece or slice(None)], np.float32)


def _read_piece(file: soundfile.SoundFile, piece: slice) -> NDArray[np.float32]:
    first = max(piece.start - _SEEKABLE[file.format], 0)
    file.seek(first)
    samples: NDArray[np.float32] = file.read(piece.stop - first, dtype="float32", always_2d=True)
    if len(samples) < piece.stop - first:
        raise CodecError(f"ends {piece.stop - first - len(samples)} samples before the end of its piece")
    return samples[piece.start - first :]


def _decode_mp4(stream: bytes, frames: int) -> NDArray[np.float32]:
    limit = f"{(frames + _LONGEST_EXTRA) / SAMPLE_RATE:.6f}"  # seconds: a few bytes may hold hours
    command = [ffmpeg_process.find_ffmpeg(), "-hide_banner", "-loglevel", "error"]
    command += ["-format_whitelist", "mov", "-protocol_whitelist", "pipe", "-i", "pipe:0", "-t", limit]
    command += ["-map", "0:a:0", "-ac", str(CHANNELS), "-ar", str(SAMPLE_RATE), "-f", "f32le", "pipe:1"]
    try:
        output = ffmpeg_process.run(command, timeout_seconds=_DECODE_SECONDS, stdin=stream)
    except FfmpegError as error:
        raise CodecError(f"cannot be decoded: {error}", RejectKind.UNDECODABLE) from error
    samples = np.frombuffer(output, np.float32).reshape(-1, CHANNELS)
    if not len(samples):
        raise CodecError("cannot be decoded: it has no audio", RejectKind.UNDECODABLE)
    if len(samples) < frames:
        raise CodecError(f"decodes to {len(samples)} samples, {frames} expected")
    return samples[:frames]
