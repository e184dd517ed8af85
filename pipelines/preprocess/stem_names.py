"""Guess from names whether files of a folder are stems, and of which class, sums of stems, or songs."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

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
    "vocals": "vocals vocal acapella acappella capella cappella vox voice voices choir leadvox bgvox",
    "wind": "wind winds brass flute sax saxophone trumpet trombone horn horns clarinet oboe",
    MIXTURE: "mixture mix master",
}
_OTHER_WORDS = 2
_STEM_OF_WORD = {word: stem for stem, words in _WORDS.items() for word in words.split()}
SUM = "sum"  # not a class: by its name, the file is the song without a stem, a sum of others
_NEGATIONS = frozenset(
    ["no", "non", "minus", "without", "less", "sans", "ohne", "but", "except", "excluding"]
)
NEGATIONS_AFTER = frozenset(["removed", "off", "muted", "excluded"])  # "vocals removed"
_LEADING = frozenset(["lead", "main", "back", "backing"])
_BETWEEN = _LEADING | {"the", "a", "any"}  # "without the lead vocals"
_SUM_WORDS = frozenset(
    [
        "instrumental",
        "instrumentals",
        "instrum",
        "karaoke",
        "accompaniment",
        "accomp",
        "minusone",
        "drumless",
        "bassless",
        "vocalless",
    ]
)
_WEAK_SUM_WORDS = frozenset(  # a backing track is a sum, backing vocals are vocals
    ["backing", "playback", "inst", "instr"]
)
BESIDE_STEMS = _NEGATIONS | _BETWEEN | {"everything", "all"}  # "everything but the vocals"
_PARTS = (  # of a song or of an instrument, or how it was recorded
    "take takes l r left right mono stereo in out top bottom di amp mic close room far near rhythm solo "
    "double dbl dub harmony acoustic electric clean dry wet high low mid bg intro verse chorus bridge hook "
    "outro"
)
_PART_WORDS = _LEADING | frozenset(_PARTS.split())
_NUMBERED_INSTRUMENT = re.compile(r"(?<![a-z])(inst|instr)(?=[^a-z0-9]*\d)")
_BREAK = re.compile(r"\s-\s|[(\[{]")  # "Say No - Drums" is a title and a stem
_WITHOUT = re.compile(r"(?<![a-z0-9])w[^a-z0-9]?o(?![a-z0-9])")
_JOINED = re.compile(rf"(?:non|no|minus|without)({'|'.join(sorted(_STEM_OF_WORD, key=len, reverse=True))})")


def nfc(text: str) -> str:
    """Normalize text to Unicode NFC, without what UTF-8 cannot encode."""
    return unicodedata.normalize("NFC", text.encode(errors="replace").decode())


def guess_stem(name: str, ignored: frozenset[str] = frozenset()) -> str | None:
    """Guess the class of a file or folder from its name.

    Args:
        name: Name without its extension.
        ignored: Words that all names in the folder have.

    Returns:
        SUM for names such as "no_vocals", "Karaoke" and "backing track"; None when no word names a class, or
        there are more than two other words: "Tom Petty - Free Fallin'" is not a stem.
    """
    prefix = nfc(name).lower().replace("-", "_").replace(" ", "_").partition("__")[0]
    if prefix in STEMS or prefix == MIXTURE:
        return prefix
    words = [word for word in _words(name) if word not in ignored]
    classes = [stem for word in words if (stem := _class_of(word)) is not None]
    if not classes or len(words) - len(classes) > _OTHER_WORDS:
        return None
    if not any(stem == SUM for stem in classes):
        return classes[0]
    first = next((stem for stem in classes if stem not in (SUM, MIXTURE)), SUM)
    strong = [word for word in words if _class_of(word) == SUM and word not in _WEAK_SUM_WORDS]
    return SUM if strong and next(s for s in classes if s != MIXTURE) == SUM else first


def _class_of(word: str) -> str | None:
    if word.startswith("no ") or word in _SUM_WORDS or word in _WEAK_SUM_WORDS:
        return SUM
    return _STEM_OF_WORD.get(word)


@cache
def stem_of_word(word: str) -> str | None:
    """Return the class that a word names, SUM for words such as "instrumental" and "novocals"."""
    if word in STEMS:
        return word
    found = _words(word)
    return _class_of(found[0]) if found else None


def is_part_word(word: str) -> bool:
    """Return whether a word tells parts of one song apart: "lead", "left", "take"."""
    return word in _PART_WORDS


def _words(name: str) -> list[str]:
    """Split a name into words, without numbers; a negation and its class are one word, "no vocals"."""
    words: list[str] = []
    negated = named = False  # by the words before; whether a class was named
    text = _WITHOUT.sub("without", _NUMBERED_INSTRUMENT.sub("instrument", nfc(name).lower()))
    before = 0
    for token in re.finditer(r"[a-z0-9]+", text):
        part, gap, before = token[0], text[before : token.start()], token.end()
        word = part if part in _STEM_OF_WORD else part.rstrip("0123456789")
        if _BREAK.search(gap):
            negated = False
        if joined := _JOINED.fullmatch(word):
            negated, word = True, joined[1]
        if _is_negated_by(part, gap, text[before:]) and words and words[-1] in _STEM_OF_WORD:
            words[-1] = f"no {words[-1]}"
        elif negated and not named and (word in _STEM_OF_WORD or (words[-1:], word) == (["minus"], "one")):
            while words and (words[-1] in _NEGATIONS or words[-1] in _BETWEEN):
                words.pop()
            words.append(f"no {word}")
        elif word:
            words.append(word)
            named |= _STEM_OF_WORD.get(word, MIXTURE) != MIXTURE
        negated = part in _NEGATIONS or (negated and part in _BETWEEN)
    return words


def _is_negated_by(part: str, gap: str, rest: str) -> bool:
    """Return whether a word negates the class before it: "vocals off", not "Guitars - Off", "off axis"."""
    return part in NEGATIONS_AFTER and not _BREAK.search(gap) and "axis" not in rest


def is_plain(name: str) -> bool:
    """Return whether a name consists of words that name a class or the mixture: "Bass 2", "final mix"."""
    words = [word for word in _words(name) if word not in ("full", "final", "stereo")]
    return bool(words) and all(word in _STEM_OF_WORD for word in words)


def are_takes(names: Sequence[str]) -> bool:
    """Return whether files of one class are parts of one song: named after different instruments."""
    return all(map(is_plain, names)) and len({frozenset(_words(name)) for name in names}) > 1


def are_parts(names: Sequence[str]) -> bool:
    """Return whether names of files of one class tell parts of one song apart, other than by numbers."""
    words = [frozenset(_words(name)) for name in names]
    shared = frozenset.intersection(*words)
    return len(set(words)) == len(words) and all(
        word in _STEM_OF_WORD or is_part_word(word) for found in words for word in found - shared
    )


def names_part(name: str) -> bool:
    """Return whether a name is that of an instrument or a part without a number: "kick", "take 2"."""
    has_number = re.search(r"\d", name) is not None
    return (is_plain(name) and not has_number) or any(map(is_part_word, _words(name)))


def differ_in_numbers(names: Sequence[str]) -> bool:
    """Return whether names are the same but for their numbers: S00, S01."""
    letters = {re.sub(r"[\W\d_]+", "", nfc(name).casefold()) for name in names}
    return len(letters) == 1 and all(re.search(r"\d", name) for name in names)


def guess_stems(names: Sequence[str]) -> list[str | None] | None:
    """Guess the classes of a folder's files from their names without extensions; None if they are songs."""
    shared = (
        frozenset.intersection(*(frozenset(_words(name)) for name in names))
        if len(names) > 1
        else frozenset()
    )
    stems = [guess_stem(name, shared) for name in names]
    found = {stem for stem in stems if stem is not None}
    num_sums = stems.count(SUM)
    num_named = sum(stem is not None for stem in stems) - num_sums
    if num_named * 2 <= len(names) - num_sums or found <= {MIXTURE, SUM}:
        return None
    plain = all(_class_of(word) is not None for name in names for word in _words(name))
    return stems if len(found) > 1 or plain or any("__" in name for name in names) else None
