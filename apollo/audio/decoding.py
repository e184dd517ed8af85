"""Decode any audio file through ffmpeg, as a stream of samples in bounded memory.

Files are untrusted: ffmpeg may open this one file only, as audio only, and is killed when it stalls. Parts of
a file that differ in sample rate or channels are decoded apart, by a process each. Where ffmpeg decodes
nothing, libsndfile is asked. ffmpeg returns 0 on a truncated file: `find_damage` (apollo.audio.parts) and
`find_missing_end` (apollo.audio.probing) tell what is missing.
"""

import os
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from apollo.audio import child_processes
from apollo.audio.ffmpeg import FfmpegError, Messages, input_arguments
from apollo.audio.parts import Part, find_parts
from apollo.audio.rejects import RejectError, RejectKind
from apollo.audio.soundfiles import needs_libsndfile, open_sound

MAX_SECONDS = 12 * 3600  # small files can decode to arbitrarily much audio
STALL_TIMEOUT_SECONDS = 60.0
SLACK_SECONDS = 0.1  # containers round durations
MAX_CHANNELS = 32  # the largest layouts have 24; every channel costs the same, silent or not
_EXTENSIONS = (
    "3g2 3ga 3gp aac ac3 aif aifc aiff amr ape asf au avi bwf caf dff dsf dts eac3 f4a flac flv m2ts m4a m4b "
    "m4r m4v mka mkv mov mp2 mp3 mp4 mpa mpc mpeg mpg mpga mts oga ogg ogv ogx opus ra rf64 rm shn snd spx "
    "tak ts tta voc vob w64 wav wave webm wma wmv wv"
)
EXTENSIONS = frozenset(_EXTENSIONS.split())
_SAMPLE_BYTES = 4
_FEED_FRAMES = 1 << 14


class AudioError(RejectError):
    """A file cannot be read, or its content contradicts its header."""


class Decoder:
    """Decode a file with ffmpeg; a context manager.

    Args:
        path: The file.
        program: ffmpeg.
        sample_rate: Output rate in Hz; soxr resamples.
        stereo: Channel layout to convert to stereo, mono at unchanged level on both sides. None keeps the
            channels; parts with fewer than the file's largest number get them by copies of mono, or silence.
        strict: Whether damage is an error. Otherwise as much as possible is decoded.

    Attributes:
        channels: Number of channels of the samples.
        messages: What ffmpeg reported; complete after the last block.
    """

    def __init__(
        self, path: str, program: str, *, sample_rate: int, stereo: str | None, strict: bool
    ) -> None:
        self._path, self._program, self._rate = path, program, sample_rate
        self._stereo, self._strict = stereo, strict
        self._frames = 0
        self.channels = 0
        self.messages = Messages()

    def __enter__(self) -> "Decoder":
        try:
            found = find_parts(self._path)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise AudioError(f"cannot be opened: {reason}", RejectKind.UNOPENED) from error
        self._parts = list(found.parts)
        self._whole = found.parts == (Part(0, found.size, found.parts[0].channels),)
        self._process = self._open_first()
        self.channels = self._process.channels
        if self._stereo is None:
            self.channels = max(self.channels, *(part.channels for part in found.parts), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close()

    def read(self, frames: int) -> bytes:
        """Return up to `frames` frames, interleaved float32 in native byte order; empty at the end.

        Raises:
            AudioError: the file cannot be decoded, or is longer than MAX_SECONDS.
            FfmpegError: ffmpeg stalled.
        """
        while not (block := self._process.read(frames)):
            self._process.check_end(failed=self._strict or not self._frames)
            self.messages.add(self._process.messages())
            self._process.close()
            if not self._parts:
                if not self._frames:
                    raise AudioError("the file contains no samples", RejectKind.EMPTY)
                return b""
            self._open_next()
        self._frames += len(block) // (self._process.channels * _SAMPLE_BYTES)
        if self._frames > MAX_SECONDS * self._rate:
            raise AudioError(f"longer than {MAX_SECONDS / 3600:.0f} hours", RejectKind.TOO_LONG)
        return _add_channels(block, self._process.channels, self.channels)

    def _start(self, part: Part, *, strict: bool) -> "_Process":
        layout = self._stereo
        if layout is not None and part.channels:
            layout = "mono" if part.channels == 1 else "stereo"
        source = input_arguments(self._path, None if self._whole else (part.start, part.end))
        return _Process(_command(self._program, source, self._rate, layout, strict))

    def _open_first(self) -> "_Process":
        first = self._parts.pop(0)
        sound = open_sound(self._path, sequentially=True)
        if sound is not None and needs_libsndfile(sound):
            return self._start_with(sound)
        try:
            return self._start(first, strict=self._strict)
        except AudioError:
            if sound is None or self._parts or self._is_damaged(first):
                raise
            return self._start_with(sound)

    def _start_with(self, sound: Any) -> "_Process":
        """Resample what libsndfile decodes."""
        source = ["-f", "f32le", "-ar", str(sound.samplerate), "-ac", str(sound.channels), "-i", "pipe:0"]
        layout = "mono" if self._stereo is not None and sound.channels == 1 else self._stereo
        return _Process(_command(self._program, source, self._rate, layout, self._strict), sound)

    def _is_damaged(self, first: Part) -> bool:
        """Return whether ffmpeg decodes something of a file where damage is no error."""
        if not self._strict:
            return False
        try:
            self._start(first, strict=False).close()
        except AudioError:
            return False
        return True

    def _open_next(self) -> None:
        part = self._parts.pop(0)
        try:
            self._process = self._start(part, strict=self._strict)
        except AudioError as error:
            if self._strict:
                raise
            self.messages.errors.append(f"bytes {part.start} to {part.end}: {error}")


class _Process:
    """One ffmpeg that writes WAV to a pipe."""

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
        """End the process; again and again, too."""
        self._process.kill()
        child_processes.finish(self._process)
        for stream in filter(None, (self._process.stdout, self._process.stderr)):
            stream.close()

    def messages(self) -> Messages:
        """Return what ffmpeg reported, after the last block."""
        return Messages.parse(self._read_stderr())

    def read(self, frames: int) -> bytes:
        """Return up to `frames` frames; empty at the end."""
        width = self.channels * _SAMPLE_BYTES
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


def _command(
    program: str, source: list[str], sample_rate: int, stereo: str | None, strict: bool
) -> list[str]:
    careful = ["-err_detect", "explode", "-xerror"] if strict else []
    filters = [f"aresample={sample_rate}:resampler=soxr:precision=28"]
    if stereo == "mono":  # ffmpeg's own conversion to stereo attenuates mono by 3 dB
        filters.insert(0, "channelmap=map=0|0:channel_layout=stereo")
    elif stereo is not None:
        filters.insert(0, "aformat=channel_layouts=stereo")
    graph = ["-filter_complex", f"[0:a:0]{','.join(filters)}[out]", "-map", "[out]"]
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


def _add_channels(block: bytes, channels: int, wanted: int) -> bytes:
    """Return samples with more channels: copies of mono, or silence beside several."""
    if channels == wanted:
        return block
    import torch

    samples = torch.frombuffer(bytearray(block), dtype=torch.float32).view(-1, channels)
    result = torch.zeros(len(samples), wanted)
    result[:, : wanted if channels == 1 else channels] = samples
    return result.numpy().tobytes()
