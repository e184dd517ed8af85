"""Songs of folders that are no known data set: stems and songs, by names alone.

A folder whose files are named after stems is a song; so is one with a folder for each stem. Folders for stems
that lie directly below the root (or train, valid, test) and hold many files are collections: each file is a
song of that class. Every other file is a song. What lies below the folder of one recording stays together.
"""

import posixpath
from collections import defaultdict

from pipelines.preprocess.songs import (
    DiscoveryResult,
    Song,
    artist_and_title,
    full_file,
    full_name,
    name_without_extension,
)
from pipelines.preprocess.split_folders import SplitFolders, is_split_name
from pipelines.preprocess.stem_names import (
    SUM,
    are_takes,
    differ_in_numbers,
    guess_stem,
    guess_stems,
    is_plain,
    nfc,
)
from pipelines.schema import MIXTURE, STEMS
from pipelines.storage.folder import Entry

_Folders = dict[str, list[Entry]]


class _LooseSongs:
    """The loose files below a root, sorted into stems of songs and songs.

    Args:
        root: Folder or URI.
        folders: Audio files by folder, with names relative to the root.
        musdb: Folders of songs of MUSDB18-HQ.
    """

    def __init__(self, root: str, folders: _Folders, musdb: list[str]) -> None:
        self._root = root
        self.dataset = nfc(posixpath.basename(root.rstrip("/"))) or "folder"
        self.collections = _find_collections(folders)
        self.stems: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        self.sums: dict[str, list[Entry]] = {}  # by song: named as a sum of its stems
        self.songs: list[tuple[str, Entry, str]] = []  # folder, file, class
        for folder, files in folders.items():
            self._sort(folder, files)
        self._recordings = {*musdb, *(folder for folder in self.stems if folder)}
        self._mixes = {folder for folder, files in folders.items() if _is_recording(folder, files)}

    def _sort(self, folder: str, files: list[Entry]) -> None:
        parent, last = posixpath.split(folder)
        if (stem := _stem_of_folder(folder)) is not None:
            if parent in self.collections:
                self.songs += [(folder, file, stem) for file in files]
            else:
                self.stems[parent][last.lower()] += files
            return
        named = guess_stems([name_without_extension(file) for file in files])
        if named is None:
            self.songs += [(folder, file, MIXTURE) for file in files]
            return
        for file, guessed in zip(files, named, strict=True):
            if guessed == SUM:
                self.sums.setdefault(folder, []).append(file)
            else:
                self.stems[folder][guessed or "other"].append(file)

    def recording_of(self, folder: str, name: str = "") -> str:
        """Return the recording that a folder, or a file in a folder of a collection, belongs to."""
        parent = posixpath.dirname(folder)
        if name and parent in self.collections:  # vocals/One.flac and bass/One.flac
            return full_name(self._root, posixpath.join(parent, nfc(name)))
        above = [folder] if folder else [""]
        while above[-1]:
            above.append(posixpath.dirname(above[-1]))
        songs = [place for place in above if place in self._recordings]  # the outermost one is the song
        found = songs[-1:] or [place for place in above if place in self._mixes][:1]
        return full_name(self._root, found[0]) if found else ""


def _stem_of_folder(folder: str) -> str | None:
    last = posixpath.basename(folder).lower()
    return last if last in (*STEMS, MIXTURE) else None


def _find_collections(folders: _Folders) -> set[str]:
    """Return the folders whose folders for stems hold many songs each: the root, train, valid and test."""
    found = set()
    for folder, files in folders.items():
        parent = posixpath.dirname(folder)
        top = folder and (not parent or is_split_name(posixpath.basename(parent)))
        many = len(files) > 1 and not are_takes([name_without_extension(file) for file in files])
        if top and many and _stem_of_folder(folder) and parent not in folders:
            found.add(parent)
    return found


def _is_recording(folder: str, files: list[Entry]) -> bool:
    """Return whether a file is named after a class or the mixture, so that the others are parts of it too."""
    names = [name_without_extension(file) for file in files]
    plain = [name for name in names if is_plain(name)]
    if folder:
        return bool(plain)
    others = [name for name in names if name not in plain]  # songs may lie beside a mix in the root
    is_mix = len(plain) == 1 and guess_stem(plain[0]) == MIXTURE
    return is_mix and len(others) > 1 and differ_in_numbers(others)


def add_loose_songs(
    root: str, folders: _Folders, musdb: list[str], splits: SplitFolders, discovered: DiscoveryResult
) -> None:
    """Add the songs of folders without a known layout.

    Args:
        root: Folder or URI.
        folders: Audio files by folder, with names relative to the root.
        musdb: Folders of songs of MUSDB18-HQ, whose other files are parts of the same recordings.
        splits: Splits by place.
        discovered: Result that is added to.
    """
    loose = _LooseSongs(root, folders, musdb)
    for folder, file, stem in loose.songs:
        name = file.name.rpartition(".")[0]
        artist, title = artist_and_title(nfc(posixpath.basename(name)))
        discovered.songs.append(
            Song(
                loose.dataset,
                f"{loose.dataset}/{nfc(name)}",
                artist,
                title,
                splits.split_of(root, folder),
                {stem: (full_file(root, file),)},
                complete=stem == MIXTURE,
                recording=loose.recording_of(folder, posixpath.basename(name)),
            )
        )
    for folder, by_stem in loose.stems.items():
        artist, title = artist_and_title(nfc(posixpath.basename(folder) or loose.dataset))
        sources = {
            stem: tuple(full_file(root, file) for file in files) for stem, files in sorted(by_stem.items())
        }
        discovered.songs.append(
            Song(
                loose.dataset,
                f"{loose.dataset}/{nfc(folder)}".rstrip("/"),
                artist,
                title,
                splits.split_of(root, folder),
                sources,
                complete=folder not in loose.sums or len(sources.keys() - {MIXTURE}) > 1,
                recording=loose.recording_of(folder),
            )
        )
    _remark(root, loose, discovered)


def _remark(root: str, loose: _LooseSongs, discovered: DiscoveryResult) -> None:
    sums = [file.name for files in loose.sums.values() for file in files]
    discovered.ignored_files += len(sums)
    if sums:
        named = nfc(full_name(root, min(sums)))
        discovered.remarks.append(
            f"{len(sums)} files are left out as sums of stems by their names: {named} …"
        )
    for folder in sorted(loose.collections):
        stems = {posixpath.basename(at) for at, _, _ in loose.songs if at and posixpath.dirname(at) == folder}
        place = nfc(full_name(root, folder)).rstrip("/")
        discovered.remarks.append(
            f"{place}: each file of its folders {', '.join(sorted(stems))} is a song of its own"
        )
