"""Encode samples with ffmpeg, which writes the file while they come: ALAC, AAC, Opus, MP3."""

import os
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from apollo.audio import child_processes
from apollo.audio.ffmpeg import find_ffmpeg, summarize_stderr
from apollo.audio.formats import OutputFormat
from apollo.audio.sample_stream import STALL_TIMEOUT_SECONDS

_PIECE_BYTES = 1 << 20
_INPUT_FORMATS = {None: "f32le", 16: "s16le", 24: "s32le"}


class EncodingError(OSError):
    """ffmpeg failed, was killed or stalled: the file is not complete."""


class Encoder:
    """One ffmpeg that encodes samples from a pipe.

    Args:
        path: The file, which is replaced.
        format: How to encode.
        channels: Number of channels, one of `format.layouts`.
        sample_rate: Hz, one of `format.rates`.

    Raises:
        FfmpegMissingError: there is no ffmpeg.
        OSError: it cannot be started.
    """

    def __init__(self, path: Path, format: OutputFormat, channels: int, sample_rate: int) -> None:
        self._stalled = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        command = _command(find_ffmpeg(), path, format, channels, sample_rate)
        self._process = child_processes.start(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._stderr
        )

    def write(self, samples: bytes) -> None:
        """Encode interleaved samples: int16 or int32 by the format's bits, else float32.

        Raises:
            EncodingError: ffmpeg ended.
        """
        assert self._process.stdin is not None  # noqa: S101 - our invariant
        for at in range(0, len(samples), _PIECE_BYTES):
            watchdog = threading.Timer(STALL_TIMEOUT_SECONDS, self._kill_stalled)
            try:
                watchdog.start()  # here: an interrupt leaves no timer, which the interpreter would wait for
                self._process.stdin.write(samples[at : at + _PIECE_BYTES])
            except BrokenPipeError as error:
                self._process.wait()
                raise EncodingError(self._reason()) from error
            finally:
                watchdog.cancel()

    def finish(self) -> None:
        """Complete the file.

        Raises:
            EncodingError: ffmpeg failed.
        """
        assert self._process.stdin is not None  # noqa: S101 - our invariant
        try:
            self._process.stdin.close()
            self._process.wait(STALL_TIMEOUT_SECONDS)
        except BrokenPipeError:
            self._process.wait()
        except subprocess.TimeoutExpired:
            self._kill_stalled()
            self._process.wait()
        if self._process.returncode:
            raise EncodingError(self._reason())

    def close(self) -> None:
        """End the process, whether it is done or not; again and again, too."""
        self._kill()
        child_processes.finish(self._process)
        self._stderr.close()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # what was buffered is not wanted any more
                self._process.stdin.close()

    def _kill_stalled(self) -> None:
        self._stalled = True
        self._kill()

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # a wrapper script's own children too

    def _reason(self) -> str:
        if self._stalled:
            return f"ffmpeg timed out after {STALL_TIMEOUT_SECONDS:g} s and was killed"
        self._stderr.seek(0)
        message = summarize_stderr(self._stderr.read())
        return f"ffmpeg exited with code {self._process.returncode}: {message}"


def _command(program: str, path: Path, format: OutputFormat, channels: int, sample_rate: int) -> list[str]:
    command = [program, "-hide_banner", "-nostats", "-loglevel", "error", "-xerror"]
    layout = format.layouts[channels]
    command += ["-f", _INPUT_FORMATS[format.bits], "-ar", str(sample_rate), "-ch_layout", layout]
    command += ["-i", "pipe:0", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact"]
    command += ["-c:a", format.coding]
    bitrate = format.max_bitrate_bps if format.bitrate_bps is None else format.bitrate_bps * channels
    if bitrate is not None:
        command += ["-b:a", str(bitrate)]
    if format.container == "ipod":  # otherwise lengths are in milliseconds
        command += ["-movie_timescale", str(sample_rate)]
    return [*command, "-f", format.container, "-y", f"file:{path}"]
