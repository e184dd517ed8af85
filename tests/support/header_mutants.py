"""Files whose headers declare a wrong length: one field of an intact file is replaced."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.datasets import encode, music, write

RATES = (44_100, 48_000)
SECONDS = 0.4
Find = Callable[[bytes], int]


def _after(name: bytes, offset: int) -> Find:
    return lambda content: content.index(name) + offset


def _at(offset: int) -> Find:
    return lambda content: offset


@dataclass(frozen=True)
class Field:
    """A length in a header.

    Args:
        name: What it says.
        find: Returns its position in a file.
        width: Bytes.
        order: `little` or `big`.
        bits: How many of its low bits are the length.
    """

    name: str
    find: Find
    width: int
    order: str
    bits: int = 64


FIELDS = {  # by extension
    "wav": (
        Field("RIFF size", _at(4), 4, "little"),
        Field("fmt size", _after(b"fmt ", 4), 4, "little"),
        Field("data size", _after(b"data", 4), 4, "little"),
    ),
    "aiff": (
        Field("FORM size", _at(4), 4, "big"),
        Field("COMM size", _after(b"COMM", 4), 4, "big"),
        Field("frames", _after(b"COMM", 10), 4, "big"),
        Field("SSND size", _after(b"SSND", 4), 4, "big"),
    ),
    "au": (Field("offset", _at(4), 4, "big"), Field("data size", _at(8), 4, "big")),
    "w64": (
        Field("riff size", _at(16), 8, "little"),
        Field("fmt size", _after(b"fmt ", 16), 8, "little"),
        Field("data size", _after(b"data", 16), 8, "little"),
    ),
    "flac": (
        Field("STREAMINFO size", _at(5), 3, "big"),
        Field("smallest block", _at(8), 2, "big"),
        Field("largest block", _at(10), 2, "big"),
        Field("smallest frame", _at(12), 3, "big"),
        Field("largest frame", _at(15), 3, "big"),
        Field("samples", _at(21), 5, "big", 36),
    ),
    "caf": (
        Field("desc size", _after(b"desc", 4), 8, "big"),
        Field("data size", _after(b"data", 4), 8, "big"),
    ),
}


@dataclass(frozen=True)
class Mutant:
    """A file with a wrong length.

    Args:
        name: What was changed, for messages.
        original: Name of the intact file.
        content: Bytes.
    """

    name: str
    original: str
    content: bytes


def write_originals(folder: Path) -> None:
    """Write an intact file of each format and sample rate."""
    for rate in RATES:
        wav = write(folder / f"{rate}.wav", music(rate, SECONDS, rate), rate)
        for extension in FIELDS:
            if extension != "wav":
                encode(wav, folder / f"{rate}.{extension}")


def make_mutant(originals: Path, chance: random.Random) -> Mutant:
    """Change one length of one file."""
    extension = chance.choice(sorted(FIELDS))
    original = f"{chance.choice(RATES)}.{extension}"
    field = chance.choice(FIELDS[extension])
    content = bytearray((originals / original).read_bytes())
    at = field.find(content)
    stored = int.from_bytes(content[at : at + field.width], field.order)
    mask = (1 << min(field.bits, 8 * field.width)) - 1
    true = stored & mask
    values = [0, 1, 2, true // 2, true // 4 * 2, 2 * true, true + 1, true - 1, true + 4, true - 4, 10 * true]
    values += [true + chance.randrange(10_000), true - chance.randrange(10_000), chance.randrange(mask + 1)]
    values += [mask, mask - 1, mask >> 1, (mask >> 1) + 1, len(content), 1 << 31, (1 << 32) - 1]
    value = chance.choice(values)
    changed = stored & ~mask | value & mask
    content[at : at + field.width] = changed.to_bytes(field.width, field.order)
    return Mutant(f"{original}: {field.name} {true} -> {value & mask}", original, bytes(content))
