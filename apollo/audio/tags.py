"""Tags of a song between two formats: texts by the names of Vorbis comments, and pictures."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apollo import __version__
from apollo.audio.tag_names import DROPPED, DROPPED_BEGINNINGS, STANDARD, SYNONYMS, TOTALS
from apollo.model.config import PACKAGED

RESTORATION = "RESTORATION"


@dataclass(frozen=True)
class Picture:
    """A picture, such as the front cover.

    Args:
        data: Bytes of an image file.
        mime: Its type, such as `image/jpeg`.
        type: Number of its purpose, as ID3 and FLAC count: 3 is the front cover.
        description: A text.
        shape: Width, height, bits per pixel, number of colours of a palette; zeros if unknown.
    """

    data: bytes
    mime: str
    type: int = 3
    description: str = ""
    shape: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass
class SongTags:
    """Tags of a song.

    Args:
        texts: Values by name. Standard names are those of `tag_names`; others are spelled as in the input.
        pictures: In their order.
        frames: ID3 frames that only ID3 can hold, such as chapters.
        bitrate_bps: Of the audio, as the container says; 0 if unknown.
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    bitrate_bps: int = 0
    _spelling: dict[str, str] = field(default_factory=dict, repr=False, compare=False)  # by name in capitals
    _known: set[tuple[str, str]] = field(default_factory=set, repr=False, compare=False)

    def add(self, name: str, values: Iterable[object]) -> None:
        """Append values of a tag, unless they are there, or are about the input's encoder or levels."""
        name = self._find_name(name.strip())
        if not name or name.upper() in DROPPED or name.upper().startswith(DROPPED_BEGINNINGS):
            return
        for text in map(_clean, values):
            if name in TOTALS and "/" in text:
                text, _, total = (part.strip() for part in text.partition("/"))
                self._append(TOTALS[name], total)
            self._append(name, text)

    def _find_name(self, name: str) -> str:
        upper = name.upper()
        upper = SYNONYMS.get(upper, upper)
        if upper in STANDARD or upper == RESTORATION:
            return upper
        return self._spelling.setdefault(upper, name)

    def _append(self, name: str, text: str) -> None:
        if text and (name, text) not in self._known:
            self._known.add((name, text))
            self.texts.setdefault(name, []).append(text)

    def fill(self, other: "SongTags") -> None:
        """Add what another set of tags has and this one lacks."""
        names = {name.upper() for name in self.texts}
        self.texts |= {name: values for name, values in other.texts.items() if name.upper() not in names}
        self.pictures = self.pictures or other.pictures
        self.frames = self.frames or other.frames

    def mark_restored(self, *, source: str, model: str, strength: float) -> None:
        """Say that the audio was restored, so that nobody takes it for the original.

        Args:
            source: Coding of the input, such as `mp3, 128 kbps, 44100 Hz`.
            model: Name of the generator.
            strength: Of its noise.
        """
        by = f"apollo {__version__}"
        how = f"model {model}, strength {strength:g}"
        self._append(RESTORATION, f"restored by {by} ({how}) from {source}; not an original")
        self.texts["ENCODER"] = [f"{by}, restored from {source}"]


def describe_checkpoint(name: str) -> str:
    """Return the name of a checkpoint for a tag: of a path on this machine, only its last two parts."""
    path = Path(name)
    return name if name in PACKAGED or not path.exists() else "/".join(path.resolve().parts[-2:])


def _clean(value: object) -> str:
    """Return a text that every format can hold."""
    return str(value).replace("\0", "").encode(errors="replace").decode().strip()
