"""Write tags into a complete file of any output format, with mutagen."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from apollo.audio import id3_tags
from apollo.audio.tag_names import MP4_FLAGS, MP4_INTEGERS, MP4_PAIRS, TO_FREEFORM, TO_MP4
from apollo.audio.tag_reading import describe, guess_mime
from apollo.audio.tags import RESTORATION, Picture, SongTags

_FLAC_BLOCK_BYTES = (1 << 24) - 1
_OPUS_BYTES = 22 << 20  # in base64; readers may refuse 120 MiB (RFC 7845), mutagen takes minutes to write it
_ID3_BYTES = (1 << 28) - 1
_WAV_BYTES = (1 << 32) - (1 << 16)
_MP4_BYTES = (1 << 32) - 1
_HEADER_BYTES = 1 << 12
_NAME_BYTES = re.compile(r"[^\x20-\x3c\x3e-\x7d]")  # what a Vorbis comment's name cannot hold


def write_tags(path: Path, container: str, tags: SongTags) -> list[str]:
    """Write tags into a file that has none.

    Args:
        path: The file.
        container: `WAV`, `FLAC`, `ipod`, `opus` or `mp3`.
        tags: Of the song.

    Returns:
        Warnings about what was left out.

    Raises:
        OSError: the disk is full or another error of the file system occurred.
    """
    import mutagen

    pictures, warnings = _fitting(path, container, tags)
    own = {name: tags.texts[name] for name in (RESTORATION, "ENCODER") if name in tags.texts}
    for content in (replace(tags, pictures=pictures), SongTags(own)):
        try:
            _WRITERS[container](path, content)
            break
        except OSError:
            raise
        except mutagen.MutagenError as error:  # it hides errors of the file system
            if error.args and isinstance(error.args[0], OSError):
                raise error.args[0] from error
            warnings.append(f"tags cannot be written: {describe(error)}")
        except Exception as error:  # of values that a format cannot hold: the song is restored
            warnings.append(f"tags cannot be written: {describe(error)}")
    return list(dict.fromkeys(warnings))


def _fitting(path: Path, container: str, tags: SongTags) -> tuple[list[Picture], list[str]]:
    """Return the pictures that a format can hold, and warnings about the others."""
    limit, text = {
        "FLAC": (_FLAC_BLOCK_BYTES, "16 MiB in FLAC"),
        "opus": (_OPUS_BYTES, "16 MiB in Opus"),
        "mp3": (_ID3_BYTES, "256 MiB in MP3"),
        "WAV": (min(_ID3_BYTES, _WAV_BYTES - path.stat().st_size), "256 MiB in WAV, of 4 GiB in all"),
        "ipod": (_MP4_BYTES, "4 GiB in M4A"),
    }[container]
    rest = limit - _HEADER_BYTES - sum(len(str(values).encode()) for values in tags.texts.values())
    fitting, warnings = [], []
    for picture in tags.pictures:
        size = len(picture.data) + len(picture.mime) + len(picture.description.encode()) + 64
        size = size * 4 // 3 + 64 if container == "opus" else size
        if not picture.data:
            warnings.append("a picture without content was left out")
        elif container == "ipod" and guess_mime(picture.data) not in _covers():
            warnings.append("a picture that is neither JPEG, PNG nor BMP was left out: M4A cannot hold it")
        elif size > (_FLAC_BLOCK_BYTES - _HEADER_BYTES if container == "FLAC" else rest):
            warnings.append(f"a picture of {len(picture.data)} bytes was left out: the limit is {text}")
        else:
            fitting.append(picture)
            rest -= size
    return fitting, warnings


def _write_mp3(path: Path, tags: SongTags) -> None:
    from mutagen.id3 import ID3

    content = ID3()
    id3_tags.add_to_id3(tags, content)
    content.save(path)


def _write_wav(path: Path, tags: SongTags) -> None:
    from mutagen.wave import WAVE

    with path.open("rb") as file:
        if file.read(4) == b"RF64":
            raise ValueError("a WAV of more than 4 GiB has no place for them")
    wave = WAVE(path)
    wave.add_tags()
    id3_tags.add_to_id3(tags, wave.tags)
    wave.save()


def _write_flac(path: Path, tags: SongTags) -> None:
    from mutagen.flac import FLAC

    flac = FLAC(path)
    _set_comments(flac, tags)
    for picture in tags.pictures:
        flac.add_picture(_to_flac(picture))
    flac.save()


def _write_opus(path: Path, tags: SongTags) -> None:
    from mutagen.oggopus import OggOpus

    opus = OggOpus(path)
    _set_comments(opus, tags)
    blocks = [base64.b64encode(_to_flac(picture).write()).decode("ascii") for picture in tags.pictures]
    if blocks:
        opus["METADATA_BLOCK_PICTURE"] = blocks
    opus.save()


def _set_comments(target: Any, tags: SongTags) -> None:
    if target.tags is None:
        target.add_tags()
    target.tags.clear()
    for name, values in tags.texts.items():
        target.tags[_NAME_BYTES.sub("_", name)] = values


def _to_flac(picture: Picture) -> Any:
    from mutagen.flac import Picture as FlacPicture

    block = FlacPicture()
    block.data, block.mime, block.type = picture.data, picture.mime, picture.type
    block.desc = picture.description
    block.width, block.height, block.depth, block.colors = picture.shape
    return block


def _covers() -> dict[str, int]:
    """Return the formats of covers that an MP4 can hold, by type."""
    from mutagen.mp4 import AtomDataType

    return {"image/jpeg": AtomDataType.JPEG, "image/png": AtomDataType.PNG, "image/bmp": AtomDataType.BMP}


def _write_mp4(path: Path, tags: SongTags) -> None:
    from mutagen.mp4 import MP4, MP4Cover

    mp4 = MP4(path)
    if mp4.tags is None:
        mp4.add_tags()
    atoms, texts = mp4.tags, dict(tags.texts)
    assert atoms is not None  # noqa: S101 - added above
    atoms.clear()
    for atom, names in MP4_PAIRS.items():
        numbers = [texts.get(name, ["0"])[0] for name in names]
        if any(name in texts for name in names) and all(_is_integer(one, 16) for one in numbers):
            atoms[atom] = [tuple(int(one) for one in numbers)]
            texts = {name: values for name, values in texts.items() if name not in names}
    for atom, name in MP4_FLAGS.items():
        if texts.get(name, [""])[0] in ("0", "1"):
            atoms[atom] = texts.pop(name)[0] == "1"
    for atom, name in MP4_INTEGERS.items():
        if name in texts and all(
            _is_integer(one, 8 if atom in ("stik", "shwm") else 16) for one in texts[name]
        ):
            atoms[atom] = [int(one) for one in texts.pop(name)]
    for name, values in texts.items():
        if name in TO_MP4:
            atoms[TO_MP4[name]] = values
        else:
            own = TO_FREEFORM.get(name, name).replace("\0", "")
            atoms[f"----:com.apple.iTunes:{own}"] = [value.encode() for value in values]
    covers = sorted(tags.pictures, key=lambda picture: picture.type != 3)  # players show the first
    if covers:
        atoms["covr"] = [MP4Cover(one.data, _covers()[guess_mime(one.data)]) for one in covers]
    mp4.save()


def _is_integer(text: str, bits: int) -> bool:
    return bool(re.fullmatch("[0-9]{1,5}", text)) and int(text) < 1 << (bits - 1)


_WRITERS: dict[str, Callable[[Path, SongTags], None]] = {
    "mp3": _write_mp3,
    "WAV": _write_wav,
    "FLAC": _write_flac,
    "opus": _write_opus,
    "ipod": _write_mp4,
}
