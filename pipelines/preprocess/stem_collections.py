"""Find folders that hold stems of many songs: a folder for each stem, or files named after song and stem.

"drums/1.wav" and "drums/2.wav" may be two songs or two takes of one. Directly below the root (or train,
valid, test), several files are songs. Deeper, they are if no file is named after an instrument or a part, and
either the same titles are in several folders, or there are folders for stems at one place only.
"""

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable

from pipelines.preprocess.songs import name_without_extension
from pipelines.preprocess.split_folders import is_split_name
from pipelines.preprocess.stem_names import are_takes, names_part
from pipelines.preprocess.titles import are_numbers, group_by_title, split_title
from pipelines.schema import MIXTURE, STEMS
from pipelines.storage.folder import Entry

_Folders = dict[str, list[Entry]]
Titles = dict[str, list[tuple[int, str]]]


def stem_of_folder(folder: str) -> str | None:
    """Return the class that a folder is named after."""
    last = posixpath.basename(folder).lower()
    return last if last in (*STEMS, MIXTURE) else None


def find_collections(folders: _Folders) -> set[str]:
    """Return the folders whose folders for stems hold many songs each."""
    found = set()
    deep: dict[str, dict[str, list[str]]] = defaultdict(dict)  # parent, folder, names
    for folder, files in folders.items():
        parent = posixpath.dirname(folder)
        if not folder or not stem_of_folder(folder) or parent in folders:
            continue
        names = [name_without_extension(file) for file in files]
        if parent and not is_split_name(posixpath.basename(parent)):
            deep[parent][folder] = names
        elif len(files) > 1 and not are_takes(names):
            found.add(parent)
    alone = _are_one_place(deep)
    return found | {parent for parent, by_stem in deep.items() if _hold_songs([*by_stem.values()], alone)}


def _hold_songs(folders: list[list[str]], alone: bool) -> bool:
    """Return whether folders for stems hold songs, by the names of their files.

    Args:
        folders: Names by folder.
        alone: Whether no other place has folders for stems.
    """
    if max(map(len, folders)) == 1 or any(names_part(name) for names in folders for name in names):
        return False
    counts = Counter(title.casefold() for names in folders for title in {split_title(n)[0] for n in names})
    repeated = [title for title, count in counts.items() if title and count > 1]
    return alone or (len(repeated) > 1 and not are_numbers(repeated))


def _are_one_place(folders: Iterable[str]) -> bool:
    """Return whether folders are the same but for parts named after splits."""
    return len({tuple(part for part in at.split("/") if not is_split_name(part)) for at in folders}) == 1


def find_titles(folders: _Folders) -> dict[str, Titles]:
    """Return the folders whose files are the stems of several songs, grouped by title."""
    found = {}
    for folder, files in folders.items():
        titles = group_by_title([name_without_extension(file) for file in files])
        if titles is not None and stem_of_folder(folder) is None:
            found[folder] = titles
    numbered = {folder for folder, titles in found.items() if are_numbers([*titles])}
    if not _are_one_place(numbered):  # takes of several songs
        return {folder: titles for folder, titles in found.items() if folder not in numbered}
    return found
