"""Layouts of data sets: MoisesDB here; those of others, loose stems and songs in their modules.

A data set is recognised by its folders and by names without extensions.

Source: moises-db's `data.json`. Of all files, only this, Slakh2100's `metadata.yaml` and MedleyDB's
`*_METADATA.yaml` are read.
"""

import json
import posixpath
from collections import defaultdict
from typing import Any

from pipelines.preprocess.loose_songs import add_loose_songs
from pipelines.preprocess.medleydb import METADATA_ENDING, add_medleydb_song, find_metadata
from pipelines.preprocess.musdb import add_musdb_song, has_musdb_song, take_stem_files
from pipelines.preprocess.slakh import METADATA, add_slakh_song
from pipelines.preprocess.songs import DiscoveryResult, Song, SourceFile, full_file
from pipelines.preprocess.split_folders import SplitFolders
from pipelines.preprocess.stem_names import nfc
from pipelines.preprocess.urmp import take_urmp_pieces
from pipelines.schema import STEMS
from pipelines.storage.folder import Entry, Folder
from pipelines.storage.object_store import StoreError

MOISESDB = "moisesdb"
LISTING = "data.json"


def is_metadata(name: str) -> bool:
    """Return whether a file is called as one that lists the stems of a song."""
    base = posixpath.basename(name)
    return base in (LISTING, METADATA) or base.endswith(METADATA_ENDING)


def group_into_songs(
    root: str, entries: list[Entry], splits: SplitFolders, discovered: DiscoveryResult
) -> None:
    """Group the files below a root into songs, by layout.

    Args:
        root: Folder or URI.
        entries: Audio and metadata files, with names relative to the root.
        splits: Splits by place, of songs whose data set has no official ones.
        discovered: Result that is added to; its entries get full paths.
    """
    folders: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        folders[posixpath.dirname(entry.name)].append(entry)
    listings = _find_listings(root, folders, discovered)
    slakh = {folder for folder in folders if _has_slakh_song(folder, folders)} - listings.keys()
    medley = {folder for folder in folders if find_metadata(folder, folders)} - listings.keys() - slakh
    owners = listings.keys() | slakh | medley
    musdb: list[str] = []
    loose: dict[str, list[Entry]] = {}
    for folder, files in sorted(folders.items()):
        if any(not owner or folder == owner or folder.startswith(f"{owner}/") for owner in owners):
            continue
        audio = [file for file in files if not is_metadata(file.name)]
        discovered.ignored_files += sum(
            is_metadata(file.name) and posixpath.basename(file.name) != LISTING for file in files
        )
        audio = take_stem_files(root, folder, audio, discovered)
        audio = take_urmp_pieces(root, folder, audio, splits, discovered)
        if has_musdb_song(root, folder, audio):
            musdb.append(folder)
            add_musdb_song(root, folder, audio, discovered)
        elif audio:
            loose[folder] = audio
    for folder, listing in sorted(listings.items()):
        if listing:
            _add_moises_song(root, folder, listing, splits.split_of(root, folder), folders, discovered)
    for folder in sorted(slakh):
        add_slakh_song(root, folder, splits.split_of(root, folder), folders, discovered)
    for folder in sorted(medley):
        add_medleydb_song(root, folder, splits.split_of(root, folder), folders, discovered)
    add_loose_songs(root, loose, musdb, splits, discovered)


def _find_listings(
    root: str, folders: dict[str, list[Entry]], discovered: DiscoveryResult
) -> dict[str, dict[str, Any]]:
    """Read every data.json; one that cannot be read, in a folder like MoisesDB's, is empty and a reject."""
    listings: dict[str, dict[str, Any]] = {}
    for folder, files in folders.items():
        if any(posixpath.basename(file.name) == LISTING for file in files):
            listing, problem = _read_listing(root, posixpath.join(folder, LISTING))
            if listing is not None:
                listings[folder] = listing
            elif any(posixpath.join(folder, stem) in folders for stem in STEMS):
                discovered.reject_listing(_moises_id(root, folder), f"cannot be read: {problem}")
                listings[folder] = {}
    return listings


def _has_slakh_song(folder: str, folders: dict[str, list[Entry]]) -> bool:
    named = any(posixpath.basename(file.name) == METADATA for file in folders[folder])
    return named and posixpath.join(folder, "stems") in folders


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
    split: str | None,
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
    sources: dict[str, tuple[SourceFile, ...]] = {}
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
            sources[stem] = tuple(full_file(root, found[name]) for name in sorted(set(names)))
    if not wanted:
        discovered.reject_listing(song_id, "names no tracks")
    used = sum(len(files) for files in sources.values())
    discovered.ignored_files += sum(not is_metadata(name) for name in found) - used
    if sources:
        song = Song(MOISESDB, song_id, nfc(artist), nfc(title), split, sources, complete)
        discovered.songs.append(song)
