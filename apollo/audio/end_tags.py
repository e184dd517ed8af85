"""Tags before, between and behind the frames of an MP3, or behind other audio: ID3, APE, Lyrics3.

Sources: the descriptions of the tags ID3v1 (with its extension), ID3v2, APEv2 and Lyrics3.
"""

import re
from mmap import mmap

_ID3V1_BYTES = 128
_ID3V1_EXTENDED_BYTES = 227
_LYRICS3V1_BYTES = 5_200
_MAX_TAG_BYTES = 1 << 20
_APE_HEADER = 0x20  # of the flags' last byte: this is the header, not the footer
_NOT_ZERO = re.compile(rb"[^\0]")
Content = bytes | mmap


def after_id3(stream: Content) -> int:
    """Return where an ID3v2 tag ends that a file begins with, 0 if it begins with none."""
    if stream[:3] != b"ID3" or len(stream) < 10:
        return 0
    size = stream[6] << 21 | stream[7] << 14 | stream[8] << 7 | stream[9]
    return size + (20 if stream[5] & 0x10 else 10)


def after_tags_and_zeros(stream: Content, at: int) -> tuple[int, bool]:
    """Return the position after tags and zeros, and whether there were tags."""
    has_tags = False
    while at < len(stream):
        start = stream[at : at + 32]
        if start[:3] == b"ID3":
            at += after_id3(start)
        elif start[:3] == b"TAG":
            at += _ID3V1_EXTENDED_BYTES if start[3:4] == b"+" else _ID3V1_BYTES
        elif start[:1] == b"\0":
            found = _NOT_ZERO.search(stream, at)
            at = len(stream) if found is None else found.start()
            continue
        else:
            end = _after_ape_or_lyrics(stream, at)
            if end == at:
                break
            at = end
        has_tags = True
    return at, has_tags


def _after_ape_or_lyrics(stream: Content, at: int) -> int:
    limit = at + _MAX_TAG_BYTES
    if stream[at : at + 11] == b"LYRICSBEGIN":
        ends = [stream.find(word, at, limit) for word in (b"LYRICSEND", b"LYRICS200")]
        return max(*ends, at - 9) + 9
    foot = stream.find(b"APETAGEX", at, limit)
    if foot < 0 or foot + 32 > len(stream):
        return at
    size = int.from_bytes(stream[foot + 12 : foot + 16], "little")  # without the header, with the footer
    if foot == at and stream[foot + 23] & _APE_HEADER:
        return foot + 32 + size
    return foot + 32 if foot in (at, at + size - 32) else at


def find_end(stream: Content, end: int | None = None) -> int:
    """Return where the tags begin that taggers append to a file, or to its first `end` bytes."""
    end = len(stream) if end is None else end
    while (start := _before_tag(stream, end)) < end:
        end = start
    return end


def _before_tag(stream: Content, end: int) -> int:
    """Return where the tag begins that ends at `end`; `end` if none does."""
    start = end
    foot = stream[max(end - 32, 0) : end]
    if end >= _ID3V1_BYTES and stream[end - _ID3V1_BYTES : end - _ID3V1_BYTES + 3] == b"TAG":
        start = end - _ID3V1_BYTES
    elif foot[:8] == b"APETAGEX":  # its size counts the footer, not the header
        start = end - int.from_bytes(foot[12:16], "little") - (32 if foot[23] & 0x80 else 0)
    elif foot[-9:] == b"LYRICS200" and foot[-15:-9].isdigit():
        start = end - 15 - int(foot[-15:-9])
    elif foot[-9:] == b"LYRICSEND":
        start = stream.rfind(b"LYRICSBEGIN", max(end - _LYRICS3V1_BYTES, 0), end)
    return start if start >= 0 else end
