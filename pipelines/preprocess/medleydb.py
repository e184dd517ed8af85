"""MedleyDB: a folder for each song: X_MIX.wav, X_STEMS/X_STEM_01.wav …, X_RAW/ and X_METADATA.yaml.

Source: marl's medleydb (fields of the metadata and its names of instruments). Raw tracks are not read: the
stems are made of them.
"""

import posixpath
from collections import defaultdict
from typing import Any

from pipelines.preprocess.songs import DiscoveryResult, Song, SourceFile, full_file, full_name
from pipelines.preprocess.stem_names import nfc
from pipelines.preprocess.yaml_listing import read_yaml_listing
from pipelines.schema import MIXTURE
from pipelines.storage.folder import Entry

MEDLEYDB, METADATA_ENDING = "medleydb", "_METADATA.yaml"
_STEM_OF_WORDS = (  # the first of these with a word in the name of the instrument; else `other`
    ("other", "fx sampler system unlabeled"),
    ("guitar", "guitar"),
    ("other_keys", "electric-piano synthesizer organ melodica accordion keyboard harpsichord"),
    ("piano", "piano"),
    ("percussion", "percussion tambourine shaker bongo conga tabla cowbell claps castanet timpani"),
    ("percussion", "glockenspiel vibraphone marimba xylophone doumbek darbuka gong chimes bells whistle"),
    ("drums", "drum drums kick snare toms cymbal hat beatboxing"),
    ("wind", "flute clarinet saxophone oboe bassoon trumpet trombone horn tuba brass woodwind dizi"),
    ("wind", "harmonica recorder"),
    ("bass", "bass"),
    ("vocals", "singer vocalists rapper speaker screamer choir"),
    ("bowed_strings", "violin viola cello string strings fiddle erhu dilruba"),
    ("other_plucked", "banjo mandolin ukulele harp oud guzheng yangqin zhongruan liuqin pipa sitar lute"),
)
_INSTRUMENTS = tuple((stem, frozenset(words.split())) for stem, words in _STEM_OF_WORDS)


def find_metadata(folder: str, folders: dict[str, list[Entry]]) -> str | None:
    """Return the name of the metadata of a song's folder, beside a folder of stems; None if it has none."""
    for file in folders.get(folder, ()):
        if file.name.endswith(METADATA_ENDING):
            stems = posixpath.join(folder, f"{_name(file.name)}_STEMS")
            return file.name if stems in folders else None
    return None


def add_medleydb_song(
    root: str, folder: str, split: str | None, folders: dict[str, list[Entry]], discovered: DiscoveryResult
) -> None:
    """Add the song of a folder with metadata and stems; a reject if its metadata cannot be read."""
    metadata = find_metadata(folder, folders) or ""
    file_name = nfc(posixpath.basename(metadata))
    name = nfc(_name(metadata))
    song_id = f"{MEDLEYDB}/{name}"
    listing, problem = read_yaml_listing(root, metadata)
    if listing is None:
        discovered.reject_listing(song_id, f"cannot be read: {problem}", file=file_name)
        return
    stems = posixpath.join(folder, f"{_name(metadata)}_STEMS")
    found = {file.name.rpartition(".")[0]: file for at in (folder, stems) for file in folders.get(at, ())}
    sources: dict[str, list[SourceFile]] = defaultdict(list)
    complete = True
    for stem, facts in sorted((str(stem), facts) for stem, facts in listing["stems"].items()):
        path = facts.get("filename")  # of any type: the text of nested aliases can be endless
        path = posixpath.join(stems, path.rpartition(".")[0]) if isinstance(path, str) else ""
        if path in found:
            sources[_class_of(facts.get("instrument"))].append(full_file(root, found[path]))
        else:
            problem = "names a stem that is missing"
            discovered.reject_listing(nfc(f"{song_id}/{stem}"), problem, file=file_name)
            complete = False
    if (mix := found.get(posixpath.join(folder, f"{_name(metadata)}_MIX"))) is not None:
        sources[MIXTURE].append(full_file(root, mix))
    below = [f for at, files in folders.items() if at == folder or at.startswith(f"{folder}/") for f in files]
    used = sum(len(files) for files in sources.values())
    discovered.ignored_files += sum(f.name != metadata for f in below) - used
    if sources:
        artist, _, title = name.partition("_")
        entries = {stem: tuple(files) for stem, files in sources.items()}
        discovered.songs.append(
            Song(
                MEDLEYDB,
                song_id,
                artist if title else "",
                title or name,
                split,
                entries,
                complete,
                recording=full_name(root, folder),
            )
        )


def _name(metadata: str) -> str:
    return posixpath.basename(metadata).removesuffix(METADATA_ENDING)


def _class_of(instrument: Any) -> str:
    """Return the class of an instrument, whose value may be of any type."""
    name = instrument.lower() if isinstance(instrument, str) else ""
    words = {*name.replace("/", " ").split(), *name.replace(" ", "-").split()}
    return next((stem for stem, known in _INSTRUMENTS if words & known), "other")
