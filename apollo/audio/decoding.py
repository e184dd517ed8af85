"""Decoding any audio file through ffmpeg, as a stream of samples at bounded memory.

Files come from anywhere, so ffmpeg may read the one file and nothing else, may take it for audio only, and is
killed when it stalls. ffmpeg returns 0 on a truncated file: `find_damage` asks the formats that say how long
they are.
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

BLOCK_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"})  # exact in pieces
MAX_SECONDS = 12 * 3600  # a small file can be made to expand without end
STALL_TIMEOUT_SECONDS = 60.0
MIN_SAMPLE_RATE_HZ = 4_000  # of one much lower, a few bytes become hours at 44.1 kHz
MAX_CHANNELS = 32  # the largest layouts have 24; each is computed for itself, silent ones too
_EXTENSIONS = (
    "aac ac3 aif aifc aiff ape au caf flac m4a mka mp2 mp3 mp4 oga ogg opus tta w64 wav wave webm wma wv"
)
EXTENSIONS = frozenset(_EXTENSIONS.split())
# no playlists, which name other files, and no images
_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,caf,eac3,flac,matroska,mov,mp3,mpc,mpc8,ogg,tak,tta,wav,w64,wv"
_STREAM = re.compile(rb"Stream #0:\d+.*?: Audio: (\w+).*?, (\d+) Hz, ([^,\n]+)")
_DURATION = re.compile(rb"Duration: (\d+):(\d\d):(\d\d\.\d+)")
_LOSSLESS_CODECS = re.compile(r"pcm_(?!mulaw|alaw)|flac|alac|ape|tta|wavpack|wmalossless|tak|mlp|truehd")
_CHUNK_SIZE = re.compile(r"^\s*(?:data|SSND|Data [Ss]ize)\s*:\s*(\d+)(?: \(should be (\d+)\))?", re.MULTILINE)
_UNKNOWN_SIZE = 0x7FFF_0000  # writers to pipes leave the largest number there
_OGG_TAIL = 1 << 16
_SAMPLE_BYTES = 4


class AudioError(RuntimeError):
    """A file cannot be read, or is not what it says."""


@dataclass(frozen=True)
class AudioInfo:
    """What ffmpeg tells of a file.

    Args:
        codec: ffmpeg's name of it.
        layout: Channel layout, such as `mono` or `5.1(side)`.
        sample_rate: Hz.
        lossy: Whether the codec is lossy.
        seconds: Duration where the container knows it.
        guessed_seconds: Duration as far as ffmpeg can tell, perhaps from the bitrate.
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
    """Ask ffmpeg what a file is.

    Raises:
        AudioError: there is no audio in it.
        FfmpegError: ffmpeg took too long.
    """
    command = [program, *_input_arguments(path), "-f", "null", "-t", "0", "-"]
    try:
        asked = subprocess.run(  # noqa: S603 - no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=STALL_TIMEOUT_SECONDS,
            check=False,
            preexec_fn=ffmpeg_process.die_with_parent(),
        )
    except subprocess.TimeoutExpired as error:
        raise FfmpegError(
            f"ffmpeg was killed after {STALL_TIMEOUT_SECONDS:g} s of probing the file"
        ) from error
    stream = _STREAM.search(asked.stderr)
    if stream is None:
        raise AudioError("no audio that libsndfile or ffmpeg can read")
    codec, layout = stream[1].decode(), stream[3].strip().decode(errors="replace")
    if (rate := int(stream[2])) < MIN_SAMPLE_RATE_HZ:
        raise AudioError(f"has {rate} samples a second, and music at least {MIN_SAMPLE_RATE_HZ}")
    durations = _DURATION.findall(asked.stderr[: stream.start()])  # tags that look like one come before
    guess = None
    if durations:
        hours, minutes, rest = durations[-1]
        guess = int(hours) * 3600 + int(minutes) * 60 + float(rest)
    known = None if b"Estimating duration from bitrate" in asked.stderr else guess
    return AudioInfo(codec, layout, rate, not _LOSSLESS_CODECS.match(codec), known, guess)


class Decoder:
    """Runs ffmpeg over a file; a context manager.

    Args:
        path: The file.
        program: ffmpeg.
        sample_rate: Hz of what comes out; soxr resamples.
        stereo: From this channel layout to stereo, a mono signal on both sides at its own level. None leaves
            the channels as they are.
        strict: Whether damage is an error. Otherwise what can be decoded is given.
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
        self._complaints = _drain(self._process)
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
        """Give up to `frames` frames, interleaved float32 in this machine's order; nothing at the end.

        Raises:
            AudioError: the file cannot be decoded, or is longer than MAX_SECONDS.
            FfmpegError: ffmpeg stalled.
        """
        width = self.channels * _SAMPLE_BYTES
        block = self._read(frames * width)
        block = block[: len(block) // width * width]
        self._frames += len(block) // width
        if self._frames > MAX_SECONDS * self._rate:
            raise AudioError(f"longer than {MAX_SECONDS / 3600:.0f} hours")
        if not block:
            self._end()
        return block

    def complaint(self) -> str | None:
        """Give what ffmpeg said of damage, after the last block."""
        said = self._complaints()
        return ffmpeg_process.complaint(said) if said else None

    def _read(self, size: int) -> bytes:
        stream = self._process.stdout
        assert stream is not None  # noqa: S101 - our invariant
        watchdog = threading.Timer(STALL_TIMEOUT_SECONDS, self._give_up)
        watchdog.start()
        try:
            return stream.read(size)
        finally:
            watchdog.cancel()

    def _give_up(self) -> None:
        self._stalled = True
        self._process.kill()

    def _end(self) -> None:
        try:
            code = self._process.wait(STALL_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise FfmpegError(f"ffmpeg did not end within {STALL_TIMEOUT_SECONDS:g} s") from error
        if self._stalled:
            raise FfmpegError(f"ffmpeg was killed after {STALL_TIMEOUT_SECONDS:g} s without a sample")
        if code < 0:
            raise FfmpegError(f"ffmpeg was killed by signal {-code}")
        if code and (self._strict or not self._frames):
            raise AudioError(f"cannot be decoded: {ffmpeg_process.complaint(self._complaints())}")
        if not self._frames:
            raise AudioError("the file holds no samples")

    def _read_header(self) -> int:
        """Read the WAV header, which says how many channels there are."""
        channels = 0
        self._read(12)
        while True:
            chunk = self._read(8)
            if len(chunk) < 8:
                self._end()
                raise AudioError("the file holds no samples")
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                return channels
            content = self._read(size)
            if name == b"fmt ":
                channels = struct.unpack_from("<H", content, 2)[0]


def _command(path: str, program: str, sample_rate: int, stereo: str | None, strict: bool) -> list[str]:
    careful = ["-err_detect", "explode", "-xerror"] if strict else []
    filters = [f"aresample={sample_rate}:resampler=soxr:precision=28"]
    if stereo == "mono":  # ffmpeg's own way to stereo turns mono down by 3 dB
        filters.insert(0, "channelmap=map=0|0:channel_layout=stereo")
    elif stereo is not None:
        filters.insert(0, "aformat=channel_layouts=stereo")
    graph = ["-filter_complex", f"[0:a]{','.join(filters)}[out]", "-map", "[out]"]
    output = ["-f", "wav", "-acodec", "pcm_f32le", "-vn", "pipe:1"]
    return [program, "-loglevel", "error", *careful, *_input_arguments(path), *graph, *output]


def _drain(process: "subprocess.Popen[bytes]") -> Callable[[], bytes]:
    """Read a process's error output beside its output; call the result for what it said."""
    said: list[bytes] = []

    def read(stream: IO[bytes]) -> None:
        with suppress(ValueError):  # closed, because nobody waits for it any more
            said.append(stream.read())

    thread = threading.Thread(target=read, args=(process.stderr,), daemon=True)
    thread.start()

    def wait() -> bytes:
        thread.join(STALL_TIMEOUT_SECONDS)
        return b"".join(said)

    return wait


def find_damage(path: str) -> str | None:
    """Say what is missing at the end or in the middle of an Ogg or MP3 file, if anything is.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        start = stream.read(4)
        if start == b"OggS":
            stream.seek(max(os.path.getsize(path) - _OGG_TAIL, 0))
            return None if _ends_ogg(stream.read()) else "truncated: the Ogg stream has no whole last page"
        if start[:3] != b"ID3" and not (start[:1] == b"\xff" and len(start) > 1 and start[1] & 0xE6 == 0xE2):
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                headers = mp3.parse(content)
            except ValueError:
                return None  # an ID3 tag before something else, which decoders will judge
    if headers.missing_frames:
        promised = headers.frames + headers.missing_frames
        return f"damaged: {headers.missing_frames} of {promised} MP3 frames are missing"
    return None


def find_truncation(header: str, size: int) -> str | None:
    """Compare what libsndfile's log of a header says of the samples' bytes with what is there."""
    for promised, there in _CHUNK_SIZE.findall(header):
        known = int(promised) < _UNKNOWN_SIZE or int(promised) > 2**32
        if known and int(promised) > int(there or size):
            return f"truncated: the header promises {promised} bytes of samples, {there or size} are there"
    return None


def _ends_ogg(tail: bytes) -> bool:
    """Tell whether the last page (RFC 3533) is there as a whole and marked as the stream's last."""
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27 or not tail[page + 5] & 4:
        return False
    segments = tail[page + 27 : page + 27 + tail[page + 26]]
    return len(segments) == tail[page + 26] and len(tail) >= page + 27 + len(segments) + sum(segments)
