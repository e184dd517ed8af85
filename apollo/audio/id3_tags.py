"""ID3 frames to tags and back."""

import re
import zlib
from typing import Any

from apollo.audio.tag_names import FREEFORM, ID3, PEOPLE, TO_FREEFORM, TO_ID3, TOTALS
from apollo.audio.tags import Picture, SongTags

MAX_DECOMPRESSED_BYTES = 1 << 24  # of all compressed frames: a few bytes can become arbitrarily many
_MUSICBRAINZ = "http://musicbrainz.org"  # owner of an identifier, not an address to open
_KEPT = frozenset({"CHAP", "CTOC", "POPM", "PCNT", "SYLT", "MCDI"})
_PERFORMER = re.compile(r"^(.*) \(([^()]*)\)$", re.DOTALL)


class _LimitedZlib:
    """What mutagen takes of the module zlib, with an end to what it decompresses."""

    error = zlib.error

    def __init__(self) -> None:
        self._rest = MAX_DECOMPRESSED_BYTES

    def decompress(self, data: bytes) -> bytes:
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(data, self._rest + 1)
        if not decompressor.eof or len(content) > self._rest:
            self._rest = 0
            raise zlib.error(f"incomplete, or more than {MAX_DECOMPRESSED_BYTES >> 20} MiB")
        self._rest -= len(content)
        return content


def limit_decompression() -> None:
    """Have mutagen decompress no more than MAX_DECOMPRESSED_BYTES from now on; it has no option for it."""
    from mutagen.id3 import _frames

    _frames.zlib = _LimitedZlib()


def add_frames(frames: Any, tags: SongTags) -> None:
    """Add the frames of an ID3 tag to tags."""
    for frame in frames.values():
        kind = frame.FrameID
        if kind == "TXXX":
            tags.add(FREEFORM.get(frame.desc.upper(), frame.desc), frame.text)
        elif kind == "COMM":
            tags.add(f"COMMENT:{frame.desc}" if frame.desc else "COMMENT", frame.text)
        elif kind == "USLT":
            tags.add("LYRICS", [frame.text])
        elif kind == "APIC":
            description = frame.desc.rstrip()  # mutagen adds blanks to equal ones
            tags.pictures.append(Picture(frame.data, _mime(frame.mime), int(frame.type), description))
        elif kind == "UFID" and frame.owner == _MUSICBRAINZ:
            tags.add("MUSICBRAINZ_TRACKID", [frame.data.decode(errors="replace")])
        elif kind in ("TIPL", "TMCL", "IPLS"):
            _add_people(frame.people, tags)
        elif kind == "TCON":
            tags.add("GENRE", frame.genres)
        elif kind == "WXXX":
            tags.add(f"WXXX:{frame.desc}", [frame.url])
        elif kind in _KEPT:
            tags.frames.append(frame)
        elif hasattr(frame, "url"):
            tags.add(ID3.get(kind, kind), [frame.url])
        elif hasattr(frame, "text"):
            tags.add(ID3.get(kind, kind), frame.text)


def _mime(mime: str) -> str:
    """Return the type of a picture; ID3v2.2 has three letters."""
    return {"JPG": "image/jpeg", "PNG": "image/png", "jpg": "image/jpeg"}.get(mime, mime)


def _add_people(people: list[list[str]], tags: SongTags) -> None:
    for role, name in (pair for pair in people if len(pair) == 2):
        if role in PEOPLE:
            tags.add(PEOPLE[role], [name])
        else:
            tags.add("PERFORMER", [f"{name} ({role})" if role else name])


def make_frames(tags: SongTags) -> list[Any]:
    """Return the ID3v2.4 frames of tags."""
    from mutagen import id3

    utf8 = id3.Encoding.UTF8
    totals = {total: name for name, total in TOTALS.items()}
    frames: list[Any] = list(tags.frames)
    people: list[list[str]] = []
    musicians: list[list[str]] = []
    roles = {name: role for role, name in PEOPLE.items()}
    for name, values in tags.texts.items():
        kind = TO_ID3.get(name, name)
        if name in totals and totals[name] in tags.texts:
            continue  # stands behind a slash
        if name in TOTALS:
            total = tags.texts.get(TOTALS[name])
            values = [f"{values[0]}/{total[0]}" if total else values[0]]
        if name.partition(":")[0] == "COMMENT":
            frames.append(id3.COMM(utf8, "eng", name.partition(":")[2], values))
        elif name == "LYRICS":
            frames.append(id3.USLT(utf8, "eng", "", "\n\n".join(values)))
        elif name == "MUSICBRAINZ_TRACKID":
            frames.append(id3.UFID(_MUSICBRAINZ, values[0].encode()))
        elif name in roles:
            people += [[roles[name], value] for value in values]
        elif name == "PERFORMER":
            musicians += map(_split_performer, values)
        elif name.startswith("WXXX:"):
            frames.append(id3.WXXX(utf8, name.removeprefix("WXXX:"), values[0]))
        elif issubclass(id3.Frames.get(kind, object), id3.UrlFrame):
            frames.append(id3.Frames[kind](values[0]))
        elif re.fullmatch("[TM][A-Z0-9]{3}", kind) and issubclass(
            id3.Frames.get(kind, object), id3.TextFrame
        ):
            frames.append(id3.Frames[kind](utf8, values))
        else:
            frames.append(id3.TXXX(utf8, TO_FREEFORM.get(name, name), values))
    frames += [id3.TIPL(utf8, people)] if people else []
    frames += [id3.TMCL(utf8, musicians)] if musicians else []
    return frames


def _split_performer(value: str) -> list[str]:
    """Return instrument and name of `name (instrument)`."""
    found = _PERFORMER.match(value)
    return [found[2], found[1]] if found else ["", value]


def add_to_id3(tags: SongTags, target: Any) -> None:
    """Put tags into an ID3 object of mutagen."""
    from mutagen import id3

    for frame in make_frames(tags):
        target.add(frame)
    for picture in tags.pictures:
        frame = id3.APIC(id3.Encoding.UTF8, picture.mime, picture.type, picture.description, picture.data)
        while frame.HashKey in target:
            frame.salt += " "  # distinguishes them in memory alone
        target.add(frame)
