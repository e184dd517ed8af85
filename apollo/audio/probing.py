"""Properties of an audio file, as ffmpeg finds them.

Files are untrusted: ffmpeg may open this one file only, as audio only. Nothing that a file's tags, chapters
or name say is taken for a fact about its audio. The streams are read from the header of ffmpeg's framecrc
format, which has no tags. The duration stands in ffmpeg's messages alone, where a tag's name with a line
break can imitate it: it counts only if there is exactly one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apollo.audio import decoding, sample_stream
from apollo.audio import ffmpeg as ffmpeg_process
from apollo.audio.ffmpeg import input_arguments
from apollo.audio.parts import find_parts
from apollo.audio.rejects import AudioError, RejectKind
from apollo.audio.soundfiles import has_length, is_lossless, needs_libsndfile, open_sound

MIN_SAMPLE_RATE_HZ = 4_000  # at much lower rates, a few bytes become hours at 44.1 kHz
_FIELD = re.compile(r"^#(media_type|codec_id|sample_rate|channel_layout_name) (\d+): (.*)$", re.MULTILINE)
_PACKET = re.compile(r"^(\d+), *-?\d+, *(-?\d+), *(\d+),", re.MULTILINE)
_SIZE = re.compile(r"^(\d+), *-?\d+, *-?\d+, *\d+, *(\d+),", re.MULTILINE)
_TIME_BASE = re.compile(r"^#tb (\d+): (\d+)/(\d+)$", re.MULTILINE)
_DURATION = re.compile(rb"^  Duration: (?:(\d+):(\d\d):(\d\d\.\d+)|N/A), ", re.MULTILINE)
_ESTIMATED = re.compile(rb"^\[[^\]\n]* @ 0x[0-9a-f]+\] Estimating duration from bitrate", re.MULTILINE)
_LANGUAGE = re.compile(r"^language=(\w{2,3})$", re.MULTILINE)
_LOSSLESS_CODECS = re.compile(r"pcm_(?!mulaw|alaw)|flac|alac|ape|tta|wavpack|wmalossless|tak|mlp|truehd")
_SCAN_TIMEOUT_SECONDS = 600.0  # a film is read as a whole


@dataclass(frozen=True)
class AudioInfo:
    """Properties of an audio file.

    Args:
        codec: Name in ffmpeg.
        layout: Channel layout, such as `mono` or `5.1(side)`.
        sample_rate: Hz.
        lossy: Whether the codec is lossy.
        seconds: Duration stored in the container, None if there is none.
        guessed_seconds: Duration stored or estimated from the bitrate.
        num_streams: Number of audio streams; the first is decoded.
        pictures: Codecs of covers and films in the file.
    """

    codec: str
    layout: str
    sample_rate: int
    lossy: bool
    seconds: float | None
    guessed_seconds: float | None
    num_streams: int = 1
    pictures: tuple[str, ...] = ()


def probe(path: str, program: str) -> AudioInfo:
    """Read the properties of a file with ffmpeg, or with libsndfile if ffmpeg finds no audio.

    Raises:
        AudioError: it contains no audio, or its sample rate is below MIN_SAMPLE_RATE_HZ.
        FfmpegError: ffmpeg timed out.
    """
    sound = open_sound(path, sequentially=True)
    if sound is not None and needs_libsndfile(sound):
        return _read_sound(sound)
    header, messages = _copy_packets(path, program, "-t", "0")
    streams = _read_streams(header)
    audio = [fields for fields in streams if fields.get("media_type") == "audio" and "sample_rate" in fields]
    if not audio or not int(audio[0]["sample_rate"]):
        if sound is None:
            raise AudioError("no audio that libsndfile or ffmpeg can read", RejectKind.UNDECODABLE)
        return _read_sound(sound)
    codec, rate = audio[0]["codec_id"], int(audio[0]["sample_rate"])
    _check_sample_rate(rate)
    guess = _read_duration(messages)
    found = find_parts(path)
    if found.separate or len(found.parts) > 1:
        guess = None  # of one of the parts
    return AudioInfo(
        codec,
        audio[0].get("channel_layout_name", ""),
        rate,
        not _LOSSLESS_CODECS.match(codec),
        None if _ESTIMATED.search(messages) else guess,
        guess,
        len(audio),
        tuple(fields["codec_id"] for fields in streams if fields.get("media_type") == "video"),
    )


def _copy_packets(path: str, program: str, *options: str) -> tuple[str, bytes]:
    """Return ffmpeg's list of the packets of all audio and video streams, and its messages."""
    command = [program, "-hide_banner", "-nostdin", *input_arguments(path), "-map", "0:a", "-map", "0:v?"]
    command += [*options, "-c", "copy", "-f", "framecrc", "-"]
    timeout = sample_stream.STALL_TIMEOUT_SECONDS if options else _SCAN_TIMEOUT_SECONDS
    result = ffmpeg_process.execute(command, timeout_seconds=timeout)
    return result.stdout.decode("ascii", errors="replace"), result.stderr


def measure_packets(path: str, program: str) -> tuple[int, bool]:
    """Read all packets of the first audio stream, and no others.

    Returns:
        Their size in bytes, and whether all but the outermost have the same.

    Raises:
        FfmpegError: ffmpeg timed out.
    """
    sizes = [int(size) for stream, size in _SIZE.findall(_copy_packets(path, program)[0]) if stream == "0"]
    return sum(sizes), len(set(sizes[1:-1])) < 2


def _read_streams(header: str) -> list[dict[str, str]]:
    streams: dict[int, dict[str, str]] = {}
    for name, number, value in _FIELD.findall(header):
        streams.setdefault(int(number), {})[name] = value.strip()
    return [streams[number] for number in sorted(streams)]


def _read_duration(messages: bytes) -> float | None:
    found = _DURATION.findall(messages)
    if len(found) != 1 or not found[0][0]:
        return None
    hours, minutes, seconds = found[0]
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _check_sample_rate(rate: int) -> None:
    if rate < MIN_SAMPLE_RATE_HZ:
        raise AudioError(f"sample rate {rate} Hz is below the minimum of {MIN_SAMPLE_RATE_HZ} Hz")


def _read_sound(sound: Any) -> AudioInfo:
    """Return the properties of a file that libsndfile decodes, and close it."""
    with sound:
        layout = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
        rate = sound.samplerate
        _check_sample_rate(rate)
        seconds = sound.frames / rate if has_length(sound) and needs_libsndfile(sound) else None
        return AudioInfo(sound.subtype.lower(), layout, rate, not is_lossless(sound), seconds, seconds)


def find_missing_end(info: AudioInfo, decoded_seconds: float, path: str, program: str) -> str | None:
    """Return that the audio ends before the container's duration, None if it does not.

    A film may go on after its sound: then the packets tell whether another stream reaches the duration, and
    the audio is compared with its own packets.

    Raises:
        FfmpegError: ffmpeg timed out.
    """
    if info.seconds is None or decoded_seconds >= info.seconds - decoding.SLACK_SECONDS:
        return None
    expected = info.seconds
    if info.pictures or info.num_streams > 1:
        ends = _find_ends(_copy_packets(path, program)[0])
        if ends and max(ends.values()) >= info.seconds - 1:  # the last picture may have no duration
            expected = min(ends.get(0, 0.0), info.seconds)
    if decoded_seconds >= expected - decoding.SLACK_SECONDS:
        return None
    return f"truncated: ends after {decoded_seconds:.2f} of {expected:.2f} s: no more samples"


def _find_ends(packets: str) -> dict[int, float]:
    """Return the time in seconds at which the last packet of each stream ends."""
    bases = {int(number): int(top) / int(bottom) for number, top, bottom in _TIME_BASE.findall(packets)}
    ends: dict[int, float] = {}
    for number, time, duration in _PACKET.findall(packets):
        end = (int(time) + int(duration)) * bases.get(int(number), 0.0)
        ends[int(number)] = max(ends.get(int(number), 0.0), end)
    return ends


def describe_change(rate: int, changes: Sequence[tuple[str, str]]) -> str | None:
    """Return how the audio of a file that is decoded at once changes midway, and what is lost of it.

    Args:
        rate: Its sample rate, in Hz.
        changes: Of `Messages`.
    """
    resampled = [change for change in changes if change[1] != f"{rate} Hz, {change[0]}"]
    mixed = [(layout, changed) for layout, changed in resampled if not changed.endswith(f" Hz, {layout}")]
    if not resampled:
        return None
    layout, changed = (mixed or resampled)[0]
    text = f"changes midway from {rate} Hz, {layout} to {changed}: what follows is resampled"
    return f"{text}, and mixed into {layout}: its level and channels change" if mixed else text


def describe_choice(info: AudioInfo, path: str, program: str) -> str | None:
    """Return which of several audio streams is decoded, None if there is one.

    Raises:
        FfmpegError: ffmpeg timed out.
    """
    if info.num_streams < 2:
        return None
    command = [program, "-hide_banner", "-nostdin", "-loglevel", "error", *input_arguments(path)]
    command += ["-map_metadata", "0:s:a:0", "-map_chapters", "-1", "-f", "ffmetadata", "-"]
    result = ffmpeg_process.execute(command, timeout_seconds=sample_stream.STALL_TIMEOUT_SECONDS)
    language = _LANGUAGE.search(result.stdout.decode(errors="replace"))
    tag = f" (its tag says language {language[1]})" if language and language[1] != "und" else ""
    return f"contains {info.num_streams} audio streams: only the first was read{tag}"
