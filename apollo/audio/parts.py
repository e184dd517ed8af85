"""Parts of a file that must be decoded apart, and what is missing of it.

Files that were joined or recorded from a stream change their sample rate or number of channels midway: the
links of a chained Ogg (RFC 3533), the frames of an MP3, the files in a file. ffmpeg then stops, or mixes the
rest into the channels that it began with. Tags after the last frame, and what follows the samples that a
header declares, are in no part: a decoder takes them for audio.
"""

import mmap
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO

from apollo.audio import mp3
from apollo.audio.containers import FileRange, SampleBytes, read_sample_bytes
from apollo.audio.end_tags import find_end
from apollo.audio.flac import FlacLength, read_flac_length
from apollo.audio.joined_files import MAX_FILES, find_joined_files

_OGG_TAIL = 1 << 16
_MAX_PARTS = 1_000  # each is decoded by a process of its own
_HEADER_BYTES = 27
_FIRST_PAGE = 2  # flags of an Ogg page: beginning and end of a stream
_LAST_PAGE = 4


@dataclass(frozen=True)
class Part:
    """A range of bytes that is decoded apart.

    Args:
        start: First byte.
        end: Byte after the last.
        channels: Number of channels, 0 if unknown.
    """

    start: int
    end: int
    channels: int = 0


@dataclass(frozen=True)
class FileParts:
    """What the frames, pages or headers of a file say about it.

    Args:
        damage: Description of missing data; None if none or unknown.
        parts: At least one.
        size: Size of the file.
        bitrate_bps: Mean of an MP3's frames, 0 of other files.
        remarks: Descriptions of lengths that do not fit otherwise.
        separate: Whether libsndfile would read something else than the parts.
    """

    damage: str | None
    parts: tuple[Part, ...]
    size: int
    bitrate_bps: int = 0
    remarks: tuple[str, ...] = ()
    separate: bool = False


def find_parts(path: str) -> FileParts:
    """Find the parts of a file.

    Raises:
        OSError: the file cannot be read.
    """
    status = os.stat(path)
    return _find_parts(path, status.st_size, status.st_mtime_ns)


def find_damage(path: str) -> str | None:
    """Return what is missing at the end or in the middle of an Ogg or MP3 file, None if nothing is.

    Raises:
        OSError: the file cannot be read.
    """
    return find_parts(path).damage


@lru_cache(maxsize=4)
def _find_parts(path: str, size: int, _mtime_ns: int) -> FileParts:
    with open(path, "rb") as stream:
        if not size:
            return FileParts(None, (Part(0, 0),), 0)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:4] == b"OggS":
                return _split_ogg(content)
            if mp3.find_start(content) is not None and (found := _split_mp3(content)):
                return found
            return _split_joined(stream, content)


def _split_joined(stream: BinaryIO, content: mmap.mmap) -> FileParts:
    """Split a file to which several of one format were joined."""
    starts = find_joined_files(stream)
    ends = [*starts[1:], len(content)]
    separate = len(starts) > 1
    remarks, damages, parts = [], [], []
    if len(starts) > MAX_FILES:
        remarks.append(f"another file follows at byte {starts[1]}: only the first was read")
        starts = starts[:1]
    for number, (start, end) in enumerate(zip(starts, ends, strict=False), 1):
        name = f"file {number} of {len(starts)} in it: " if len(starts) > 1 else ""
        end = find_end(content, end)
        length = _read_length(stream, start, end)
        if length is not None and (damage := length.find_truncation()):
            damages.append(name + damage)
        if length is not None and (excess := length.find_excess()):
            remarks.append(name + excess)
            separate = separate or isinstance(
                length, FlacLength
            )  # libsndfile stops where it ends by its header
        if isinstance(length, SampleBytes) and length.end is not None:
            end, separate = start + length.end, True
        parts.append(Part(start, end))
    damage = " | ".join(damages[:2]) or None
    return FileParts(damage, tuple(parts), len(content), 0, tuple(remarks), separate)


def _read_length(stream: BinaryIO, start: int, end: int) -> SampleBytes | FlacLength | None:
    section = FileRange(stream, start, end)
    return read_sample_bytes(section, end - start) or read_flac_length(section, end - start)


def _split_mp3(content: mmap.mmap) -> FileParts | None:
    try:
        headers = mp3.parse(content)
    except ValueError:
        return None  # an ID3 tag before another format
    damages = []
    if headers.missing_frames:
        declared = headers.frames + headers.missing_frames
        damages.append(f"damaged: {headers.missing_frames} of {declared} MP3 frames are missing")
    if headers.hole is not None:
        damages.append(f"damaged: zeros instead of MP3 frames from byte {headers.hole} on")
    sections = list(headers.sections) if len(headers.sections) <= _MAX_PARTS else []
    parts = [Part(section.start, section.end, section.channels) for section in sections] or [Part(0, 0)]
    if mp3.starts_plainly(content):
        parts[0] = replace(parts[0], start=0)  # with its tags
    parts[-1] = replace(parts[-1], end=find_end(content))
    return FileParts(" | ".join(damages) or None, tuple(parts), len(content), headers.bitrate_bps)


def _split_ogg(content: mmap.mmap) -> FileParts:
    complete = _ends_ogg(content[max(len(content) - _OGG_TAIL, 0) :])
    damage = None if complete else "truncated: the Ogg stream has no complete last page"
    links = _find_links(content)
    if not 0 < len(links) <= _MAX_PARTS:
        links = [(0, 0)]
    ends = [start for start, _ in links[1:]] + [len(content)]
    parts = tuple(Part(start, end, channels) for (start, channels), end in zip(links, ends, strict=True))
    return FileParts(damage, parts, len(content))


def _find_links(content: mmap.mmap) -> list[tuple[int, int]]:
    """Return position and number of channels of the links of an Ogg file, as far as its pages are intact."""
    links: list[tuple[int, int]] = []
    at, in_headers = 0, False
    while content[at : at + 4] == b"OggS" and at + _HEADER_BYTES <= len(content):
        num_segments = content[at + 26]
        table = content[at + _HEADER_BYTES : at + _HEADER_BYTES + num_segments]
        begins = bool(content[at + 5] & _FIRST_PAGE)
        body = at + _HEADER_BYTES + num_segments
        if begins and not in_headers:
            links.append((at, 0))
        if begins and (channels := _count_channels(content[body : body + 64])):
            links[-1] = links[-1][0], channels
        in_headers = begins
        at = body + sum(table)
    return links


def _count_channels(header: bytes) -> int:
    """Return the number of channels in the first packet of an audio stream, 0 in that of another one."""
    for name, position in ((b"\x01vorbis", 11), (b"OpusHead", 9)):
        if header.startswith(name) and len(header) > position:
            return header[position]
    if header.startswith(b"\x7fFLAC") and len(header) > 29:  # bits 100 to 102 of the STREAMINFO at byte 17
        return (header[29] >> 1 & 7) + 1
    if header.startswith(b"Speex   ") and len(header) > 52:
        return int.from_bytes(header[48:52], "little") & 0xFF
    return 0


def _ends_ogg(tail: bytes) -> bool:
    """Return whether the last page is complete and marked as the stream's last."""
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + _HEADER_BYTES or not tail[page + 5] & _LAST_PAGE:
        return False
    body = page + _HEADER_BYTES + tail[page + 26]
    segments = tail[page + _HEADER_BYTES : body]
    return len(segments) == tail[page + 26] and len(tail) >= body + sum(segments)
