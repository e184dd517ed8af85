"""Number of samples that a FLAC stream contains, read from its last frame.

Source: RFC 9639 (STREAMINFO, frame header, CRC-8 of the header and CRC-16 of the frame). Encoders that could
not seek, and editors that cut, leave another number in STREAMINFO.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from apollo.audio.containers import Readable

_STREAMINFO = 8  # its position, after `fLaC` and a header of four bytes
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_MAX_FRAME_BYTES = 1 << 18
_MAX_BLOCKS = 1_000


@dataclass(frozen=True)
class FlacLength:
    """Samples per channel of a FLAC stream.

    Args:
        declared: What its header declares, more than 0.
        present: What its frames number.
    """

    declared: int
    present: int

    def find_truncation(self) -> str | None:
        """Return that frames are missing, None if none are."""
        if self.declared <= self.present:
            return None
        return f"truncated: header declares {self.declared} samples, {self.present} are present"

    def find_excess(self) -> str | None:
        """Return that there are more samples than declared, None if there are not."""
        if self.declared >= self.present:
            return None
        return f"header declares {self.declared} samples, {self.present} are present: all were read"


class _FrameHeader(NamedTuple):
    """Number of a frame, or of its first sample, and its samples."""

    number: int
    block_size: int


def read_flac_length(stream: Readable, size: int) -> FlacLength | None:
    """Compare the header with the last frame.

    Args:
        stream: The stream, seekable.
        size: Its size in bytes, without tags behind it.

    Returns:
        None for other files, where no length is declared, or the last frame is not intact.
    """
    stream.seek(0)
    start = stream.read(_STREAMINFO + 34)
    if start[:4] != b"fLaC" or len(start) < _STREAMINFO + 34:
        return None
    info = start[_STREAMINFO:]
    declared = int.from_bytes(info[13:18], "big") & (1 << 36) - 1
    at = max(size - _MAX_FRAME_BYTES, len(start))
    stream.seek(at)
    tail = stream.read(max(size - at, 0))
    first = _read_first_frame(stream)
    if first is None or not declared:
        return None
    for found in reversed(list(_SYNC.finditer(tail))):
        last = _read_frame_header(tail[found.start() :])
        if last is not None and not _crc(tail[found.start() :], 16, 0x8005):
            is_sample_number = tail[found.start() + 1] & 1
            number = last.number if is_sample_number else last.number * first.block_size
            return FlacLength(declared, number + last.block_size)
    return None


def _read_first_frame(stream: Readable) -> _FrameHeader | None:
    """Return the first frame's header; its block size is that of all frames but the last."""
    at, is_last = 4, False
    for _ in range(_MAX_BLOCKS):
        if is_last:
            break
        stream.seek(at)
        header = stream.read(4)
        if len(header) < 4:
            return None
        is_last = bool(header[0] & 0x80)
        at += 4 + int.from_bytes(header[1:], "big")
    stream.seek(at)
    start = stream.read(32)
    return _read_frame_header(start) if _SYNC.match(start) else None


def _read_frame_header(frame: bytes) -> _FrameHeader | None:
    """Return a frame's header, None if it is not one."""
    if len(frame) < 16 or frame[3] & 1 or frame[3] >> 4 > 10 or not frame[2] >> 4 or frame[2] & 15 == 15:
        return None
    number, at = _read_coded_number(frame[4:11])
    at += 4
    size_code, rate_code = frame[2] >> 4, frame[2] & 15
    if size_code in (6, 7):
        width = size_code - 5
        block_size = int.from_bytes(frame[at : at + width], "big") + 1
        at += width
    elif size_code == 1:
        block_size = 192
    else:
        block_size = 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if _crc(frame[: at + 1], 8, 0x07):
        return None
    return _FrameHeader(number, block_size)


def _read_coded_number(coded: bytes) -> tuple[int, int]:
    """Return a number in the form of UTF-8, and its length in bytes."""
    ones = 8 - (coded[0] ^ 0xFF).bit_length()
    if not ones:
        return coded[0], 1
    number = coded[0] & 0x7F >> ones
    for byte in coded[1:ones]:
        number = number << 6 | byte & 0x3F
    return number, max(ones, 1)


def _crc(content: bytes, width: int, polynomial: int) -> int:
    """Return a checksum; 0 of content that ends with its own."""
    table = _crc_table(width, polynomial)
    value, top, mask = 0, width - 8, (1 << width) - 1
    for byte in content:
        value = (value << 8 & mask) ^ table[value >> top ^ byte]
    return value


@cache
def _crc_table(width: int, polynomial: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << width - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> width - 1 else 0)
            value &= (1 << width) - 1
        table.append(value)
    return tuple(table)
