"""Read the tags of a file of any format with mutagen.

Files are untrusted: mutagen reads a limited number of bytes of one file. What cannot be read is a warning.
"""

import base64
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from apollo.audio import id3_tags
from apollo.audio.tag_names import ASF, FREEFORM, MP4, MP4_FLAGS, MP4_INTEGERS, MP4_PAIRS
from apollo.audio.tags import Picture, SongTags

MAX_READ_BYTES = 1 << 28  # the most that an ID3 tag can have
_MP4_MIMES = {13: "image/jpeg", 14: "image/png", 27: "image/bmp", 12: "image/gif"}


class _LimitedFile:
    """A file of which no more than MAX_READ_BYTES are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._rest = file, MAX_READ_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(min(size, self._rest + 1) if size >= 0 else self._rest + 1)
        self._rest -= len(content)
        if self._rest < 0:
            raise ValueError(f"more than {MAX_READ_BYTES >> 20} MiB")
        return content


def read_tags(path: str) -> tuple[SongTags, list[str]]:
    """Read all tags of a file: ID3v1, ID3v2, APEv2, Vorbis comments, FLAC pictures, MP4, ASF.

    Returns:
        What could be read, and warnings about the rest.
    """
    import mutagen  # noqa: F401 - not among the errors below

    id3_tags.limit_decompression()
    tags = SongTags()
    warnings: list[str] = []
    for read in (_read_container, _read_id3, _read_ape):
        found = SongTags()
        try:
            with open(path, "rb") as file:
                read(_LimitedFile(file), found, warnings)
        except Exception as error:  # whatever mutagen raises on damaged tags, the song is restored
            warnings.append(f"tags cannot be read: {describe(error)}")
        tags.fill(found)
        tags.bitrate_bps = tags.bitrate_bps or found.bitrate_bps
    return tags, list(dict.fromkeys(warnings))


def describe(error: Exception) -> str:
    """Return the reason of an error of mutagen as one short line."""
    text = " ".join(str(error).split())
    return "damaged" if text in ("", "error") else text[:200]


def _read_container(file: Any, tags: SongTags, warnings: list[str]) -> None:
    from mutagen import File as open_tags
    from mutagen import aiff, asf, dsdiff, dsf, flac, mp4, oggflac, oggopus, oggspeex, oggvorbis, wave

    kinds = [aiff.AIFF, asf.ASF, dsdiff.DSDIFF, dsf.DSF, flac.FLAC, mp4.MP4, wave.WAVE]
    kinds += [oggflac.OggFLAC, oggopus.OggOpus, oggspeex.OggSpeex, oggvorbis.OggVorbis]
    start = _after_id3(file)
    if not _can_have_tags(file):
        return
    if start:  # mutagen looks for other formats at the beginning alone
        file.seek(start)
        found = flac.FLAC(file) if file.read(4) == b"fLaC" else None
    else:
        found = open_tags(file, options=kinds)
    if found is None:
        return
    tags.bitrate_bps = int(getattr(found.info, "bitrate", 0) or 0)
    content = found.tags
    if isinstance(content, mp4.MP4Tags):
        _add_mp4(content, tags)
    elif isinstance(found, asf.ASF):
        _add_asf(content, tags)
    elif hasattr(content, "getall"):
        id3_tags.add_frames(content, tags)
    elif content is not None:
        _add_vorbis(content, tags, warnings)
    for picture in getattr(found, "pictures", ()):
        tags.pictures.append(_from_flac(picture))


def _can_have_tags(file: Any) -> bool:
    """Return whether mutagen knows a file's kind of RIFF or IFF, if it is one, and has its size."""
    header: bytes = file.read(12)
    file.seek(0)
    if header[:4] == b"FORM":
        return header[8:] in (b"AIFF", b"AIFC") and header[4:8] != bytes(4)
    if header[:4] == b"RIFF" or header[8:] == b"WAVE":  # RF64, BW64 and RIFX are others
        return header[:4] == b"RIFF" and header[8:] == b"WAVE" and header[4:8] != bytes(4)
    return True


def _after_id3(file: Any) -> int:
    file.seek(0)
    header: bytes = file.read(10)
    file.seek(0)
    if header[:3] != b"ID3" or len(header) < 10:
        return 0
    size = header[6] << 21 | header[7] << 14 | header[8] << 7 | header[9]
    return size + (20 if header[5] & 0x10 else 10)


def _read_id3(file: Any, tags: SongTags, warnings: list[str]) -> None:
    """Read ID3v2 at the beginning and ID3v1 at the end, of any file."""
    from mutagen.id3 import ID3, ID3NoHeaderError

    with suppress(ID3NoHeaderError):
        id3_tags.add_frames(ID3(file), tags)


def _read_ape(file: Any, tags: SongTags, warnings: list[str]) -> None:
    from mutagen.apev2 import BINARY, APENoHeaderError, APEv2

    try:
        items = APEv2(file)
    except APENoHeaderError:
        return
    for name, value in items.items():
        if value.kind != BINARY:
            tags.add(name, str(value).split("\0"))
        elif name.lower().startswith("cover art"):
            description, _, data = bytes(value.value).partition(b"\0")
            kind = 4 if "back" in name.lower() else 3
            tags.pictures.append(Picture(data, guess_mime(data), kind, description.decode(errors="replace")))
    tags.pictures.sort(key=lambda picture: picture.type)  # items have no order


def _add_vorbis(comments: Any, tags: SongTags, warnings: list[str]) -> None:
    from mutagen import flac

    for name, value in comments:
        if name.upper() == "METADATA_BLOCK_PICTURE":
            picture = _decode(value, lambda data: _from_flac(flac.Picture(data)), warnings)
            tags.pictures += [picture] if picture is not None else []
        elif name.upper() == "COVERART":  # before there were picture blocks
            picture = _decode(value, lambda data: Picture(data, guess_mime(data)), warnings)
            tags.pictures += [picture] if picture is not None else []
        elif name.upper() != "COVERARTMIME":
            tags.add(name, [value])


def _decode(value: str, parse: Callable[[bytes], Picture], warnings: list[str]) -> Picture | None:
    try:
        return parse(base64.b64decode(value, validate=True))
    except Exception as error:  # of base64, struct or mutagen: one picture is damaged
        warnings.append(f"a picture cannot be read: {describe(error)}")
        return None


def _from_flac(picture: Any) -> Picture:
    shape = picture.width, picture.height, picture.depth, picture.colors
    return Picture(picture.data, picture.mime, int(picture.type), picture.desc, shape)


def guess_mime(data: bytes) -> str:
    """Return the type of an image by its first bytes."""
    for start, mime in ((b"\xff\xd8", "jpeg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp")):
        if data.startswith(start):
            return f"image/{mime}"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "application/octet-stream"


def _add_mp4(atoms: Any, tags: SongTags) -> None:
    for name, values in atoms.items():
        if name == "covr":
            for cover in values:
                mime = _MP4_MIMES.get(cover.imageformat) or guess_mime(bytes(cover))
                tags.pictures.append(Picture(bytes(cover), mime, 3 if not tags.pictures else 0))
        elif name in MP4_PAIRS:
            for pair in values:
                for common, number in zip(MP4_PAIRS[name], pair, strict=False):
                    tags.add(common, [number] if number else [])
        elif name in MP4_FLAGS:
            tags.add(MP4_FLAGS[name], [int(bool(values))])
        elif name in MP4_INTEGERS:
            tags.add(MP4_INTEGERS[name], values)
        elif name.startswith("----:"):
            own = name.split(":", 2)[-1]
            tags.add(FREEFORM.get(own.upper(), own), [bytes(one).decode(errors="replace") for one in values])
        elif name in MP4:
            tags.add(MP4[name], values)


def _add_asf(attributes: Any, tags: SongTags) -> None:
    for name, value in attributes:
        if name == "WM/Picture":
            tags.pictures.append(_parse_asf_picture(bytes(value.value)))
        elif name == "WM/IsCompilation":
            tags.add("COMPILATION", [int(bool(value.value))])
        elif not isinstance(value.value, bytes):
            tags.add(ASF.get(name, name.removeprefix("WM/")), [value.value])


def _parse_asf_picture(content: bytes) -> Picture:
    kind, size = struct.unpack_from("<BI", content)
    mime, description, at = "", "", 5
    for _ in range(2):
        end = at
        while content[end : end + 2] not in (b"\0\0", b""):
            end += 2
        mime, description, at = description, content[at:end].decode("utf-16-le", errors="replace"), end + 2
    return Picture(content[at : at + size], mime, kind, description)
