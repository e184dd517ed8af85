"""Audio files as trees of chunks, which can be changed and put together again.

Sizes and checksums follow what is changed in a chunk, so that readers come to the end of a file that is wrong
in one place only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Order = Literal["little", "big", "syncsafe"]
_NESTED = {
    b"RIFF",
    b"FORM",
    b"LIST",
    b"moov",
    b"trak",
    b"mdia",
    b"minf",
    b"dinf",
    b"stbl",
    b"udta",
    b"meta",
    b"ilst",
}
_NESTED |= {
    b"\x18\x53\x80\x67",
    b"\x16\x54\xae\x6b",
    b"\xae",
    b"\xe1",
    b"\x12\x54\xc3\x67",
    b"\x73\x73",
    b"\x67\xc8",
}
_NESTED |= {
    b"\x1f\x43\xb6\x75"
}  # Matroska's Segment, Tracks, TrackEntry, Audio, Tags, Tag, SimpleTag, Cluster


@dataclass
class Chunk:
    """A part of a file that has a header.

    Args:
        name: Its path in the file and, if several have the same, its number.
        header: Bytes up to its content, with the size.
        size_at: Position of the size in the header.
        size_bytes: Bytes of the size, 0 if there is none.
        order: Of these bytes.
        content: Bytes, or chunks.
        added: The size that an intact file declares, less the number of bytes of the content.
        page: Whether it is a page of an Ogg file, which has a checksum.
        declared: A wrong size, and whether it is added to the right one.
    """

    name: str
    header: bytes = b""
    size_at: int = 0
    size_bytes: int = 0
    order: Order = "big"
    content: "bytes | list[Chunk]" = b""
    added: int = 0
    page: bool = False
    declared: tuple[int, bool] | None = None

    def walk(self) -> "Iterator[tuple[Chunk, Chunk | None]]":
        """Yield this chunk and all in it, each with the one around it."""
        yield self, None
        for child in self.content if isinstance(self.content, list) else ():
            for chunk, around in child.walk():
                yield chunk, around or self

    def serialize(self) -> bytes:
        """Return its bytes, with a size and a checksum that are right unless a mutation says otherwise."""
        content = self.content
        data = content if isinstance(content, bytes) else b"".join(chunk.serialize() for chunk in content)
        header = bytearray(self.header)
        if self.size_bytes:
            size = len(data) + self.added
            if self.declared:
                value, relative = self.declared
                size = value + size * relative
            header[self.size_at : self.size_at + self.size_bytes] = pack(size, self.size_bytes, self.order)
        if self.page and len(header) >= _PAGE_BYTES:
            header[22:26] = bytes(4)
            header[22:26] = _page_checksum(header + data).to_bytes(4, "little")
        return bytes(header) + data


def pack(size: int, width: int, order: Order) -> bytes:
    """Return the bytes of a number, without those for which there is no room."""
    if order == "syncsafe":
        size = sum((size >> 7 * place & 127) << 8 * place for place in range(width))
    return (size % (1 << 8 * width)).to_bytes(width, "big" if order == "syncsafe" else order)


def _unpack(data: bytes, order: Order) -> int:
    if order == "syncsafe":
        return sum(byte << 7 * place for place, byte in enumerate(reversed(data)))
    return int.from_bytes(data, order)


_PAGE_BYTES = 27  # of the header, before the table of segments


def _crc_of_byte(byte: int) -> int:
    value = byte << 24
    for _ in range(8):
        value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFF_FFFF
    return value


_CRC_TABLE = tuple(map(_crc_of_byte, range(256)))


def _page_checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFF_FFFF) ^ _CRC_TABLE[value >> 24 ^ byte]
    return value


@dataclass(frozen=True)
class _Header:
    """Of a chunk: its bytes to its content, the size's place and width, and the content's bytes."""

    key: bytes
    length: int
    size_at: int
    size_bytes: int
    content: int
    order: Order = "big"


def _vint_bytes(first: int) -> int:
    return 9 - first.bit_length()


def _read_header(kind: str, data: bytes, at: int) -> _Header:
    """Return the header at a position; what is no chunk is one without a size, to the end."""
    key = data[at : at + 4]
    if kind in ("wav", "aiff"):
        order: Order = "little" if kind == "wav" else "big"
        content = _unpack(data[at + 4 : at + 8], order)
        if key in _NESTED:  # the type comes first
            return _Header(key, 12, 4, 4, content - 4, order)
        return _Header(key, 8, 4, 4, content + content % 2, order)
    if kind == "caf":
        return _Header(key, 12, 4, 8, _unpack(data[at + 4 : at + 12], "big"))
    if kind == "m4a":
        box = data[at + 4 : at + 8]
        length = 12 if box == b"meta" else 8
        return _Header(box, length, 0, 4, _unpack(key, "big") - length)
    if kind == "flac" and data[at] != 0xFF:
        return _Header(b"block %d" % (data[at] & 127), 4, 1, 3, _unpack(data[at + 1 : at + 4], "big"))
    if kind == "mp3" and key[:3] == b"ID3":
        return _Header(b"ID3", 10, 6, 4, _unpack(data[at + 6 : at + 10], "syncsafe"), "syncsafe")
    if kind == "mp3" and key.isalnum():
        return _Header(key, 10, 4, 4, _unpack(data[at + 4 : at + 8], "syncsafe"), "syncsafe")
    if kind in ("ogg", "opus"):
        length = _PAGE_BYTES + data[at + 26]
        return _Header(b"page", length, 0, 0, sum(data[at + _PAGE_BYTES : at + length]))
    if kind == "wv":
        return _Header(b"wvpk", 32, 4, 4, _unpack(data[at + 4 : at + 8], "little") - 24, "little")
    if kind == "mka":
        id_bytes = _vint_bytes(data[at])
        size_bytes = _vint_bytes(data[at + id_bytes])
        size = data[at + id_bytes : at + id_bytes + size_bytes]
        content = _unpack(size, "big") - (1 << 7 * size_bytes)
        return _Header(data[at : at + id_bytes], id_bytes + size_bytes, id_bytes, size_bytes, content)
    return _Header(b"frames", 0, 0, 0, len(data) - at)


_FIRST = {"flac": 4, "caf": 8}  # bytes before the first chunk


def split(kind: str, data: bytes) -> Chunk:
    """Split an intact file into chunks.

    Args:
        kind: Its extension.
        data: Its bytes.
    """
    first = _FIRST.get(kind, 0)
    names: dict[str, int] = {}
    return Chunk("file", data[:first], content=_split(kind, data, first, len(data), "", names))


def _split(kind: str, data: bytes, at: int, end: int, path: str, names: dict[str, int]) -> list[Chunk]:
    chunks = []
    while at < end:
        found = _read_header(kind, data, at)
        key = found.key.decode("latin-1") if found.key.isascii() else found.key.hex()
        name = path + key.strip()
        names[name] = names.get(name, -1) + 1
        name += f" {names[name]}" if names[name] else ""
        body = at + found.length
        stop = min(body + found.content, end)
        content: bytes | list[Chunk] = data[body:stop]
        if found.key in _NESTED or found.key == b"ID3":
            content = _split(kind, data, body, stop, f"{name}/", names)
        size = _unpack(data[at + found.size_at : at + found.size_at + found.size_bytes], found.order)
        added = size - (stop - body)
        page = found.key == b"page"
        chunks.append(
            Chunk(name, data[at:body], found.size_at, found.size_bytes, found.order, content, added, page)
        )
        at = stop
    return chunks
