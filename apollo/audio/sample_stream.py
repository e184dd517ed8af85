"""One ffmpeg process that decodes a file, or a part of it, to a stream of samples."""

import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from apollo.audio import child_processes
from apollo.audio.ffmpeg import FfmpegError, Messages
from apollo.audio.rejects import AudioError, RejectKind

STALL_TIMEOUT_SECONDS = 60.0
SAMPLE_BYTES = 4
_FEED_FRAMES = 1 << 14


class SampleStream:
    """An ffmpeg process that writes WAV to a pipe.

    Args:
        command: From `decode_command`.
        feed: A file of libsndfile whose samples are written to the process's input, and which is then closed.

    Raises:
        AudioError: the file cannot be decoded.
        FfmpegError: ffmpeg stalled or was killed.
    """

    def __init__(self, command: list[str], feed: Any = None) -> None:
        self._stalled = False
        self._process = child_processes.start(
            command,
            stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._read_stderr = _drain(self._process)
        self._frames = 0
        if feed is not None:
            threading.Thread(target=_feed, args=(feed, self._process.stdin), daemon=True).start()
        try:
            self.channels = self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the process and close its pipes; idempotent."""
        self._process.kill()
        child_processes.finish(self._process)
        for stream in filter(None, (self._process.stdout, self._process.stderr)):
            stream.close()

    def messages(self) -> Messages:
        """Return what ffmpeg reported, after the last block."""
        return Messages.parse(self._read_stderr())

    def read(self, frames: int) -> bytes:
        """Return up to `frames` frames; empty at the end."""
        width = self.channels * SAMPLE_BYTES
        block = self._read(frames * width)
        block = block[: len(block) // width * width]
        self._frames += len(block) // width
        return block

    def _read(self, size: int) -> bytes:
        stream = self._process.stdout
        if stream is None or stream.closed:
            return b""
        watchdog = threading.Timer(STALL_TIMEOUT_SECONDS, self._kill_stalled)
        try:
            watchdog.start()  # here: an interrupt leaves no timer, which the interpreter would wait for
            return stream.read(size)
        finally:
            watchdog.cancel()

    def _kill_stalled(self) -> None:
        self._stalled = True
        self._process.kill()

    def check_end(self, *, failed: bool) -> None:
        """Check how the process ended, after its last block.

        Args:
            failed: Whether an exit code other than 0 is an error.

        Raises:
            AudioError: the file cannot be decoded.
            FfmpegError: ffmpeg stalled or was killed.
        """
        try:
            code = self._process.wait(STALL_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise FfmpegError(f"ffmpeg did not exit within {STALL_TIMEOUT_SECONDS:g} s") from error
        if self._stalled:
            raise FfmpegError(
                f"ffmpeg timed out after {STALL_TIMEOUT_SECONDS:g} s without output and was killed"
            )
        if code < 0:
            raise FfmpegError(f"ffmpeg was killed by signal {-code}")
        if code and failed:
            message = self.messages().summarize() or "no message"
            raise AudioError(f"cannot be decoded: {message}", RejectKind.UNDECODABLE)

    def _read_header(self) -> int:
        """Read the WAV header and return its channel count."""
        channels = 0
        self._read(12)
        while True:
            chunk = self._read(8)
            if len(chunk) < 8:
                self.check_end(failed=True)
                raise AudioError("the file contains no samples", RejectKind.EMPTY)
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                return channels
            content = self._read(size)
            if name == b"fmt ":
                channels = struct.unpack_from("<H", content, 2)[0]


def decode_command(
    program: str, source: list[str], sample_rate: int, stereo: str | None, strict: bool, stream: int = 0
) -> list[str]:
    """Return the command that decodes one audio stream to 32-bit float WAV on its output."""
    careful = ["-err_detect", "explode", "-xerror"] if strict else []
    filters = [f"aresample={sample_rate}:resampler=soxr:precision=28"]
    if stereo == "mono":  # ffmpeg's own conversion to stereo attenuates mono by 3 dB
        filters.insert(0, "channelmap=map=0|0:channel_layout=stereo")
    elif stereo is not None:
        filters.insert(0, "aformat=channel_layouts=stereo")
    graph = ["-filter_complex", f"[0:a:{stream}]{','.join(filters)}[out]", "-map", "[out]"]
    bare = ["-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact"]  # tags are not samples
    output = ["-f", "wav", "-acodec", "pcm_f32le", "-vn", "pipe:1"]
    quiet = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"]
    return [program, *quiet, *careful, *source, *graph, *bare, *output]


def _drain(process: "subprocess.Popen[bytes]") -> Callable[[], bytes]:
    """Read a process's error output in a thread; the returned function waits for all of it."""
    output: list[bytes] = []

    def read(stream: IO[bytes]) -> None:
        with suppress(ValueError):  # closed by __exit__
            output.append(stream.read())

    thread = threading.Thread(target=read, args=(process.stderr,), daemon=True)
    thread.start()

    def wait() -> bytes:
        thread.join(STALL_TIMEOUT_SECONDS)
        return b"".join(output)

    return wait


def _feed(sound: Any, stdin: IO[bytes]) -> None:
    """Write all samples of a file to a process, until either ends; damage is the end."""
    import soundfile

    with sound, suppress(soundfile.LibsndfileError, OSError), stdin:
        while len(block := sound.read(_FEED_FRAMES, dtype="float32", always_2d=True)):
            stdin.write(block.tobytes())
