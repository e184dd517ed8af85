"""Codec simulation: degrade an excerpt in every configured way, verify each bitstream and measure its level.

Shape legend: samples are [frames, channels], 44,100 Hz.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from apollo.audio import ffmpeg as ffmpeg_process
from apollo.audio import mp3
from pipelines.audio.bitstream import CodecError, decode
from pipelines.audio.codec_gain import gain_spectrum, measure_gain, measure_level
from pipelines.audio.degradations import CODECS, Step, column, parse
from pipelines.audio.ffmpeg_encoder import OPUS_RATE, FfmpegEncoder, check_encoders
from pipelines.audio.filters import apply_filter
from pipelines.audio.payload import measure_bitrate
from pipelines.schema import SAMPLE_RATE

__all__ = ["CodecConfig", "CodecError", "Encoded", "Encoder", "decode"]

_HALF_RATE = SAMPLE_RATE // 2
_MP3_FRAME = 1_152  # samples: what tiny inputs may be longer, since LAME's tag cannot hold all their padding
_Steps = tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Configuration of the degradations.

    Args:
        bitrates_bps: Requested MP3 bitrates, in bits per second, where `degradations` names none. MPEG-1 has
            none below 32,000: at 44.1 kHz LAME encodes 24,000 at 32,000, and the shard records that.
        degradations: Their names: mp3_64000, mp3_v5, aac_64000, opus_48000, vorbis_64000, lowpass_8000,
            resample_22050, clip_6, bits_8, chains such as mp3_64000>aac_96000 (docs/data.md).
        sample_rate: 44100 keeps that rate for all. `auto` encodes MP3 bitrates below 48,000 at 22.05 kHz, as
            streaming services do; only then is 24,000 really 24,000.
        quality: LAME's algorithm quality, 0 (best) to 9 (fastest).
        ffmpeg: Executable on every node; unset uses the bundled one.
        timeout_seconds: Limit for encoding one excerpt.
    """

    bitrates_bps: tuple[int, ...] = (24_000, 32_000, 48_000, 64_000, 96_000, 128_000)
    degradations: tuple[str, ...] = ()
    sample_rate: Literal[44100, "auto"] = 44100
    quality: int = 5
    ffmpeg: str | None = None
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        _check_names(self.degradations) if self.degradations else _check_bitrates(self.bitrates_bps)
        if not 0 <= self.quality <= 9:
            raise ValueError(
                f"codec.quality is {self.quality}: LAME's range is 0 (best) to 9 (fastest), its default 5"
            )
        if self.timeout_seconds <= 0:
            raise ValueError(f"codec.timeout_seconds is {self.timeout_seconds}: it must be above 0")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the degradations, which are columns of the shards."""
        return tuple(map(column, self.degradations)) or tuple(f"mp3_{rate}" for rate in self.bitrates_bps)

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the bytes, as plain values; one form for the same degradations."""
        constant = [name.removeprefix("mp3_") for name in self.columns if name.startswith("mp3_")]
        plain = len(constant) == len(self.columns) and all(map(str.isdecimal, constant))
        named = (
            {"bitrates_bps": [int(rate) for rate in constant]} if plain else {"degradations": self.columns}
        )
        return {**named, "sample_rate": self.sample_rate, "quality": self.quality}

    def encoded_rate(self, step: Step) -> int:
        """Return the sample rate, in Hz, that a codec encodes at."""
        if step.kind == "opus":
            return OPUS_RATE
        low = self.sample_rate == "auto" and step.kind == "mp3" and (step.bitrate_bps or SAMPLE_RATE) < 48_000
        return _HALF_RATE if low and not step.variable else SAMPLE_RATE

    def check_available(self) -> None:
        """Check that ffmpeg has the encoders of all degradations.

        Raises:
            ValueError: it has not.
            FfmpegMissingError: there is no ffmpeg.
        """
        steps = [step for name in self.columns for step in parse(name)]
        check_encoders(ffmpeg_process.find_ffmpeg(self.ffmpeg), steps)


def _check_names(names: tuple[str, ...]) -> None:
    if len(set(map(column, names))) < len(names):
        raise ValueError(f"codec.degradations is {list(names)}: each may be named once")
    try:
        for name in names:
            parse(name)
    except ValueError as error:
        raise ValueError(f"codec.degradations: {error}") from error


def _check_bitrates(bitrates_bps: tuple[int, ...]) -> None:
    wrong = [rate for rate in bitrates_bps if not 8_000 <= rate <= 320_000]
    if wrong or not bitrates_bps or len(set(bitrates_bps)) < len(bitrates_bps):
        raise ValueError(
            f"codec.bitrates_bps is {list(bitrates_bps)}: use one or more different bitrates of "
            "8000 to 320000 bits per second (24 kbps is 24000)"
        )


@dataclass(frozen=True)
class Encoded:
    """A bitstream and its measurements.

    Args:
        stream: The whole file.
        gain: Level of the decoded signal over the clean one's, linear, measured where the codec kept it.
        bitrate_bps: The real bitrate, of the last codec; None where the last step is none.
    """

    stream: bytes
    gain: float
    bitrate_bps: int | None


class Encoder:
    """Degrades excerpts in all configured ways.

    First codecs of all degradations are encoded by one process. In a chain, every further step takes what
    the ones before give.

    Raises:
        ValueError: ffmpeg has no encoder for a degradation.
        FfmpegMissingError: there is no ffmpeg.
    """

    def __init__(self, config: CodecConfig) -> None:
        self._config = config
        self._chains = {name: parse(name) for name in config.columns}
        first = {steps[0]: None for steps in self._chains.values() if steps[0].kind in CODECS}
        later = {step: None for steps in self._chains.values() for step in steps[1:] if step.kind in CODECS}
        program = ffmpeg_process.find_ffmpeg(config.ffmpeg)
        self._first = tuple(first)
        self._first_encoder = self._make(program, self._first) if first else None
        self._encoders = {step: self._make(program, (step,)) for step in later}

    def _make(self, program: str, steps: _Steps) -> FfmpegEncoder:
        return FfmpegEncoder(
            program,
            steps,
            [self._config.encoded_rate(step) for step in steps],
            quality=self._config.quality,
            timeout_seconds=self._config.timeout_seconds,
        )

    def encode(self, clean: NDArray[np.int16]) -> Mapping[str, Encoded]:
        """Degrade samples [frames, channels] once per degradation; the keys are the degradations' names.

        Raises:
            FfmpegError: the encoder failed or took too long.
            CodecError: a bitstream is damaged, has no gapless tag, or a wrong length.
        """
        streams: dict[_Steps, bytes] = {}
        if self._first_encoder is not None:
            first = self._first_encoder.encode(clean)
            streams = {(step,): stream for step, stream in zip(self._first, first, strict=True)}
        reference = gain_spectrum(clean.astype(np.float32) / np.float32(32_768))
        return {name: self._finish(name, clean, streams, reference) for name in self._chains}

    def _finish(
        self,
        name: str,
        clean: NDArray[np.int16],
        streams: dict[_Steps, bytes],
        reference: NDArray[np.complex64],
    ) -> Encoded:
        """Apply the steps of a degradation that nothing has applied before; verify and measure the result."""
        steps, samples = self._chains[name], clean
        bitrate_bps: int | None = None
        for number, step in enumerate(steps, 1):
            done = steps[:number]
            if done not in streams:
                streams[done] = self._apply(step, samples)
            if step.kind in CODECS:
                label = name if len(steps) == 1 else f"{name}, {step}"
                bitrate_bps = self._verify(label, step, streams[done], len(clean))
            decoded = decode(streams[done], frames=len(clean))
            if number < len(steps):
                samples = _to_16_bit(decoded)
        measure = measure_gain if [step.kind for step in steps] == ["mp3"] else measure_level
        gain = round(measure(reference, gain_spectrum(decoded)), 4)  # the same on every processor
        return Encoded(streams[steps], gain, bitrate_bps if steps[-1].kind in CODECS else None)

    def _apply(self, step: Step, samples: NDArray[np.int16]) -> bytes:
        if step.kind in CODECS:
            return self._encoders[step].encode(samples)[0]
        filtered = apply_filter(step, samples.astype(np.float32) / np.float32(32_768))
        stream = io.BytesIO()
        soundfile.write(stream, _to_16_bit(filtered), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        return stream.getvalue()

    def _verify(self, name: str, step: Step, stream: bytes, frames: int) -> int:
        """Check that a bitstream is complete; return its real bitrate."""
        try:
            if step.kind != "mp3":
                return measure_bitrate(stream, frames / SAMPLE_RATE)
            headers = mp3.parse(stream)
        except ValueError as error:
            raise CodecError(f"{name}: {error}") from error
        rate = self._config.encoded_rate(step)
        expected = -(-frames * rate // SAMPLE_RATE)
        if headers.samples is None or headers.missing_frames or headers.sample_rate != rate:
            raise CodecError(f"{name}: not a complete stream at {rate} Hz with a gapless tag: {headers}")
        if not expected <= headers.samples < expected + _MP3_FRAME:
            raise CodecError(f"{name}: {headers.samples} samples, {expected} expected")
        return headers.bitrate_bps


def _to_16_bit(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    scaled: NDArray[np.float32] = np.rint(samples * np.float32(32_768)).clip(-32_768, 32_767)
    return scaled.astype(np.int16)
