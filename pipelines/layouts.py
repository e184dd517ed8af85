"""Finding songs in folders: MUSDB18-HQ, MoisesDB, loose stems and loose songs, told apart by what lies there.

Sources: sigsep's MUSDB18-HQ layout and its 14 published validation songs (musdb, configs/mus.yaml);
moises-db's `data.json`. Only names and listings are looked at here, no audio.
"""

import json
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import count

from pipelines.audio import EXTENSIONS
from pipelines.errors import UsageError
from pipelines.schema import MIXTURE, STEMS
from pipelines.storage import Entry, Folder, is_uri, join

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
_WORDS = {  # what people write in file names; the classes' own names count too
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


@dataclass(frozen=True)
class Song:
    """A song as found on disk.

    Args:
        dataset: Name of the data set.
        song_id: Data set and relative name, in Unicode's composed form: the same on every machine.
        artist: Empty where unknown.
        title: The song's name.
        split: Official split; None where the data set has none.
        sources: Files of every source, by class; the files of a class are summed.
    """

    dataset: str
    song_id: str
    artist: str
    title: str
    split: str | None
    sources: Mapping[str, tuple[Entry, ...]]

    def to_json(self) -> str:
        """Write the song as text, which Ray sends without pickling."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Song":
        """Read what `to_json` wrote."""
        values = json.loads(text)
        sources = {
            stem: tuple(Entry(**entry) for entry in files) for stem, files in values.pop("sources").items()
        }
        return cls(**values, sources=sources)


@dataclass
class Findings:
    """Songs, and what could not become part of one: (name, reason)."""

    songs: list[Song] = field(default_factory=list)
    rejects: list[tuple[str, str]] = field(default_factory=list)
    ignored_files: int = 0


def find_songs(roots: list[str]) -> Findings:
    """List every root and sort what lies there into songs; entries carry full paths.

    Raises:
        UsageError: a root is not there, or no audio lies below any of them.
    """
    findings = Findings()
    for root in roots:
        entries = list(_walk(root, findings))
        if not entries and not is_uri(root) and not os.path.isdir(root):
            raise UsageError(f"--data {root}: no such folder")
        _sort(root, entries, findings)
    if not findings.songs and not findings.rejects:
        raise UsageError(
            f"no audio below {', '.join(roots)}. Expected MUSDB18-HQ (train/<song>/mixture.wav …), "
            "MoisesDB (<song>/data.json …), "
            "folders of stems (<song>/vocals.flac …), or songs"
        )
    findings.songs = _with_unique_ids(findings.songs)
    return findings


def _walk(root: str, findings: Findings) -> Iterator[Entry]:
    """Yield audio and data.json files with names relative to the root."""
    listed = (
        Folder(root).entries(recursive=True) if is_uri(root) else _walk_disk(os.path.abspath(root), findings)
    )
    root_path = Folder(root).path()
    for entry in listed:
        name = posixpath.relpath(entry.name, root_path) if entry.name.startswith("/") else entry.name
        base = posixpath.basename(name)
        extension = base.rpartition(".")[2].lower()
        if base.startswith(".") or (base != "data.json" and extension not in EXTENSIONS):
            findings.ignored_files += 1
        elif name.encode(errors="surrogateescape") != name.encode(errors="replace"):
            findings.rejects.append((ascii(name), "the name is not valid UTF-8"))
        else:
            yield Entry(name, entry.size, entry.mtime_ns)


def _walk_store(root: str) -> Iterator[Entry]:
    """Walk an object store, as `_walk_disk` does a disk."""
    entries = Folder(root).entries(recursive=True)
    names: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        names[posixpath.dirname(entry.name)].append(posixpath.basename(entry.name))
    outputs = tuple(f"{folder}/" if folder else "" for folder, there in names.items() if _is_output(there))
    for entry in entries:
        hidden = any(part.startswith(".") for part in entry.name.split("/")[:-1])
        if not hidden and not entry.name.startswith(outputs):
            yield entry


def _walk_disk(root: str, findings: Findings) -> Iterator[Entry]:
    """Walk a local tree; links are followed, but no folder is entered twice."""
    seen: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        name = os.fsencode(error.filename).decode(errors="backslashreplace")
        findings.rejects.append((name, f"cannot be listed: {error.strerror}"))

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=note):
        identity = os.stat(folder)
        if (identity.st_dev, identity.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        if _is_output(names):
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError as error:
                if name.rpartition(".")[2].lower() in EXTENSIONS:
                    note(error)
                continue
            yield Entry(os.path.relpath(path, root), status.st_size, status.st_mtime_ns)


def _is_output(names: list[str]) -> bool:
    """Tell a folder that preprocess writes to: its cache and shards are no data."""
    return {"fingerprint.json", "listing.json"} <= set(names)


def _sort(root: str, entries: list[Entry], findings: Findings) -> None:
    folders: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        folders[posixpath.dirname(entry.name)].append(entry)
    moises = {
        folder
        for folder, files in folders.items()
        if any(posixpath.basename(f.name) == "data.json" for f in files)
    }
    loose: dict[str, list[Entry]] = {}
    for folder, files in sorted(folders.items()):
        parent, song = posixpath.split(folder)
        owner = next((m for m in moises if not m or folder == m or folder.startswith(m + "/")), None)
        if owner is not None:
            if folder == owner:
                _add_moises_song(root, folder, folders, findings)
        elif posixpath.basename(parent or root) in ("train", "test") and any(
            f.name == f"{folder}/mixture.wav" for f in files
        ):
            _add_musdb_song(root, song, posixpath.basename(parent or root), files, findings)
        else:
            loose[folder] = [file for file in files if posixpath.basename(file.name) != "data.json"]
    _add_loose_songs(root, loose, findings)


def _full(root: str, entry: Entry) -> Entry:
    base = root if is_uri(root) else os.path.abspath(root)
    return Entry(join(base, entry.name), entry.size, entry.mtime_ns)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _artist_and_title(name: str) -> tuple[str, str]:
    artist, separator, title = name.partition(" - ")
    return (artist, title) if separator else ("", name)


def _add_musdb_song(root: str, name: str, folder: str, files: list[Entry], findings: Findings) -> None:
    by_name = {posixpath.basename(file.name): _full(root, file) for file in files}
    sources = {
        stem: (by_name[f"{stem}.wav"],) for stem in (*_MUSDB_STEMS, MIXTURE) if f"{stem}.wav" in by_name
    }
    artist, title = _artist_and_title(_nfc(name))
    split = "test" if folder == "test" else "valid" if _nfc(name) in MUSDB_VALIDATION else "train"
    findings.ignored_files += len(files) - len(sources)
    findings.songs.append(Song(MUSDB, f"{MUSDB}/{_nfc(name)}", artist, title, split, sources))


def _add_moises_song(root: str, folder: str, folders: dict[str, list[Entry]], findings: Findings) -> None:
    name = join(folder, "data.json") if folder else "data.json"
    song_id = f"{MOISESDB}/{_nfc(posixpath.basename(folder) or posixpath.basename(root))}"
    try:
        listing = json.loads(Folder(root).read(name))
        wanted: dict[str, list[str]] = defaultdict(list)
        for stem in listing["stems"]:
            for track in stem["tracks"]:
                wanted[str(stem["stemName"])].append(
                    join(folder, str(stem["stemName"]), f"{track['id']}.{track['extension']}")
                )
        artist, title = str(listing.get("artist", "")), str(listing.get("song", ""))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        findings.rejects.append((song_id, f"data.json cannot be read: {type(error).__name__}: {error}"))
        return
    there = {
        f.name: f
        for files in folders.values()
        for f in files
        if f.name.startswith(folder + "/" if folder else "")
    }
    sources: dict[str, tuple[Entry, ...]] = {}
    for stem, names in wanted.items():
        missing = [name for name in names if name not in there]
        if stem not in STEMS:
            findings.rejects.append(
                (f"{song_id}/{stem}", "data.json names a stem that is no class of MoisesDB")
            )
        elif missing:
            findings.rejects.append(
                (f"{song_id}/{stem}", f"data.json names {missing[0]}, which is not there")
            )
        elif names:
            sources[stem] = tuple(_full(root, there[name]) for name in sorted(set(names)))
    if not wanted:
        findings.rejects.append((song_id, "data.json names no tracks"))
    if sources:
        findings.songs.append(Song(MOISESDB, song_id, _nfc(artist), _nfc(title), None, sources))


def stem_of_name(name: str, ignored: frozenset[str] = frozenset()) -> str | None:
    """Guess the class of a file or folder from its name.

    Args:
        name: Without its ending.
        ignored: Words that tell nothing, because all names beside this one have them.

    Returns:
        None when no word names a class, or more than two others stand beside it:
        "Tom Petty - Free Fallin'" is no stem.
    """
    prefix = _nfc(name).lower().replace("-", "_").replace(" ", "_").partition("__")[0]
    if prefix in STEMS or prefix == MIXTURE:
        return prefix
    words = [word for word in _words(name) if word not in ignored]
    classes = [_STEM_OF_WORD[word] for word in words if word in _STEM_OF_WORD]
    return classes[0] if classes and len(words) - len(classes) <= _OTHER_WORDS else None


def _words(name: str) -> list[str]:
    """Split a name into words, without numbers."""
    parts = re.split(r"[^a-z0-9]+", _nfc(name).lower())
    return [word for part in parts if (word := part if part in _STEM_OF_WORD else part.rstrip("0123456789"))]


def _stems_of_folder(files: list[Entry]) -> list[str | None] | None:
    """Guess the classes of the files of a folder; None where they are songs."""
    names = [posixpath.basename(file.name).rpartition(".")[0] for file in files]
    shared = (
        frozenset.intersection(*(frozenset(_words(name)) for name in names))
        if len(names) > 1
        else frozenset()
    )
    stems = [stem_of_name(name, shared) for name in names]
    found = {stem for stem in stems if stem is not None}
    if sum(stem is not None for stem in stems) * 2 <= len(files) or found == {MIXTURE}:
        return None
    plain = all(word in _STEM_OF_WORD for name in names for word in _words(name))
    return stems if len(found) > 1 or plain or any("__" in name for name in names) else None


def _add_loose_songs(root: str, folders: dict[str, list[Entry]], findings: Findings) -> None:
    dataset = _nfc(posixpath.basename(root.rstrip("/"))) or "folder"
    stems: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for folder, files in folders.items():
        parent, last = posixpath.split(folder)
        if folder and last.lower() in (*STEMS, MIXTURE):  # <song>/<stem>/<takes>
            stems[parent][last.lower()] += files
            continue
        named = _stems_of_folder(files) if files else None
        if named is not None:
            for file, stem in zip(files, named, strict=True):
                stems[folder][stem or "other"].append(file)
            continue
        for file in files:
            name = file.name.rpartition(".")[0]
            artist, title = _artist_and_title(_nfc(posixpath.basename(name)))
            whole = {MIXTURE: (_full(root, file),)}
            findings.songs.append(Song(dataset, f"{dataset}/{_nfc(name)}", artist, title, None, whole))
    for folder, by_stem in stems.items():
        artist, title = _artist_and_title(_nfc(posixpath.basename(folder) or dataset))
        sources = {
            stem: tuple(_full(root, file) for file in files) for stem, files in sorted(by_stem.items())
        }
        findings.songs.append(
            Song(dataset, f"{dataset}/{_nfc(folder)}".rstrip("/"), artist, title, None, sources)
        )


def _with_unique_ids(songs: list[Song]) -> list[Song]:
    """Number songs whose ids agree: twins in two roots, or two spellings of one composed name."""
    taken: set[str] = {song.song_id for song in songs}
    first: set[str] = set()
    unique = []
    for song in sorted(
        songs, key=lambda s: (s.song_id, [f.name for files in s.sources.values() for f in files])
    ):
        song_id = song.song_id
        if song_id in first:
            song_id = next(f"{song_id} ({n})" for n in count(2) if f"{song_id} ({n})" not in taken)
            taken.add(song_id)
        first.add(song_id)
        unique.append(replace(song, song_id=song_id))
    return unique
