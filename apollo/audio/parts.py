"""Parts of an MP3 or Ogg file that must be decoded apart, and what is missing of it.

Files that were joined or recorded from a stream change their sample rate or number of channels midway: the
links of a chained Ogg (RFC 3533), the frames of an MP3. ffmpeg then stops, or mixes the rest into the
channels that it began with. Tags after the last frame are in no part: a decoder takes them for damaged audio.
"""

import mmap
import os
from dataclasses import dataclass
from functools import lru_cache

from apollo.audio import mp3

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
    """What the frames or pages of a file say about it.

    Args:
        damage: Description of missing data; None if none or unknown.
        parts: At least one.
        size: Size of the file.
        bitrate_bps: Mean of an MP3's frames, 0 of other files.
    """

    damage: str | None
    parts: tuple[Part, ...]
    size: int
    bitrate_bps: int = 0


def find_parts(path: str) -> FileParts:
    """Find the parts of a file; files other than MP3 and Ogg have one.

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
            if content[:3] == b"ID3" or mp3.is_frame(content[:4]):
                return _split_mp3(content)
            return _single_part(content)


def _single_part(content: mmap.mmap) -> FileParts:
    return FileParts(None, (Part(0, mp3.find_end(content)),), len(content))


def _split_mp3(content: mmap.mmap) -> FileParts:
    try:
        headers = mp3.parse(content)
    except ValueError:
        return _single_part(content)  # an ID3 tag before another format
    damage = None
    if headers.missing_frames:
        declared = headers.frames + headers.missing_frames
        damage = f"damaged: {headers.missing_frames} of {declared} MP3 frames are missing"
    sections = headers.sections if len(headers.sections) <= _MAX_PARTS else ()
    first, rest = sections[:1] or ((0, 0),), sections[1:]
    starts = [(0, first[0][1]), *rest]  # with the tags and the gapless tag before the first frame
    ends = [start for start, _ in rest] + [mp3.find_end(content)]
    parts = tuple(Part(start, end, channels) for (start, channels), end in zip(starts, ends, strict=True))
    return FileParts(damage, parts, len(content), headers.bitrate_bps)


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
