"""Encode an excerpt with several codecs in one process of ffmpeg.

LAME writes delay and padding into a tag at the start of the file at the end of encoding, and MP4 its index,
so the outputs must be seekable: an MP3 written to a pipe is 1,105 samples late. They are unlinked temporary
files that ffmpeg opens by descriptor, so a killed process leaves no files.

Shape legend: samples are [frames, channels], 44,100 Hz.
"""

import tempfile
from collections.abc import Sequence
from functools import cache
from typing import Any

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from apollo.audio import ffmpeg as ffmpeg_process
from pipelines.audio.degradations import Step
from pipelines.schema import CHANNELS, SAMPLE_RATE

OPUS_RATE = 48_000
_BITEXACT = {"fflags": "+bitexact", "flags:a": "+bitexact"}  # no random serial numbers
_MP4 = {"format": "ipod", "movflags": "+faststart", "movie_timescale": SAMPLE_RATE, **_BITEXACT}
_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {  # ffmpeg's encoder, further arguments
    "mp3": ("libmp3lame", {"format": "mp3", "id3v2_version": 0}),
    "aac": ("aac", _MP4),
    "heaac": ("libfdk_aac", {**_MP4, "profile:a": "aac_he"}),
    "opus": ("libopus", {"format": "ogg", **_BITEXACT}),
    "vorbis": ("libvorbis", {"format": "ogg", **_BITEXACT}),
}


class FfmpegEncoder:
    """One process per excerpt, one output per step.

    Args:
        program: Path of ffmpeg.
        steps: Codecs, different ones.
        rates: Sample rate, in Hz, that each is encoded at.
        quality: LAME's algorithm quality.
        timeout_seconds: Limit for one excerpt.

    Raises:
        ValueError: ffmpeg has no encoder for a step.
    """

    def __init__(
        self,
        program: str,
        steps: Sequence[Step],
        rates: Sequence[int],
        *,
        quality: int,
        timeout_seconds: float,
    ) -> None:
        check_encoders(program, steps)
        self._quality, self._timeout_seconds = quality, timeout_seconds
        self._outputs = [tempfile.TemporaryFile() for _ in steps]  # noqa: SIM115
        self._command = self._build(program, steps, rates)

    def _build(self, program: str, steps: Sequence[Step], rates: Sequence[int]) -> list[str]:
        samples = ffmpeg.input(
            "pipe:0", format="s16le", ar=SAMPLE_RATE, ac=CHANNELS, probesize=32, analyzeduration=0
        )
        # MP3's encoder wants planar samples: converting before the split does it once
        copies = samples.filter("aformat", sample_fmts="s16p").filter_multi_output("asplit", len(steps))
        outputs = []
        for index, (step, rate, file) in enumerate(zip(steps, rates, self._outputs, strict=True)):
            copy = copies[index]
            if rate != SAMPLE_RATE:
                copy = copy.filter("aresample", rate, resampler="soxr")
            outputs.append(copy.output(f"/dev/fd/{file.fileno()}", **self._arguments(step)))
        quiet = ("-hide_banner", "-loglevel", "error", "-filter_complex_threads", "1")
        command: list[str] = (
            ffmpeg.merge_outputs(*outputs).global_args(*quiet).overwrite_output().compile(cmd=program)
        )
        return command

    def _arguments(self, step: Step) -> dict[str, Any]:
        name, further = _ENCODERS[step.kind]
        arguments: dict[str, Any] = {**further, "acodec": name}
        arguments |= {"q:a": step.value} if step.variable else {"audio_bitrate": step.value}
        if step.kind == "mp3":
            arguments["compression_level"] = self._quality
        if step.apart:
            arguments["joint_stereo"] = 0
        return arguments

    def encode(self, samples: NDArray[np.int16]) -> list[bytes]:
        """Encode samples [frames, channels]; return a whole file per step.

        Raises:
            FfmpegError: the encoder failed or took too long.
        """
        for file in self._outputs:
            file.truncate(0)  # an ffmpeg that fails silently must not leave the excerpt before
        ffmpeg_process.run(
            self._command,
            timeout_seconds=self._timeout_seconds,
            stdin=np.ascontiguousarray(samples, dtype="<i2").tobytes(),
            pass_fds=[file.fileno() for file in self._outputs],
        )
        streams = []
        for file in self._outputs:
            file.seek(0)
            streams.append(file.read())
        return streams


def check_encoders(program: str, steps: Sequence[Step]) -> None:
    """Check that ffmpeg has the encoders of codecs other than MP3, which every build here has.

    Raises:
        ValueError: it has not; the message names the degradation and the encoder.
        FfmpegError: ffmpeg cannot list its encoders.
    """
    for step in steps:
        name = _ENCODERS[step.kind][0] if step.kind in _ENCODERS else None
        if name not in (None, "libmp3lame") and name not in _list_encoders(program):
            raise ValueError(
                f"{step} needs ffmpeg's encoder {name}, which {program} does not have: leave it out, or pass "
                "an ffmpeg that has it (preprocess: --codec.ffmpeg)"
            )


@cache
def _list_encoders(program: str) -> frozenset[str]:
    listed = ffmpeg_process.run([program, "-hide_banner", "-encoders"], timeout_seconds=30).decode()
    return frozenset(words[1] for line in listed.splitlines() if len(words := line.split()) > 1)
