"""Slakh2100: a folder for each song: mix.flac, stems/S00.flac … and metadata.yaml with their classes."""

import posixpath
from collections import defaultdict

from pipelines.preprocess.songs import (
    DiscoveryResult,
    Song,
    SourceFile,
    full_file,
    full_name,
    name_without_extension,
)
from pipelines.preprocess.stem_names import nfc
from pipelines.preprocess.yaml_listing import read_yaml_listing
from pipelines.schema import MIXTURE
from pipelines.storage.folder import Entry

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
    listing, problem = read_yaml_listing(root, posixpath.join(folder, METADATA))
    if listing is None:
        discovered.reject_listing(song_id, f"cannot be read: {problem}", file=METADATA)
        return
    files = {name_without_extension(file): file for file in folders[posixpath.join(folder, "stems")]}
    sources: dict[str, list[SourceFile]] = defaultdict(list)
    complete = True
    for stem, facts in sorted((str(stem), facts) for stem, facts in listing["stems"].items()):
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
