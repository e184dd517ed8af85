"""Split names of files that hold the stems of several songs: "Song A - vocals", "1_Song A_(Vocals)"."""

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence

from pipelines.preprocess.stem_names import (
    BESIDE_STEMS,
    NEGATIONS_AFTER,
    SUM,
    guess_stem,
    is_part_word,
    nfc,
    stem_of_word,
)
from pipelines.schema import MIXTURE

_TOKEN = re.compile(r"other[ _-](?:keys|plucked)|bowed[ _-]strings|[^\W_]+", re.IGNORECASE)
_BREAK = re.compile(r" - |[(\[{]")  # in front of the stem
_LEAST_NUMBERS = 3  # "vocals 1" and "vocals 2" may be takes of one song


def split_title(name: str) -> tuple[str, str | None]:
    """Split a name into a song's title and the class of its stem.

    Returns:
        The title as it is spelled, and None as the class of a name that names none; an empty title if the
        name is that of a stem alone, such as "Lead Vox 2".
    """
    text = nfc(name)
    tokens = list(_TOKEN.finditer(text))
    words = [re.sub("[ -]", "_", token[0].lower()) for token in tokens]
    gaps = [text[first.end() : second.start()] for first, second in itertools.pairwise(tokens)]
    start, end = _find_stem(words, gaps)
    if start == end:
        return text.strip(), None
    stem = guess_stem(text[tokens[start].start() : tokens[end - 1].end()])
    before = re.sub(r"[\W_]+$", "", text[: tokens[start].start()])
    after = re.sub(r"^[\W_]+|[\W_]+$", "", text[tokens[end - 1].end() :])
    title = before or after
    is_part = all(is_part_word(word) for word in re.findall(r"[^\W_]+", title.lower()))
    return ("" if is_part else title), stem


def _find_stem(words: list[str], gaps: list[str]) -> tuple[int, int]:
    """Return the range of the words at the end of a name, or at its beginning, that name a stem.

    Args:
        words: In lower case.
        gaps: What stands between them.
    """
    end = len(words)
    while end and (
        words[end - 1].isdigit() or is_part_word(words[end - 1]) or words[end - 1] in NEGATIONS_AFTER
    ):
        end -= 1
    alike = _alike(words[end - 1]) if end else set()
    start = end
    while start and stem_of_word(words[start - 1]) in alike and not _breaks(gaps, start, end):
        start -= 1
    while 0 < start < end and not _breaks(gaps, start, end):
        if not is_part_word(words[start - 1]) and words[start - 1] not in BESIDE_STEMS:
            break
        start -= 1
    while start < end and words[start] in ("the", "a", "any"):
        start += 1
    if 0 < start < end:
        return start, len(words)
    at_start, alike = 0, _alike(words[0]) if words else set()
    while at_start < len(words) and stem_of_word(words[at_start]) in alike:
        at_start += 1
    return (0, at_start) if at_start else (start, end)


def _breaks(gaps: list[str], start: int, end: int) -> bool:
    """Return whether the word before `start` belongs to the title by what stands around it."""
    if start == end:
        return False
    gap, before = gaps[start - 1], gaps[start - 2] if start > 1 else ""
    return _BREAK.search(gap) is not None or ("_" in gap and before == " ")  # "Say No_vocals"


def _alike(word: str) -> set[str | None]:
    """Return the classes that may stand beside a word that names a stem: its own; "instrumental mix"."""
    stem = stem_of_word(word)
    return set() if stem is None else {stem, SUM, MIXTURE} if stem in (SUM, MIXTURE) else {stem}


def group_by_title(names: Sequence[str]) -> dict[str, list[tuple[int, str]]] | None:
    """Group the files of a folder that holds the stems of several songs by title.

    Returns:
        By title the places of the names and their classes; files without a title are under an empty one. None
        unless two titles have the same two classes or more, a stem among them, and most names belong to such
        titles.
    """
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    spelled: dict[str, str] = {}
    for place, name in enumerate(names):
        title, stem = split_title(name)
        key = spelled.setdefault(title.casefold(), title)
        groups[key].append((place, MIXTURE if stem is None else stem))
    classes = {title: frozenset(stem for _, stem in files) for title, files in groups.items() if title}
    whole = {title: found for title, found in classes.items() if len(found) > 1 and found - {MIXTURE, SUM}}
    repeated = len(set(whole.values())) < len(whole)
    if all(title.isdigit() for title in whole):
        single = all(len(groups[title]) == len(found) for title, found in whole.items())
        repeated = len(whole) >= _LEAST_NUMBERS and len(set(whole.values())) == 1 and single
    used = sum(len(groups[title]) for title in whole)
    return dict(groups) if repeated and used * 2 > len(names) else None


def are_numbers(titles: Sequence[str]) -> bool:
    """Return whether titles are numbers alone."""
    return all(title.isdigit() for title in titles if title)
