"""Find files that are parts of one recording by their place and names: a mix beside stems without a class.

They must not be divided among training and test. A folder is a recording's if it has stems, a file that is
named only after a class or the mixture, or a mix whose other files are numbered or in folders called stems.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator

from pipelines.preprocess.songs import name_without_extension
from pipelines.preprocess.stem_names import differ_in_numbers, guess_stem, is_plain, nfc
from pipelines.preprocess.titles import split_title
from pipelines.schema import MIXTURE
from pipelines.storage.folder import Entry

_STEM_FOLDER = frozenset(["stem", "stems", "multitrack", "multitracks"])
_PART_FOLDER = _STEM_FOLDER | {"raw", "track", "tracks"}
_MIX_WORD = re.compile("mix|master", re.IGNORECASE)
_LEAST_PARTS = 2  # a song and its second version are no stems


class Recordings:
    """Recordings by folder and by file.

    Args:
        base: Name of the root.
        folders: Audio files by folder, with names relative to the root.
        songs: Folders that are a song's.
        collections: Folders that hold many songs.
    """

    def __init__(
        self, base: str, folders: dict[str, list[Entry]], songs: set[str], collections: set[str]
    ) -> None:
        self._base = base
        self._names = {
            folder: [nfc(name_without_extension(file)) for file in files] for folder, files in folders.items()
        }
        self._below: dict[str, set[str]] = defaultdict(set)  # by folder, those below it with files
        for folder in self._names:
            for above in _above(folder):
                self._below[above].add(folder)
        self._by_base: dict[str, list[str]] = defaultdict(list)  # by its own name
        for folder in self._names:
            self._by_base[nfc(posixpath.basename(folder))].append(folder)
        self._collections = collections
        self._songs = songs
        self._outer = set(songs)
        self._outer |= {at for at in self._names.keys() | self._below.keys() if self._is_song(at)}
        self._outer |= self._find_stem_folders()
        self._mixes = {
            folder
            for folder, names in self._names.items()
            if folder not in collections and _has_plain_name(folder, names)
        }
        self._files = dict(self._find_files())

    def find(self, folder: str, name: str) -> str | None:
        """Return the folder or common name of the recording of a file; None if it is one by itself.

        Args:
            folder: Folder of the file or song.
            name: Of the file, without its extension; empty for a song.
        """
        above = [folder, *_above(folder)]
        outer = [place for place in above if place in self._outer]
        if outer:
            return outer[-1]  # the outermost one is the song
        if (found := self._files.get((folder, nfc(name)))) is not None:
            return found
        return next((place for place in above if place in self._mixes), None)

    def _is_song(self, folder: str) -> bool:
        """Return whether a folder has a mix, and else only parts of the same song."""
        names, below = self._names.get(folder, []), self._below.get(folder, set())
        base = nfc(posixpath.basename(folder)) or self._base
        mixes = [name for name in names if _is_mix_of(name, base)]
        named = [name for name in names if folder and _mix_title(name) is not None]
        if not mixes and len(named) == 1:
            mixes = named
        if folder in self._collections or below & self._collections or len(names) + len(below) < 2:
            return False
        if not mixes and folder and len(names) == 1:  # of any name, if the rest is in folders for parts
            return bool(below) and all(self._is_part_folder(folder, at, named=True) for at in below)
        others = [name for name in names if name not in mixes]
        numbered = not others or _are_numbered(others)
        return bool(mixes) and numbered and all(self._is_part_folder(folder, at) for at in below)

    def _is_part_folder(self, song: str, folder: str, *, named: bool = False) -> bool:
        """Return whether a folder of or below a song's has parts of it.

        Args:
            song: Folder of the song.
            folder: The other folder.
            named: Whether numbered files count only in folders called "raw" or "tracks", and these only with
                numbered files.
        """
        words = _words_of_path(posixpath.relpath(folder, song or "."))
        if words & _STEM_FOLDER:
            return True
        numbered, part = _are_numbered(self._names[folder]), bool(words & _PART_FOLDER)
        return numbered and part if named else numbered or part

    def _find_stem_folders(self) -> set[str]:
        """Return the folders above those called stems, where there are several such with numbered files."""
        found = set()
        for folder, names in self._names.items():
            parent, last = posixpath.split(folder)
            unnamed = folder not in self._songs and folder not in self._collections
            if parent and unnamed and _words_of_path(last) & _STEM_FOLDER and _are_numbered(names):
                found.add(parent)
        return found if len(found) > 1 else set()

    def _find_files(self) -> Iterator[tuple[tuple[str, str], str]]:
        """Yield files beside the folder of their song, and songs beside their numbered stems."""
        for folder, names in self._names.items():
            if folder in self._collections:
                continue
            numbered: dict[str, list[str]] = defaultdict(list)
            for name in names:
                numbered[_without_number(name)].append(name)
            for name in names:
                for base in {name, _mix_title(name) or name}:
                    place = posixpath.join(folder, base)
                    if self._holds_parts(place):
                        self._outer.add(place)
                        yield (folder, name), place
                yield from self._find_stems_elsewhere(folder, name)
                parts = [part for part in numbered.get(name, []) if part != name]
                if len(parts) >= _LEAST_PARTS:
                    key = posixpath.join(folder, name)
                    yield from (((folder, part), key) for part in (name, *parts))

    def _find_stems_elsewhere(self, folder: str, name: str) -> Iterator[tuple[tuple[str, str], str]]:
        """Yield a mix whose stems are in a folder of its name elsewhere: mixes/One.wav, stems/One/01.wav."""
        if _MIX_WORD.search(posixpath.basename(folder)) and folder not in self._songs:
            places = [at for at in self._by_base.get(name, []) if self._holds_parts(at)]
            if len(places) == 1:
                self._outer.add(places[0])
                yield (folder, name), places[0]

    def _holds_parts(self, folder: str) -> bool:
        """Return whether a folder beside a file of its name has the song's stems, or numbered files."""
        if folder in self._songs:
            return True
        places = [at for at in (folder, *self._below.get(folder, ())) if at in self._names]
        return bool(places) and all(self._is_part_folder(folder, at) for at in places)


def _above(folder: str) -> list[str]:
    """Return the folders above a folder, from the nearest one to the root."""
    found = []
    while folder:
        folder = posixpath.dirname(folder)
        found.append(folder)
    return found


def _words_of_path(path: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", path.lower()))


def _is_mix_of(name: str, base: str) -> bool:
    """Return whether a file is named as its folder, with or without a word for the mix."""
    return base.casefold() in (name.casefold(), (_mix_title(name) or name).casefold())


def _mix_title(name: str) -> str | None:
    """Return the title of a name that has a word for the mix; None if it has none."""
    if not _MIX_WORD.search(name):  # most names
        return None
    title, stem = split_title(name)
    return title if stem == MIXTURE else None


def _are_numbered(names: list[str]) -> bool:
    return len(names) > 1 and differ_in_numbers(names)


def _without_number(name: str) -> str:
    """Return what stands before the number at the end of a name; the name if there is nothing."""
    return re.sub(r"[\W_]*\d+[\W_]*$", "", name) or name


def _has_plain_name(folder: str, names: list[str]) -> bool:
    """Return whether a file is named after a class or the mixture, so that the others are parts of it too."""
    plain = [name for name in names if is_plain(name)]
    if folder:
        return bool(plain)
    others = [name for name in names if name not in plain]  # songs may lie beside a mix in the root
    is_mix = len(plain) == 1 and guess_stem(plain[0]) == MIXTURE
    return is_mix and len(others) > 1 and differ_in_numbers(others)
