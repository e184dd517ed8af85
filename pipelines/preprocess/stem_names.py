"""Guess from names whether files of a folder are stems, and of which class, or songs."""

import re
import unicodedata
from collections.abc import Sequence

from pipelines.schema import MIXTURE, STEMS

_WORDS = {  # common words in file names; the names of the classes count too
    "bass": "bass 808 subbass",
    "bowed_strings": "strings violin violins viola cello fiddle",
    "drums": "drums drum kick snare hihat hihats hat hats tom toms overhead overheads cymbal cymbals",
    "guitar": "guitar guitars gtr acgtr elgtr",
    "other": "other fx effects",
    "other_keys": "keys synth synths organ rhodes keyboard keyboards wurlitzer pad",
    "other_plucked": "plucked harp banjo mandolin ukulele",
    "percussion": "percussion perc shaker tambourine conga congas bongo bongos",
    "piano": "piano",
    "vocals": "vocals vocal vox voice voices choir leadvox bgvox",
    "wind": "wind winds brass flute sax saxophone trumpet trombone horn horns clarinet oboe",
    MIXTURE: "mixture mix master",
}
_OTHER_WORDS = 2
_STEM_OF_WORD = {word: stem for stem, words in _WORDS.items() for word in words.split()}


def nfc(text: str) -> str:
    """Normalize text to Unicode NFC, without what UTF-8 cannot encode."""
    return unicodedata.normalize("NFC", text.encode(errors="replace").decode())


def guess_stem(name: str, ignored: frozenset[str] = frozenset()) -> str | None:
    """Guess the class of a file or folder from its name.

    Args:
        name: Name without its extension.
        ignored: Words that all names in the folder have.

    Returns:
        None when no word names a class, or there are more than two other words:
        "Tom Petty - Free Fallin'" is not a stem.
    """
    prefix = nfc(name).lower().replace("-", "_").replace(" ", "_").partition("__")[0]
    if prefix in STEMS or prefix == MIXTURE:
        return prefix
    words = [word for word in _words(name) if word not in ignored]
    classes = [_STEM_OF_WORD[word] for word in words if word in _STEM_OF_WORD]
    return classes[0] if classes and len(words) - len(classes) <= _OTHER_WORDS else None


def _words(name: str) -> list[str]:
    """Split a name into words, without numbers."""
    parts = re.split(r"[^a-z0-9]+", nfc(name).lower())
    return [word for part in parts if (word := part if part in _STEM_OF_WORD else part.rstrip("0123456789"))]


def guess_stems(names: Sequence[str]) -> list[str | None] | None:
    """Guess the classes of a folder's files from their names without extensions; None if they are songs."""
    shared = (
        frozenset.intersection(*(frozenset(_words(name)) for name in names))
        if len(names) > 1
        else frozenset()
    )
    stems = [guess_stem(name, shared) for name in names]
    found = {stem for stem in stems if stem is not None}
    if sum(stem is not None for stem in stems) * 2 <= len(names) or found == {MIXTURE}:
        return None
    plain = all(word in _STEM_OF_WORD for name in names for word in _words(name))
    return stems if len(found) > 1 or plain or any("__" in name for name in names) else None
