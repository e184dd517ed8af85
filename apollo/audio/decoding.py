"""Decode any audio file through ffmpeg, as a stream of samples in bounded memory.

Files are untrusted: ffmpeg may open this one file only, as audio only, and is killed when it stalls. It
returns 0 on a truncated file: `find_damage` checks the formats that store their length.
"""

import mmap
import os
import re
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from apollo.audio import ffmpeg as ffmpeg_process
from apollo.audio import mp3
from apollo.audio.ffmpeg import FfmpegError
from apollo.audio.rejects import RejectError, RejectKind

# formats that libsndfile reads exactly in blocks
BLOCK_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"})
MAX_SECONDS = 12 * 3600  # small files can decode to arbitrarily much audio
STALL_TIMEOUT_SECONDS = 60.0
MIN_SAMPLE_RATE_HZ = 4_000  # at much lower rates, a few bytes become hours at 44.1 kHz
MAX_CHANNELS = 32  # the largest layouts have 24; every channel costs the same, silent or not
_EXTENSIONS = (
    "aac ac3 aif aifc aiff ape au caf flac m4a mka mp2 mp3 mp4 oga ogg opus tta w64 wav wave webm wma wv"
)
EXTENSIONS = frozenset(_EXTENSIONS.split())
# no playlists, which refer to other files, and no images
_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,caf,eac3,flac,matroska,mov,mp3,mpc,mpc8,ogg,tak,tta,wav,w64,wv"
_STREAM = re.compile(rb"Stream #0:\d+.*?: Audio: (\w+).*?, (\d+) Hz, ([^,\n]+)")
_DURATION = re.compile(rb"Duration: (\d+):(\d\d):(\d\d\.\d+)")
_LOSSLESS_CODECS = re.compile(r"pcm_(?!mulaw|alaw)|flac|alac|ape|tta|wavpack|wmalossless|tak|mlp|truehd")
_CHUNK_SIZE = re.compile(r"^\s*(?:data|SSND|Data [Ss]ize)\s*:\s*(\d+)(?: \(should be (\d+)\))?", re.MULTILINE)
_UNKNOWN_SIZE = 0x7FFF_0000  # writers to pipes leave the largest value
_OGG_TAIL = 1 << 16
_SAMPLE_BYTES = 4


class AudioError(RejectError):
    """A file cannot be read, or its content contradicts its header."""


@dataclass(frozen=True)
class AudioInfo:
    """Properties of an audio file, as ffmpeg reports them.

    Args:
        codec: Name in ffmpeg.
        layout: Channel layout, such as `mono` or `5.1(side)`.
        sample_rate: Hz.
        lossy: Whether the codec is lossy.
        seconds: Duration stored in the container, None if there is none.
        guessed_seconds: Duration stored or estimated from the bitrate.
    """

    codec: str
    layout: str
    sample_rate: int
    lossy: bool
    seconds: float | None
    guessed_seconds: float | None


def _input_arguments(path: str) -> list[str]:
    """Build the arguments that open one file as audio, and no other protocol or container."""
    location = f"file:{os.path.abspath(path)}"  # not an option or a URL, whatever its name
    return ["-format_whitelist", _DEMUXERS, "-protocol_whitelist", "file", "-i", location]


def probe(path: str, program: str) -> AudioInfo:
    """Read the properties of a file with ffmpeg.

    Raises:
        AudioError: it contains no audio, or its sample rate is below MIN_SAMPLE_RATE_HZ.
        FfmpegError: ffmpeg timed out.
    """
    command = [program, *_input_arguments(path), "-f", "null", "-t", "0", "-"]
    try:
        result = subprocess.run(  # noqa: S603 - no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=STALL_TIMEOUT_SECONDS,
            check=False,
            preexec_fn=ffmpeg_process.die_with_parent(),
        )
    except subprocess.TimeoutExpired as error:
        raise FfmpegError(
            f"ffmpeg timed out after {STALL_TIMEOUT_SECONDS:g} s of probing the file"
        ) from error
    stream = _STREAM.search(result.stderr)
    if stream is None:
        raise AudioError("no audio that libsndfile or ffmpeg can read", RejectKind.UNDECODABLE)
    codec, layout = stream[1].decode(), stream[3].strip().decode(errors="replace")
    if (rate := int(stream[2])) < MIN_SAMPLE_RATE_HZ:
        raise AudioError(f"sample rate {rate} Hz is below the minimum of {MIN_SAMPLE_RATE_HZ} Hz")
    durations = _DURATION.findall(result.stderr[: stream.start()])  # tags that look like one precede it
    guess = None
    if durations:
        hours, minutes, rest = durations[-1]
        guess = int(hours) * 3600 + int(minutes) * 60 + float(rest)
    known = None if b"Estimating duration from bitrate" in result.stderr else guess
    return AudioInfo(codec, layout, rate, not _LOSSLESS_CODECS.match(codec), known, guess)


class Decoder:
    """Decode a file with ffmpeg; a context manager.

    Args:
        path: The file.
        program: ffmpeg.
        sample_rate: Output rate in Hz; soxr resamples.
        stereo: Channel layout to convert to stereo, mono at unchanged level on both sides. None keeps the
            channels.
        strict: Whether damage is an error. Otherwise as much as possible is decoded.
    """

    def __init__(
        self, path: str, program: str, *, sample_rate: int, stereo: str | None, strict: bool
    ) -> None:
        self._command = _command(path, program, sample_rate, stereo, strict)
        self._strict = strict
        self._rate = sample_rate
        self._frames = 0
        self._stalled = False
        self.channels = 0

    def __enter__(self) -> "Decoder":
        self._process = subprocess.Popen(  # noqa: S603 - no shell
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=ffmpeg_process.die_with_parent(),
        )
        self._read_stderr = _drain(self._process)
        try:
            self.channels = self._read_header()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None  # noqa: S101 - our invariant
            stream.close()

    def read(self, frames: int) -> bytes:
        """Return up to `frames` frames, interleaved float32 in native byte order; empty at the end.

        Raises:
            AudioError: the file cannot be decoded, or is longer than MAX_SECONDS.
            FfmpegError: ffmpeg stalled.
        """
        width = self.channels * _SAMPLE_BYTES
        block = self._read(frames * width)
        block = block[: len(block) // width * width]
        self._frames += len(block) // width
        if self._frames > MAX_SECONDS * self._rate:
            raise AudioError(f"longer than {MAX_SECONDS / 3600:.0f} hours", RejectKind.TOO_LONG)
        if not block:
            self._end()
        return block

    def error_message(self) -> str | None:
        """Return what ffmpeg reported about damage, after the last block."""
        stderr = self._read_stderr()
        return ffmpeg_process.summarize_stderr(stderr) if stderr else None

    def _read(self, size: int) -> bytes:
        stream = self._process.stdout
        assert stream is not None  # noqa: S101 - our invariant
        watchdog = threading.Timer(STALL_TIMEOUT_SECONDS, self._kill_stalled)
        watchdog.start()
        try:
            return stream.read(size)
        finally:
            watchdog.cancel()

    def _kill_stalled(self) -> None:
        self._stalled = True
        self._process.kill()

    def _end(self) -> None:
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
        if code and (self._strict or not self._frames):
            raise AudioError(
                f"cannot be decoded: {ffmpeg_process.summarize_stderr(self._read_stderr())}",
                RejectKind.UNDECODABLE,
            )
        if not self._frames:
            raise AudioError("the file contains no samples", RejectKind.EMPTY)

    def _read_header(self) -> int:
        """Read the WAV header and return its channel count."""
        channels = 0
        self._read(12)
        while True:
            chunk = self._read(8)
            if len(chunk) < 8:
                self._end()
                raise AudioError("the file contains no samples", RejectKind.EMPTY)
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                return channels
            content = self._read(size)
            if name == b"fmt ":
                channels = struct.unpack_from("<H", content, 2)[0]


def _command(path: str, program: str, sample_rate: int, stereo: str | None, strict: bool) -> list[str]:
    careful = ["-err_detect", "explode", "-xerror"] if strict else []
    filters = [f"aresample={sample_rate}:resampler=soxr:precision=28"]
    if stereo == "mono":  # ffmpeg's own conversion to stereo attenuates mono by 3 dB
        filters.insert(0, "channelmap=map=0|0:channel_layout=stereo")
    elif stereo is not None:
        filters.insert(0, "aformat=channel_layouts=stereo")
    graph = ["-filter_complex", f"[0:a]{','.join(filters)}[out]", "-map", "[out]"]
    output = ["-f", "wav", "-acodec", "pcm_f32le", "-vn", "pipe:1"]
    return [program, "-loglevel", "error", *careful, *_input_arguments(path), *graph, *output]


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


def find_damage(path: str) -> str | None:
    """Return what is missing at the end or in the middle of an Ogg or MP3 file, None if nothing is.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        start = stream.read(4)
        if start == b"OggS":
            stream.seek(max(os.path.getsize(path) - _OGG_TAIL, 0))
            return None if _ends_ogg(stream.read()) else "truncated: the Ogg stream has no complete last page"
        if start[:3] != b"ID3" and not (start[:1] == b"\xff" and len(start) > 1 and start[1] & 0xE6 == 0xE2):
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                headers = mp3.parse(content)
            except ValueError:
                return None  # an ID3 tag before another format, left to the decoders
    if headers.missing_frames:
        declared = headers.frames + headers.missing_frames
        return f"damaged: {headers.missing_frames} of {declared} MP3 frames are missing"
    return None


def find_truncation(header: str, size: int) -> str | None:
    """Compare the data size in libsndfile's log of a header with the size of the file."""
    for declared, present in _CHUNK_SIZE.findall(header):
        known = int(declared) < _UNKNOWN_SIZE or int(declared) > 2**32
        if known and int(declared) > int(present or size):
            return f"truncated: header declares {declared} bytes of samples, {present or size} are present"
    return None


def _ends_ogg(tail: bytes) -> bool:
    """Return whether the last page (RFC 3533) is complete and marked as the stream's last."""
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27 or not tail[page + 5] & 4:
        return False
    segments = tail[page + 27 : page + 27 + tail[page + 26]]
    return len(segments) == tail[page + 26] and len(tail) >= page + 27 + len(segments) + sum(segments)
