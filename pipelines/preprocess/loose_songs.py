"""Songs of folders that are no known data set: stems and songs, by names alone.

A folder whose files are named after stems is a song; so is one with a folder for each stem. Folders for stems
that hold many songs are collections: each file is a song of that class. Files of one folder that are named
after several songs and their stems are these songs. Every other file is a song. What belongs to one recording
stays together.
"""

import posixpath
from collections import defaultdict

from pipelines.preprocess.recordings import Recordings
from pipelines.preprocess.songs import (
    DiscoveryResult,
    Song,
    artist_and_title,
    full_file,
    full_name,
    name_without_extension,
)
from pipelines.preprocess.split_folders import SplitFolders
from pipelines.preprocess.stem_collections import find_collections, find_titles, stem_of_folder
from pipelines.preprocess.stem_names import SUM, are_parts, are_takes, guess_stems, nfc
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
        self.collections = find_collections(folders)
        self.titles = find_titles(folders)
        self.places: dict[str, str] = {}  # folder of a song of a folder of several songs
        self.stems: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        self.sums: dict[str, list[Entry]] = {}  # by song: named as a sum of its stems
        self.songs: list[tuple[str, Entry, str]] = []  # folder, file, class
        for folder, files in folders.items():
            if folder in self.titles:
                self._sort_titles(folder, files)
            else:
                self._sort(folder, files)
        songs = {*musdb, *(folder for folder in self.stems if folder and folder not in self.places)}
        base = posixpath.basename(root.rstrip("/"))
        self._recordings = Recordings(base, folders, songs, self.collections | self.titles.keys())

    def _sort(self, folder: str, files: list[Entry]) -> None:
        parent, last = posixpath.split(folder)
        if (stem := stem_of_folder(folder)) is not None:
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

    def _sort_titles(self, folder: str, files: list[Entry]) -> None:
        """Sort the files of a folder of several songs: each title with a stem is one of them."""
        for title, found in self.titles[folder].items():
            song = posixpath.join(folder, title)
            if not title or len(found) == 1 or {stem for _, stem in found} <= {MIXTURE, SUM}:
                stems = [stem if stem in STEMS else MIXTURE for _, stem in found]
                self.songs += [
                    (folder, files[place], stem) for (place, _), stem in zip(found, stems, strict=True)
                ]
                continue
            self.places[song] = folder
            for place, stem in found:
                if stem == SUM:
                    self.sums.setdefault(song, []).append(files[place])
                else:
                    self.stems[song][stem].append(files[place])

    def recording_of(self, folder: str, name: str = "") -> str:
        """Return the recording that a song belongs to.

        Args:
            folder: The song's, or that of its file.
            name: Of its file without extension; empty if the folder is the song's.
        """
        if name and posixpath.dirname(folder) in self.collections:  # vocals/One.flac and bass/One.flac
            return full_name(self._root, posixpath.join(posixpath.dirname(folder), nfc(name)))
        found = self._recordings.find(self.places.get(folder, folder), name)
        if found is None and folder in self.places:
            found = folder
        return "" if found is None else full_name(self._root, found)


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
                splits.split_of(root, loose.places.get(folder, folder)),
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
    for folder in sorted(set(loose.places.values())):
        number = sum(place == folder for place in loose.places.values())
        place = nfc(full_name(root, folder)).rstrip("/")
        discovered.remarks.append(f"{place}: its files are the stems of {number} songs, by their names")
    _remark_on_added_files(loose, discovered)


def _remark_on_added_files(loose: _LooseSongs, discovered: DiscoveryResult) -> None:
    """Add a remark on files of one class that are summed though their names do not tell parts of a song."""
    added = []
    for folder, by_stem in sorted(loose.stems.items()):
        for stem, files in sorted(by_stem.items()):
            names = [name_without_extension(file) for file in files]
            if len(files) > 1 and not are_takes(names) and not are_parts(names):
                first, second = sorted(posixpath.basename(file.name) for file in files)[:2]
                song = f"{loose.dataset}/{nfc(folder)}".rstrip("/")
                added.append(nfc(f"{song}/{stem} ({first} + {second} …)"))
    if added:
        discovered.remarks.append(
            f"{len(added)} stems are the sum of files that may be of different songs by name: {added[0]}"
        )
