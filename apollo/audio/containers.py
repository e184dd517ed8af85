"""Sizes that the headers of uncompressed files declare, and the bytes that are there.

Sources: the chunk structures of RIFF/WAVE (with RF64 and BW64, EBU Tech 3306), AIFF, CAF and Wave64, and the
header of AU. They are read here, not from a decoder's messages, which repeat what a file's tags say.
"""

import struct
from dataclasses import dataclass, replace
from typing import Protocol

_UNKNOWN_32 = range(0x7FFF_0000, 1 << 32)  # writers to pipes leave the largest value, or nearly
_UNKNOWN_64 = 1 << 62
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
_SOME_BYTES = 4096  # fewer zeros after the samples are padding
_NAMES = (  # of chunks that may follow the samples, and whose size may be wrong
    b"LISTid3 ID3 bextcue smplinstfactPEAKJUNKjunkFLLRPAD iXML_PMXcartacidafspLGWVDISPplst"
    b"NAMEAUTHANNOCOMTMARKINSTAPPLMIDI(c) CHANinfochan"
)
_CHUNKS = frozenset(_NAMES[at : at + 4] for at in range(0, len(_NAMES), 4))
_MAX_CHUNKS = 10_000
_FORMAT_BYTES = 16  # fewer do not include the bits of a sample


@dataclass(frozen=True)
class _Structure:
    """Form of a file's chunks.

    Args:
        first: Position of the first chunk.
        samples: Identifier of the chunk that has the samples.
        header: Form of a chunk's header: identifier and size.
        includes_header: Whether the size counts the header.
        alignment: Chunks begin at multiples of this many bytes.
        prefix: Bytes in front of the samples within their chunk.
    """

    first: int
    samples: bytes
    header: str
    includes_header: bool = False
    alignment: int = 2
    prefix: int = 0


_STRUCTURES = {  # by the file's first bytes
    b"RIFF": _Structure(12, b"data", "<4sI"),
    b"RF64": _Structure(12, b"data", "<4sI"),
    b"BW64": _Structure(12, b"data", "<4sI"),
    b"RIFX": _Structure(12, b"data", ">4sI"),
    b"FORM": _Structure(12, b"SSND", ">4sI", prefix=8),
    b"caff": _Structure(8, b"data", ">4sq", alignment=1, prefix=4),
    b"riff": _Structure(40, b"data", "<4s12xQ", includes_header=True, alignment=8),
}


class Readable(Protocol):
    """What is needed of a file opened for reading."""

    def seek(self, offset: int, /) -> int:
        """Move to a position."""
        ...

    def read(self, size: int, /) -> bytes:
        """Read at most that many bytes."""
        ...


class FileRange:
    """Range of the bytes of a file, as a file.

    Args:
        stream: The file, seekable.
        start: First byte of the range.
        end: Byte after its last.
    """

    def __init__(self, stream: Readable, start: int, end: int) -> None:
        self._stream, self._start, self._size = stream, start, end - start
        self._at = 0

    def seek(self, offset: int, /) -> int:
        """Move to a position in the range."""
        self._at = offset
        return offset

    def read(self, size: int, /) -> bytes:
        """Read at most that many bytes, none after the end of the range."""
        left = self._size - self._at
        if left <= 0:
            return b""  # positions that a header invents may be too large for the file system
        self._stream.seek(self._start + self._at)
        content = self._stream.read(min(size, left))
        self._at += len(content)
        return content


@dataclass(frozen=True)
class SampleBytes:
    """Bytes of samples of an uncompressed file.

    Args:
        declared: What the header declares; None if it says that it does not know.
        present: What is there of them, or up to the end of the file where nothing or 0 is declared.
        extra: Bytes after them that belong to no chunk.
        end: Position after the declared samples where other content follows them, None elsewhere.
        format_bytes: Size of the chunk that says what a sample is, in WAV and W64.
    """

    declared: int | None
    present: int
    extra: int = 0
    end: int | None = None
    format_bytes: int = _FORMAT_BYTES

    def find_truncation(self) -> str | None:
        """Return that the file ends before its samples do, or its form is incomplete; None if not."""
        if self.format_bytes < _FORMAT_BYTES:
            return f"damaged: the fmt chunk has {self.format_bytes} bytes, so the size of a sample is unknown"
        if self.declared is None or self.declared <= self.present:
            return None
        return f"truncated: header declares {self.declared} bytes of samples, {self.present} are present"

    def find_excess(self) -> str | None:
        """Return that the file seems to have more samples than its header declares, None if it does not."""
        if self.declared == 0 and self.present:
            return f"unfinished: header declares no samples; the {self.present} bytes present were read"
        if not self.extra:
            return None
        return (
            f"header declares {self.declared} bytes of samples, {self.extra} bytes of unknown content follow "
            "and were left out: they may be more samples, as in files over 4 GiB with 32-bit sizes"
        )


def read_sample_bytes(stream: Readable, size: int) -> SampleBytes | None:
    """Compare a header with the file.

    Args:
        stream: The file, seekable; it may begin at another position.
        size: Its size in bytes.

    Returns:
        None for files of other formats, and for those without samples.
    """
    stream = FileRange(stream, 0, size)
    start = stream.read(12)
    if start[:4] == b".snd" and len(start) == 12:
        return _read_au(stream, size, *struct.unpack(">4xII", start))
    structure = _STRUCTURES.get(start[:4])
    return None if structure is None else _read_chunks(stream, size, structure)


def _read_au(stream: Readable, size: int, offset: int, declared: int) -> SampleBytes:
    present = max(size - offset, 0)
    if declared == 0xFFFF_FFFF:
        return SampleBytes(None, present)
    if not declared:
        return SampleBytes(0, present)
    extra = _count_extra(stream, size, offset + declared)
    return SampleBytes(declared, min(declared, present), extra, offset + declared if extra else None)


def _read_chunks(stream: Readable, size: int, structure: _Structure) -> SampleBytes | None:
    at, long_size, format_bytes = structure.first, None, _FORMAT_BYTES
    for _ in range(_MAX_CHUNKS):
        chunk = _read_header(stream, at, structure)
        if chunk is None:
            return None
        name, length, content = chunk
        if name == b"ds64":
            fields = stream.read(16)
            long_size = struct.unpack_from("<8xQ", fields)[0] if len(fields) == 16 else None
        if name == b"fmt ":
            format_bytes = length
        if name == structure.samples:
            if length == 0xFFFF_FFFF and long_size is not None:
                length = long_size
            found = _measure(stream, size, structure, content, length)
            return replace(found, format_bytes=format_bytes)
        at = _next_chunk(content, length, structure)
        if at >= size:
            return None
    return None


def _read_header(stream: Readable, at: int, structure: _Structure) -> tuple[bytes, int, int] | None:
    """Return name, length and position of a chunk's content."""
    stream.seek(at)
    width = struct.calcsize(structure.header)
    header = stream.read(width)
    if len(header) < width:
        return None
    name, length = struct.unpack(structure.header, header)
    return name, length - (width if structure.includes_header else 0), at + width


def _next_chunk(content: int, length: int, structure: _Structure) -> int:
    return -(-(content + max(length, 0)) // structure.alignment) * structure.alignment


def _measure(stream: Readable, size: int, structure: _Structure, content: int, length: int) -> SampleBytes:
    present = max(size - content - structure.prefix, 0)
    unknown = length < 0 or length > _UNKNOWN_64
    if unknown or ("I" in structure.header and length in _UNKNOWN_32 and length > size):
        return SampleBytes(None, present)
    declared = max(length - structure.prefix, 0)
    stream.seek(content + length)
    after = _next_chunk(content, length, structure)
    if any(stream.read(after - content - length)):
        after = content + length  # no padding
    extra = _find_extra(stream, size, structure, after)
    if length == 0:
        return SampleBytes(0, max(extra - structure.prefix, 0))
    return SampleBytes(declared, min(declared, present), extra, content + length if extra else None)


def _find_extra(stream: Readable, size: int, structure: _Structure, at: int) -> int:
    """Return how many bytes follow the samples that are neither chunks nor tags."""
    for _ in range(_MAX_CHUNKS):
        chunk = _read_header(stream, at, structure)
        if chunk is None:
            break
        name, length, content = chunk
        if not (name.isascii() and name.decode("latin-1").isprintable() and 0 <= length <= size - content):
            if name in _CHUNKS:
                return 0
            break
        at = _next_chunk(content, length, structure)
    return _count_extra(stream, size, at)


def _count_extra(stream: Readable, size: int, at: int) -> int:
    """Return how many bytes follow, 0 if they are a few zeros or a tag."""
    stream.seek(at)
    start = stream.read(_SOME_BYTES)
    if start.startswith(_TAGS) or (len(start) < _SOME_BYTES and not any(start)):
        return 0
    return max(size - at, 0)
