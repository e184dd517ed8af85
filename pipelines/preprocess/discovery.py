"""Find songs below folders and URIs. Only listings are read, no audio."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from apollo.audio.decoding import EXTENSIONS
from apollo.audio.rejects import RejectKind
from pipelines.errors import UsageError
from pipelines.preprocess.layouts import group_into_songs, is_metadata
from pipelines.preprocess.songs import DiscoveryResult, Reject, Song
from pipelines.preprocess.split_folders import SplitFolders
from pipelines.storage.folder import Entry, Folder, is_uri


def find_songs(roots: list[str]) -> DiscoveryResult:
    """List every root and group its files into songs; entries have full paths.

    Raises:
        UsageError: a root does not exist, or there is no audio below any of them.
    """
    discovered = DiscoveryResult()
    listings = [(root, list(_walk(root, discovered))) for root in roots]
    splits = SplitFolders(listings)
    for root, entries in listings:
        if not entries and not is_uri(root) and not os.path.isdir(root):
            raise UsageError(f"--data {root}: no such folder")
        group_into_songs(root, entries, splits, discovered)
    if not discovered.songs:
        _refuse(roots, discovered)
    discovered.songs = _with_unique_ids(discovered.songs)
    discovered.remarks += splits.remarks()
    return discovered


def _refuse(roots: list[str], discovered: DiscoveryResult) -> None:
    """Raise a UsageError if there are no files, not even rejected ones."""
    if not discovered.rejects:
        raise UsageError(
            f"no audio below {', '.join(roots)}. Expected MUSDB18-HQ (train/<song>/mixture.wav …), "
            "MoisesDB (<song>/data.json …), Slakh2100 (<song>/metadata.yaml …), MedleyDB "
            "(<song>/<song>_METADATA.yaml …), URMP (<piece>/AuSep_1_vn_<piece>.wav …), folders of stems "
            "(<song>/vocals.flac …), or songs"
        )


def _walk(root: str, discovered: DiscoveryResult) -> Iterator[Entry]:
    """Yield audio and metadata files with names relative to the root."""
    for entry in _walk_store(root) if is_uri(root) else _walk_disk(os.path.abspath(root), discovered):
        name = entry.name
        base = posixpath.basename(name)
        extension = base.rpartition(".")[2].lower()
        if base.startswith(".") or (not is_metadata(base) and extension not in EXTENSIONS):
            discovered.ignored_files += 1
        elif name.encode(errors="surrogateescape") != name.encode(errors="replace"):
            discovered.rejects.append(Reject(ascii(name), "the name is not valid UTF-8", RejectKind.OTHER))
        else:
            yield entry


def _walk_store(root: str) -> Iterator[Entry]:
    """Yield the files of an object store, as `_walk_disk` does."""
    entries = Folder(root).entries(recursive=True)
    names: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        names[posixpath.dirname(entry.name)].append(posixpath.basename(entry.name))
    outputs = tuple(f"{folder}/" if folder else "" for folder, files in names.items() if _is_output(files))
    for entry in entries:
        hidden = any(part.startswith(".") for part in entry.name.split("/")[:-1])
        if not hidden and not entry.name.startswith(outputs):
            yield entry


def _walk_disk(root: str, discovered: DiscoveryResult) -> Iterator[Entry]:
    """Yield the files of a local tree; symbolic links are followed, but no folder is entered twice."""
    seen: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        name = os.fsencode(error.filename).decode(errors="backslashreplace")
        discovered.rejects.append(Reject(name, f"cannot be listed: {error.strerror}", RejectKind.UNOPENED))

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
    """Return whether a folder is an output of preprocess, whose cache and shards are not sources."""
    return {"fingerprint.json", "listing.json"} <= set(names)


def _with_unique_ids(songs: list[Song]) -> list[Song]:
    """Number songs with the same id: copies in two roots, or two Unicode spellings of one name."""
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
