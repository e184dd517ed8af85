"""MUSDB18: in the layout of MUSDB18-HQ, and its own stem files.

Sources: sigsep's layouts and the 14 published validation songs (musdb, configs/mus.yaml; stempeg). A stem
file (`.stem.mp4`) holds five AAC streams, the mixture first.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import replace

from apollo.audio.rejects import RejectKind
from pipelines.preprocess.songs import (
    DiscoveryResult,
    Reject,
    Song,
    SourceFile,
    artist_and_title,
    full_file,
    full_name,
    name_without_extension,
)
from pipelines.preprocess.stem_names import nfc
from pipelines.schema import MIXTURE
from pipelines.storage.folder import Entry

MUSDB, MUSDB_STEM_FILES = "musdb18hq", "musdb18"
_EXTENSIONS = ("wav", "flac")  # of two files of one stem, the first of these is read
_SPLITS = ("train", "test")
_STEMS = ("bass", "drums", "other", "vocals")
_STEM_FILES = (".stem.mp4", ".stem.m4a")
_STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")
_OTHER_STEM_FILE = (
    "a stem file that is not in a folder called train or test, as MUSDB18's are: the order of its streams is "
    "not known. Convert it to a folder with a file for each stem"
)
MUSDB_VALIDATION = frozenset(
    {
        "Actions - One Minute Smile",
        "Clara Berry And Wooldog - Waltz For My Victims",
        "Johnny Lokke - Promises & Lies",
        "Patrick Talbot - A Reason To Leave",
        "Triviul - Angelsaint",
        "Alexander Ross - Goodbye Bolero",
        "Fergessen - Nos Palpitants",
        "Leaf - Summerghost",
        "Skelpolu - Human Mistakes",
        "Young Griffo - Pennies",
        "ANiMAL - Rockshow",
        "James May - On The Line",
        "Meaxic - Take A Step",
        "Traffic Experiment - Sirens",
    }
)


def take_stem_files(root: str, folder: str, files: list[Entry], discovered: DiscoveryResult) -> list[Entry]:
    """Add the stem files of a folder as songs, or as rejects; return the other files."""
    others = []
    split = _split_name(root, folder)
    for file in files:
        ending = next((ending for ending in _STEM_FILES if file.name.lower().endswith(ending)), None)
        if ending is None:
            others.append(file)
        elif split in _SPLITS:
            name = nfc(posixpath.basename(file.name)[: -len(ending)])
            streams = {stem: (full_file(root, file, number),) for number, stem in enumerate(_STREAMS)}
            discovered.songs.append(_make_song(MUSDB_STEM_FILES, name, split, streams))
        else:
            discovered.rejects.append(Reject(file.name, _OTHER_STEM_FILE, RejectKind.OTHER))
    return others


def has_musdb_song(root: str, folder: str, audio: list[Entry]) -> bool:
    """Return whether a folder is a song's in the layout of MUSDB18-HQ."""
    names = {name_without_extension(file).casefold() for file in audio}
    is_split = bool(folder) and _split_name(root, posixpath.dirname(folder)) in _SPLITS
    return is_split and len(names & {*_STEMS, MIXTURE}) > 1


def add_musdb_song(root: str, folder: str, files: list[Entry], discovered: DiscoveryResult) -> None:
    """Add the song of a folder."""
    by_stem: dict[str, Entry] = {}
    for file in sorted(files, key=_preference):
        by_stem.setdefault(name_without_extension(file).casefold(), file)
    sources = {stem: (full_file(root, by_stem[stem]),) for stem in (*_STEMS, MIXTURE) if stem in by_stem}
    discovered.ignored_files += len(files) - len(sources)
    split = _split_name(root, posixpath.dirname(folder))
    song = _make_song(MUSDB, nfc(posixpath.basename(folder)), split, sources)
    discovered.songs.append(replace(song, recording=full_name(root, folder)))


def _split_name(root: str, folder: str) -> str:
    """Return the name of a folder, which is the split's if it holds songs of MUSDB18."""
    return posixpath.basename(folder or root.rstrip("/")).casefold()


def _make_song(dataset: str, name: str, split: str, sources: Mapping[str, tuple[SourceFile, ...]]) -> Song:
    artist, title = artist_and_title(name)
    if split != "test":
        split = "valid" if name in MUSDB_VALIDATION else "train"
    return Song(dataset, f"{dataset}/{name}", artist, title, split, sources)


def _preference(file: Entry) -> tuple[int, str]:
    extension = file.name.rpartition(".")[2].lower()
    return (_EXTENSIONS.index(extension) if extension in _EXTENSIONS else len(_EXTENSIONS), file.name)
