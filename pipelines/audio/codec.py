"""Codec simulation: encode an excerpt at every bitrate, verify each bitstream and measure its level.

Shape legend: samples are [frames, channels], 44,100 Hz.

LAME writes delay and padding into a tag at the start of the file at the end of encoding, so the encoder's
outputs must be seekable: an MP3 written to a pipe is 1,105 samples late. The outputs are unlinked temporary
files that ffmpeg opens by descriptor, so a killed process leaves no files.
"""

import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from apollo.audio import ffmpeg as ffmpeg_process
from apollo.audio import mp3
from apollo.audio.rejects import RejectError, RejectKind
from pipelines.audio.codec_gain import gain_spectrum, measure_gain
from pipelines.schema import CHANNELS, SAMPLE_RATE

_HALF_RATE = SAMPLE_RATE // 2
_LONGEST_EXTRA = 1_152  # tiny inputs come back up to a frame longer: LAME's tag cannot hold all their padding
_LOWEST_RATE = 8_000  # Hz: MP3 has none below
# By format: samples decoded before a piece. At 32 kbps an MP3 frame may need the bits of 8 frames before it
# (511 bytes, of 68 a frame), and the overlap of one more.
_SEEKABLE = {"FLAC": 0, "MP3": 12 * 1_152}


class CodecError(RejectError):
    """A bitstream is damaged, misaligned, or of the wrong length."""

    kind = RejectKind.DAMAGED


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Configuration of the degradations.

    Args:
        bitrates_bps: Requested MP3 bitrates, in bits per second. MPEG-1 has none below 32,000: at 44.1 kHz
            LAME encodes 24,000 at 32,000, and the shard records that.
        sample_rate: 44100 keeps that rate for all. `auto` encodes bitrates below 48,000 at 22.05 kHz, as
            streaming services do; only then is 24,000 really 24,000.
        quality: LAME's algorithm quality, 0 (best) to 9 (fastest).
        ffmpeg: Executable on every node; unset uses the bundled one.
        timeout_seconds: Limit for encoding one excerpt.
    """

    bitrates_bps: tuple[int, ...] = (24_000, 32_000, 48_000, 64_000, 96_000, 128_000)
    sample_rate: Literal[44100, "auto"] = 44100
    quality: int = 5
    ffmpeg: str | None = None
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        wrong = [rate for rate in self.bitrates_bps if not 8_000 <= rate <= 320_000]
        if wrong or not self.bitrates_bps or len(set(self.bitrates_bps)) < len(self.bitrates_bps):
            raise ValueError(
                f"codec.bitrates_bps is {list(self.bitrates_bps)}: use one or more different bitrates of "
                "8000 to 320000 bits per second (24 kbps is 24000)"
            )
        if not 0 <= self.quality <= 9:
            raise ValueError(
                f"codec.quality is {self.quality}: LAME's range is 0 (best) to 9 (fastest), its default 5"
            )
        if self.timeout_seconds <= 0:
            raise ValueError(f"codec.timeout_seconds is {self.timeout_seconds}: it must be above 0")

    @property
    def degradations(self) -> tuple[str, ...]:
        """Names of the degradations, which are columns of the shards."""
        return tuple(f"mp3_{rate}" for rate in self.bitrates_bps)

    def encoded_rate(self, bitrate_bps: int) -> int:
        """Return the sample rate, in Hz, that a bitrate is encoded at."""
        low = self.sample_rate == "auto" and bitrate_bps < 48_000
        return _HALF_RATE if low else SAMPLE_RATE


@dataclass(frozen=True)
class Encoded:
    """A bitstream and its measurements.

    Args:
        stream: The whole file.
        gain: Level of the decoded signal over the clean one's, linear, measured where the codec kept it.
        bitrate_bps: The real bitrate, from the frame headers.
    """

    stream: bytes
    gain: float
    bitrate_bps: int


class Encoder(Protocol):
    """Interface of a codec."""

    def encode(self, clean: NDArray[np.int16]) -> Mapping[str, Encoded]:
        """Encode samples [frames, channels] once per degradation; the keys are the degradations' names."""


class Mp3Encoder:
    """libmp3lame in ffmpeg: one process per excerpt, one output per bitrate."""

    def __init__(self, config: CodecConfig) -> None:
        self._config = config
        self._outputs = [tempfile.TemporaryFile() for _ in config.bitrates_bps]  # noqa: SIM115
        self._command = self._build(ffmpeg_process.find_ffmpeg(config.ffmpeg))

    def _build(self, program: str) -> list[str]:
        samples = ffmpeg.input(
            "pipe:0", format="s16le", ar=SAMPLE_RATE, ac=CHANNELS, probesize=32, analyzeduration=0
        )
        # the encoder wants planar samples: converting before the split does it once
        copies = samples.filter("aformat", sample_fmts="s16p").filter_multi_output(
            "asplit", len(self._outputs)
        )
        outputs = []
        for index, (bitrate_bps, file) in enumerate(
            zip(self._config.bitrates_bps, self._outputs, strict=True)
        ):
            copy, rate = copies[index], self._config.encoded_rate(bitrate_bps)
            if rate != SAMPLE_RATE:
                copy = copy.filter("aresample", rate, resampler="soxr")
            outputs.append(
                copy.output(
                    f"/dev/fd/{file.fileno()}",
                    format="mp3",
                    acodec="libmp3lame",
                    audio_bitrate=bitrate_bps,
                    compression_level=self._config.quality,
                    id3v2_version=0,
                )
            )
        quiet = ("-hide_banner", "-loglevel", "error", "-filter_complex_threads", "1")
        command: list[str] = (
            ffmpeg.merge_outputs(*outputs).global_args(*quiet).overwrite_output().compile(cmd=program)
        )
        return command

    def encode(self, clean: NDArray[np.int16]) -> dict[str, Encoded]:
        """Encode samples [frames, channels] once per bitrate.

        Raises:
            FfmpegError: the encoder failed or took too long.
            CodecError: a bitstream is damaged, has no gapless tag, or a wrong length.
        """
        for file in self._outputs:
            file.truncate(0)  # an ffmpeg that fails silently must not leave the excerpt before
        ffmpeg_process.run(
            self._command,
            timeout_seconds=self._config.timeout_seconds,
            stdin=np.ascontiguousarray(clean, dtype="<i2").tobytes(),
            pass_fds=[file.fileno() for file in self._outputs],
        )
        streams = []
        for file in self._outputs:
            file.seek(0)
            streams.append(file.read())
        reference = gain_spectrum(clean.astype(np.float32) / np.float32(32_768))
        return {
            name: self._verify_and_measure(name, stream, reference, len(clean), bitrate_bps)
            for name, stream, bitrate_bps in zip(
                self._config.degradations, streams, self._config.bitrates_bps, strict=True
            )
        }

    def _verify_and_measure(
        self, name: str, stream: bytes, reference: NDArray[np.complex64], frames: int, bitrate_bps: int
    ) -> Encoded:
        try:
            headers = mp3.parse(stream)
        except ValueError as error:
            raise CodecError(f"{name}: {error}") from error
        rate = self._config.encoded_rate(bitrate_bps)
        expected = -(-frames * rate // SAMPLE_RATE)
        if headers.samples is None or headers.missing_frames or headers.sample_rate != rate:
            raise CodecError(f"{name}: not a complete stream at {rate} Hz with a gapless tag: {headers}")
        if not expected <= headers.samples < expected + _LONGEST_EXTRA:
            raise CodecError(f"{name}: {headers.samples} samples, {expected} expected")
        decoded = decode(stream, frames=frames)
        gain = round(measure_gain(reference, gain_spectrum(decoded)), 4)  # the same on every processor
        return Encoded(stream, gain, headers.bitrate_bps)


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
