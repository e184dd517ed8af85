"""Bringing what cannot be read in windows to 44.1 kHz stereo FLAC, once, in a cache that actors share.

Compressed files, other sample rates and other channel counts go through ffmpeg as a whole, resampled by soxr,
so that the samples of a window never depend on where windows begin. Memory does not grow with length.

A damaged file is refused rather than shortened: ffmpeg returns 0 on a truncated file, so lengths are compared
with what the container promises. Files come from anywhere, so ffmpeg sees them under a neutral name, may read
that one file and nothing else, and may take them for audio only.
"""

import hashlib
import mmap
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass

import ffmpeg
import numpy as np
import soundfile

from pipelines import ffmpeg_process, mp3
from pipelines.audio import AudioError, Probe, open_binary, open_binary_or_explain
from pipelines.ffmpeg_process import FfmpegError
from pipelines.schema import CHANNELS, SAMPLE_RATE
from pipelines.storage import Folder, is_uri

NOTE = ".json"  # what is known of a cached file lies beside it
HEADROOM = 8.0  # decoders and resamplers overshoot full scale; 18 dB leave 21 of FLAC's 24 bits
# no playlists, which name other files, and no images
_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,caf,eac3,flac,matroska,mov,mp3,mpc,mpc8,ogg,tak,tta,wav,w64,wv"
_STREAM = re.compile(rb"Stream #0:\d+.*?: Audio: (\w+).*?, (\d+) Hz, ([^,\n]+)")
_DURATION = re.compile(rb"Duration: (\d+):(\d\d):(\d\d\.\d+)")
_LOSSLESS_CODECS = re.compile(rb"pcm_(?!mulaw|alaw)|flac|alac|ape|tta|wavpack|wmalossless|tak|mlp|truehd")
_BLOCK_FRAMES = 1 << 18
_STALL_SECONDS = 60.0
_LONGEST_SECONDS = 12 * 3600  # a small file can be made to expand without end
_DURATION_SLACK_SECONDS = 0.1
_OGG_TAIL = 1 << 16


@dataclass(frozen=True)
class Ingested:
    """A file of the cache: its name, its length in samples per channel, whether its original was lossy."""

    name: str
    frames: int
    lossy: bool


def cache_name(path: str, size: int, mtime_ns: int) -> str:
    """Name a cached file after what it was made from."""
    digest = hashlib.sha256(
        f"{path}\n{size}\n{mtime_ns}\n{HEADROOM}".encode(errors="surrogateescape")
    ).hexdigest()
    return f"{digest[:32]}.flac"


def ingest(path: str, *, cache: Folder, name: str, known: Probe | None, program: str) -> Ingested:
    """Decode a whole file to a 24-bit FLAC in the cache, scaled down by HEADROOM.

    Args:
        path: Path or URI of the file.
        cache: Where cached files lie.
        name: Name in the cache.
        known: What libsndfile told of the file, if it could.
        program: ffmpeg.

    Raises:
        AudioError: the file cannot be decoded, is shorter than it promises, or exceeds the headroom.
    """
    with tempfile.TemporaryDirectory(prefix="apollo-ingest-") as scratch:
        source = os.path.join(scratch, "input")
        _bring(path, source)
        _refuse_truncated(source)
        codec, layout, promised = _look(source, program)
        target = os.path.join(scratch, "output.flac")
        frames = _decode(source, target, layout, program)
        if known is not None and _has_exact_length(known):
            promised = known.frames / known.sample_rate
        if promised is not None and abs(frames / SAMPLE_RATE - promised) > _DURATION_SLACK_SECONDS:
            raise AudioError(
                f"damaged: {frames / SAMPLE_RATE:.2f} s could be decoded, {promised:.2f} s expected"
            )
        cache.put(name, target)
    return Ingested(name, frames, not _LOSSLESS_CODECS.match(codec))


def _has_exact_length(known: Probe) -> bool:
    return not known.lossy and 0 < known.frames < 1 << 40


def _bring(path: str, source: str) -> None:
    if not is_uri(path):
        open_binary_or_explain(path).close()
        os.symlink(os.path.abspath(path), source)
        return
    with open_binary(path) as stream, open(source, "wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 22)


def _refuse_truncated(source: str) -> None:
    """Ask the formats that say how long they are, since ffmpeg does not."""
    with open(source, "rb") as stream:
        start = stream.read(4)
        if start == b"OggS":
            stream.seek(max(os.path.getsize(source) - _OGG_TAIL, 0))
            tail = stream.read()
            if not _ends_ogg(tail):
                raise AudioError("truncated: the Ogg stream has no whole last page")
            return
        if start[:3] != b"ID3" and not (start[:1] == b"\xff" and len(start) > 1 and start[1] & 0xE6 == 0xE2):
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                headers = mp3.parse(content)
            except ValueError:
                return  # an ID3 tag before something else, which ffmpeg will judge
    if headers.missing_frames:
        raise AudioError(
            f"damaged: {headers.missing_frames} of {headers.frames + headers.missing_frames} MP3 frames "
            "are missing"
        )


def _ends_ogg(tail: bytes) -> bool:
    """Tell whether the last page (RFC 3533) is there as a whole and marked as the stream's last."""
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27 or not tail[page + 5] & 4:
        return False
    segments = tail[page + 27 : page + 27 + tail[page + 26]]
    return len(segments) == tail[page + 26] and len(tail) >= page + 27 + len(segments) + sum(segments)


def _arguments(source: str) -> dict[str, object]:
    return {"filename": f"file:{source}", "protocol_whitelist": "file", "format_whitelist": _DEMUXERS}


def _look(source: str, program: str) -> tuple[bytes, bytes, float | None]:
    """Ask ffmpeg for codec, channel layout, and the duration in seconds where the container knows it."""
    command = ffmpeg.input(**_arguments(source)).output("-", format="null", t=0).compile(cmd=program)
    try:
        asked = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_STALL_SECONDS,
            check=False,
            preexec_fn=ffmpeg_process.die_with_parent(),
        )
    except subprocess.TimeoutExpired as error:
        raise FfmpegError(f"ffmpeg was killed after {_STALL_SECONDS:g} s of looking at the file") from error
    stream = _STREAM.search(asked.stderr)
    if stream is None:
        raise AudioError("no audio that libsndfile or ffmpeg can read")
    duration = _DURATION.search(asked.stderr)
    guessed = b"Estimating duration from bitrate" in asked.stderr
    seconds = None
    if duration and not guessed:
        seconds = int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3])
    return stream[1], stream[3].strip(), seconds


def _decode(source: str, target: str, layout: bytes, program: str) -> int:
    samples = ffmpeg.input(**_arguments(source), xerror=None, err_detect="explode").audio
    if layout == b"mono":  # ffmpeg's own way to stereo turns mono down by 3 dB
        samples = samples.filter("channelmap", map="0|0", channel_layout="stereo")
    else:
        samples = samples.filter("aformat", channel_layouts="stereo")
    samples = samples.filter("aresample", SAMPLE_RATE, resampler="soxr", precision=28)
    command = (
        samples.output("pipe:1", format="f32le", vn=None)
        .global_args("-loglevel", "error")
        .compile(cmd=program)
    )
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=ffmpeg_process.die_with_parent(),
    )  # fmt: skip
    errors = _drain(process)
    try:
        frames = _write_flac(process, target)
        if process.wait(_STALL_SECONDS):
            raise AudioError(f"cannot be decoded: {ffmpeg_process.complaint(errors())}")
    except subprocess.TimeoutExpired as error:
        raise FfmpegError(f"ffmpeg did not end within {_STALL_SECONDS:g} s") from error
    finally:
        process.kill()
        process.wait()
    if not frames:
        raise AudioError("the file holds no samples")
    return frames


def _drain(process: "subprocess.Popen[bytes]") -> Callable[[], bytes]:
    """Read a process's error output beside its output; call the result for what it said."""
    said: list[bytes] = []
    assert process.stderr is not None
    thread = threading.Thread(
        target=lambda stream: said.append(stream.read()), args=(process.stderr,), daemon=True
    )
    thread.start()

    def wait() -> bytes:
        thread.join(_STALL_SECONDS)
        return b"".join(said)

    return wait


def _write_flac(process: "subprocess.Popen[bytes]", target: str) -> int:
    """Write what ffmpeg puts out; it is killed when it stalls."""
    frames = 0
    assert process.stdout is not None
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, CHANNELS, "PCM_24", format="FLAC") as flac:
        while True:
            watchdog = threading.Timer(_STALL_SECONDS, process.kill)
            watchdog.start()
            block = process.stdout.read(_BLOCK_FRAMES * CHANNELS * 4)
            watchdog.cancel()
            if not block:
                return frames
            samples = np.frombuffer(block[: len(block) // 8 * 8], "<f4").reshape(-1, CHANNELS) / np.float32(
                HEADROOM
            )
            if not len(samples):
                continue
            if frames > _LONGEST_SECONDS * SAMPLE_RATE:
                raise AudioError(f"longer than {_LONGEST_SECONDS / 3600:.0f} hours")
            if not np.isfinite(samples).all():
                raise AudioError(f"holds samples that are no numbers, near {frames / SAMPLE_RATE:.1f} s")
            if np.abs(samples).max() >= 1:
                raise AudioError(f"exceeds full scale by more than 18 dB near {frames / SAMPLE_RATE:.1f} s")
            flac.write(samples)
            frames += len(samples)


def trim_cache(cache: Folder, *, keep: set[str], limit_bytes: int) -> None:
    """Make room in the cache: the oldest files that this run does not use go first."""
    entries = [entry for entry in cache.entries() if entry.name.endswith(".flac")]
    excess = sum(entry.size for entry in entries) - limit_bytes
    for entry in sorted(entries, key=lambda entry: entry.mtime_ns):
        if excess <= 0:
            return
        if entry.name not in keep:
            cache.delete(entry.name + NOTE)
            cache.delete(entry.name)
            excess -= entry.size


def check_cache(cache: Folder, limit_bytes: int) -> None:
    """Stop a run that fills the cache over its limit.

    Raises:
        RuntimeError: the cache is over its limit.
    """
    used = sum(entry.size for entry in cache.entries())
    if used > limit_bytes:
        raise RuntimeError(
            f"the cache {cache.location} holds {used / 1e9:.2f} GB of decoded sources, sources.cache_gb "
            f"allows {limit_bytes / 1e9:.2f}. "
            "Raise it and run again, or bring the files to 44.1 kHz WAV or FLAC yourself"
        )
