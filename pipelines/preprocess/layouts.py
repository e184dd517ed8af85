"""Layouts of data sets: MUSDB18-HQ, MoisesDB, loose stems and loose songs, recognised by names.

Sources: sigsep's MUSDB18-HQ layout and its 14 published validation songs (musdb, configs/mus.yaml);
moises-db's `data.json`. Of all files, only `data.json` is read.
"""

import json
import os
import posixpath
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from apollo.audio.rejects import RejectKind
from pipelines.preprocess.stem_names import guess_stems, nfc
from pipelines.schema import MIXTURE, STEMS
from pipelines.storage.folder import Entry, Folder, is_uri, join
from pipelines.storage.object_store import StoreError

MUSDB, MOISESDB = "musdb18hq", "moisesdb"
_MUSDB_STEMS = ("bass", "drums", "other", "vocals")
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


@dataclass(frozen=True)
class Song:
    """A song on disk or in a store.

    Args:
        dataset: Name of the data set.
        song_id: Data set and relative name, in Unicode NFC: the same on every machine.
        artist: Empty where unknown.
        title: The song's name.
        split: Official split; None where the data set has none.
        sources: Files by class; the files of a class are summed.
        complete: Whether the sum of the stems is the song: none is known to be missing.
    """

    dataset: str
    song_id: str
    artist: str
    title: str
    split: str | None
    sources: Mapping[str, tuple[Entry, ...]]
    complete: bool = True

    def to_json(self) -> str:
        """Return the song as JSON, which Ray sends without pickling."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Song":
        """Parse the result of `to_json`."""
        values = json.loads(text)
        sources = {
            stem: tuple(Entry(**entry) for entry in files) for stem, files in values.pop("sources").items()
        }
        return cls(**values, sources=sources)


class Reject(NamedTuple):
    """A file or source that cannot be used: name, reason, and the reason's kind."""

    name: str
    reason: str
    kind: RejectKind


@dataclass
class DiscoveryResult:
    """Songs, rejected files, and the number of ignored files."""

    songs: list[Song] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    ignored_files: int = 0

    def reject_listing(self, name: str, problem: str) -> None:
        """Add a reject because of a song's data.json."""
        self.rejects.append(Reject(name, f"data.json {problem}", RejectKind.LISTING))


def group_into_songs(root: str, entries: list[Entry], discovered: DiscoveryResult) -> None:
    """Group the files below a root into songs, by layout.

    Args:
        root: Folder or URI.
        entries: Audio and data.json files, with names relative to the root.
        discovered: Result that is added to; its entries get full paths.
    """
    folders: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        folders[posixpath.dirname(entry.name)].append(entry)
    listings: dict[str, dict[str, Any]] = {}
    for folder, files in folders.items():
        if any(posixpath.basename(file.name) == "data.json" for file in files):
            listing, problem = _read_listing(root, posixpath.join(folder, "data.json"))
            if listing is not None:
                listings[folder] = listing
            elif any(
                posixpath.join(folder, stem) in folders for stem in STEMS
            ):  # as MoisesDB lays out a song
                discovered.reject_listing(_moises_id(root, folder), f"cannot be read: {problem}")
                listings[folder] = {}
    loose: dict[str, list[Entry]] = {}
    for folder, files in sorted(folders.items()):
        audio = [file for file in files if posixpath.basename(file.name) != "data.json"]
        parent, song = posixpath.split(folder)
        split = posixpath.basename(parent or root)
        stems = {_stem_name(file) for file in audio if file.name.endswith(".wav")} & {*_MUSDB_STEMS, MIXTURE}
        if any(not owner or folder == owner or folder.startswith(f"{owner}/") for owner in listings):
            continue
        if split in ("train", "test") and len(stems) > 1:
            _add_musdb_song(root, song, split, audio, discovered)
        elif audio:
            loose[folder] = audio
    for folder, listing in sorted(listings.items()):
        if listing:
            _add_moises_song(root, folder, listing, folders, discovered)
    _add_loose_songs(root, loose, discovered)


def _full(root: str, entry: Entry) -> Entry:
    return Entry(_full_name(root, entry.name), entry.size, entry.mtime_ns)


def _full_name(root: str, name: str) -> str:
    return join(root if is_uri(root) else os.path.abspath(root), name)


def _stem_name(file: Entry) -> str:
    return posixpath.basename(file.name).rpartition(".")[0]


def _artist_and_title(name: str) -> tuple[str, str]:
    artist, separator, title = name.partition(" - ")
    return (artist, title) if separator else ("", name)


def _add_musdb_song(
    root: str, name: str, folder: str, files: list[Entry], discovered: DiscoveryResult
) -> None:
    by_name = {posixpath.basename(file.name): _full(root, file) for file in files}
    sources = {
        stem: (by_name[f"{stem}.wav"],) for stem in (*_MUSDB_STEMS, MIXTURE) if f"{stem}.wav" in by_name
    }
    artist, title = _artist_and_title(nfc(name))
    split = "test" if folder == "test" else "valid" if nfc(name) in MUSDB_VALIDATION else "train"
    discovered.ignored_files += len(files) - len(sources)
    discovered.songs.append(Song(MUSDB, f"{MUSDB}/{nfc(name)}", artist, title, split, sources))


def _read_listing(root: str, name: str) -> tuple[dict[str, Any] | None, str]:
    """Read a MoisesDB song's data.json; None and the reason if it is not one."""
    try:
        listing = json.loads(Folder(root).read(name))
    except StoreError:
        raise  # not an error of the song
    except (ValueError, RecursionError, OSError) as error:
        return None, f"{type(error).__name__}: {error}"
    if not isinstance(listing, dict) or "stems" not in listing:
        return None, "it has no stems"
    return listing, ""


def _moises_id(root: str, folder: str) -> str:
    return f"{MOISESDB}/{nfc(posixpath.basename(folder) or posixpath.basename(root))}"


def _add_moises_song(
    root: str,
    folder: str,
    listing: dict[str, Any],
    folders: dict[str, list[Entry]],
    discovered: DiscoveryResult,
) -> None:
    song_id = _moises_id(root, folder)
    wanted: dict[str, list[str]] = defaultdict(list)
    try:
        for stem in listing["stems"]:
            for track in stem["tracks"]:
                wanted[str(stem["stemName"])].append(
                    posixpath.join(folder, str(stem["stemName"]), f"{track['id']}.{track['extension']}")
                )
    except (KeyError, TypeError) as error:
        discovered.reject_listing(song_id, f"cannot be read: {type(error).__name__}: {error}")
        return
    artist, title = str(listing.get("artist", "")), str(listing.get("song", ""))
    prefix = f"{folder}/" if folder else ""
    found = {f.name: f for files in folders.values() for f in files if f.name.startswith(prefix)}
    sources: dict[str, tuple[Entry, ...]] = {}
    complete = True
    for stem, names in wanted.items():
        missing = [name for name in names if name not in found]
        if stem not in STEMS or missing:
            reason = f"{missing[0]}, which is missing" if missing else ""
            if stem not in STEMS:
                reason = "a stem that is not a class of MoisesDB"
            discovered.reject_listing(nfc(f"{song_id}/{stem}"), nfc(f"names {reason}"))
            complete = False
        elif names:
            sources[stem] = tuple(_full(root, found[name]) for name in sorted(set(names)))
    if not wanted:
        discovered.reject_listing(song_id, "names no tracks")
    used = sum(len(files) for files in sources.values())
    discovered.ignored_files += sum(not name.endswith("data.json") for name in found) - used
    if sources:
        song = Song(MOISESDB, song_id, nfc(artist), nfc(title), None, sources, complete)
        discovered.songs.append(song)


def _add_loose_songs(root: str, folders: dict[str, list[Entry]], discovered: DiscoveryResult) -> None:
    dataset = nfc(posixpath.basename(root.rstrip("/"))) or "folder"
    stems: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for folder, files in folders.items():
        parent, last = posixpath.split(folder)
        if folder and last.lower() in (*STEMS, MIXTURE):  # <song>/<stem>/<takes>
            stems[parent][last.lower()] += files
            continue
        named = guess_stems([_stem_name(file) for file in files])
        if named is not None:
            for file, stem in zip(files, named, strict=True):
                stems[folder][stem or "other"].append(file)
            continue
        for file in files:
            name = file.name.rpartition(".")[0]
            artist, title = _artist_and_title(nfc(posixpath.basename(name)))
            whole = {MIXTURE: (_full(root, file),)}
            discovered.songs.append(Song(dataset, f"{dataset}/{nfc(name)}", artist, title, None, whole))
    for folder, by_stem in stems.items():
        artist, title = _artist_and_title(nfc(posixpath.basename(folder) or dataset))
        sources = {
            stem: tuple(_full(root, file) for file in files) for stem, files in sorted(by_stem.items())
        }
        discovered.songs.append(
            Song(dataset, f"{dataset}/{nfc(folder)}".rstrip("/"), artist, title, None, sources)
        )
