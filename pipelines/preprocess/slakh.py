"""Slakh2100: a folder for each song: mix.flac, stems/S00.flac … and metadata.yaml with their classes."""

import posixpath
from collections import defaultdict
from typing import Any

import yaml

from pipelines.preprocess.songs import (
    DiscoveryResult,
    Song,
    SourceFile,
    full_file,
    full_name,
    name_without_extension,
)
from pipelines.preprocess.stem_names import nfc
from pipelines.schema import MIXTURE
from pipelines.storage.folder import Entry, Folder
from pipelines.storage.object_store import StoreError

SLAKH, METADATA = "slakh2100", "metadata.yaml"
_STEM_OF_CLASS = {  # of its inst_class, without capitals; what is not named here is `other`
    "bass": "bass",
    "brass": "wind",
    "chromatic percussion": "percussion",
    "drums": "drums",
    "ethnic": "other_plucked",
    "guitar": "guitar",
    "organ": "other_keys",
    "percussive": "percussion",
    "piano": "piano",
    "pipe": "wind",
    "reed": "wind",
    "strings": "bowed_strings",
    "synth lead": "other_keys",
    "synth pad": "other_keys",
}


def add_slakh_song(
    root: str, folder: str, split: str | None, folders: dict[str, list[Entry]], discovered: DiscoveryResult
) -> None:
    """Add the song of a folder with metadata.yaml and stems/; a reject if its metadata cannot be read."""
    title = nfc(posixpath.basename(folder) or posixpath.basename(root.rstrip("/")))
    song_id = f"{SLAKH}/{title}"
    listing, problem = _read_metadata(root, posixpath.join(folder, METADATA))
    if listing is None:
        discovered.reject_listing(song_id, f"cannot be read: {problem}", file=METADATA)
        return
    files = {name_without_extension(file): file for file in folders[posixpath.join(folder, "stems")]}
    sources: dict[str, list[SourceFile]] = defaultdict(list)
    complete = True
    for stem, facts in sorted(listing.items()):
        if stem in files:
            name = facts.get("inst_class")  # of any type: the text of nested aliases can be endless
            instrument = name.lower() if isinstance(name, str) else ""
            sources[_STEM_OF_CLASS.get(instrument, "other")].append(full_file(root, files[stem]))
        elif facts.get("audio_rendered", True):
            discovered.reject_listing(f"{song_id}/{stem}", "names a stem that is missing", file=METADATA)
            complete = False
    mixes = [file for file in folders[folder] if name_without_extension(file).lower() in ("mix", MIXTURE)]
    if mixes:
        sources[MIXTURE].append(full_file(root, mixes[0]))
    used = {file.name for found in sources.values() for file in found}
    below = [f for at, found in folders.items() if at == folder or at.startswith(f"{folder}/") for f in found]
    discovered.ignored_files += sum(posixpath.basename(f.name) != METADATA for f in below) - len(used)
    if sources:
        entries = {stem: tuple(found) for stem, found in sources.items()}
        discovered.songs.append(
            Song(SLAKH, song_id, "", title, split, entries, complete, recording=full_name(root, folder))
        )


def _read_metadata(root: str, name: str) -> tuple[dict[str, dict[str, Any]] | None, str]:
    """Read the stems of a song's metadata.yaml; None and the reason if it has none."""
    try:
        listing = yaml.safe_load(Folder(root).read(name))
    except StoreError:
        raise  # not an error of the song
    except (ValueError, RecursionError, OSError, yaml.YAMLError) as error:
        return None, f"{type(error).__name__}: {error}".partition("\n")[0]
    stems = listing.get("stems") if isinstance(listing, dict) else None
    if not isinstance(stems, dict) or not all(isinstance(facts, dict) for facts in stems.values()):
        return None, "it has no stems"
    return {str(stem): facts for stem, facts in stems.items()}, ""
