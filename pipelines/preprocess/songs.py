"""Songs on disk or in a store, before their audio is read, and what finding them results in."""

import json
import os
import posixpath
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from apollo.audio.rejects import RejectKind
from pipelines.errors import UsageError
from pipelines.storage.folder import Entry, is_uri, join


@dataclass(frozen=True)
class SourceFile(Entry):
    """An audio stream of a file, by its place among them."""

    stream: int = 0


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
        recording: Songs with the same text here are parts of one recording, by their place; empty if none.
    """

    dataset: str
    song_id: str
    artist: str
    title: str
    split: str | None
    sources: Mapping[str, tuple[SourceFile, ...]]
    complete: bool = True
    recording: str = ""

    def to_json(self) -> str:
        """Return the song as JSON, which Ray sends without pickling."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Song":
        """Parse the result of `to_json`."""
        values = json.loads(text)
        sources = {
            stem: tuple(SourceFile(**file) for file in files) for stem, files in values.pop("sources").items()
        }
        return cls(**values, sources=sources)


class Reject(NamedTuple):
    """A file or source that cannot be used: name, reason, and the reason's kind."""

    name: str
    reason: str
    kind: RejectKind


@dataclass
class DiscoveryResult:
    """Songs, rejected files, the number of ignored files, and remarks for the report."""

    songs: list[Song] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    ignored_files: int = 0
    remarks: list[str] = field(default_factory=list)

    def check_songs(self) -> None:
        """Check that there are songs.

        Raises:
            UsageError: all files were rejected; the text has the first and its reason.
        """
        if not self.songs:
            first = min(self.rejects)
            raise UsageError(
                f"no usable source: {len(self.rejects)} rejects, the first: {first.name}: {first.reason}"
            )

    def reject_listing(self, name: str, problem: str, *, file: str = "data.json") -> None:
        """Add a reject because of the file that lists a song's stems."""
        self.rejects.append(Reject(name, f"{file} {problem}", RejectKind.LISTING))


def full_file(root: str, entry: Entry, stream: int = 0) -> SourceFile:
    """Return an entry whose name is relative to a root with its full name."""
    return SourceFile(full_name(root, entry.name), entry.size, entry.mtime_ns, stream)


def full_name(root: str, name: str) -> str:
    """Return the absolute path or URI of a name relative to a root."""
    return join(root if is_uri(root) else os.path.abspath(root), name)


def artist_and_title(name: str) -> tuple[str, str]:
    """Split "artist - title"; the artist is empty where there is none."""
    artist, separator, title = name.partition(" - ")
    return (artist, title) if separator else ("", name)


def name_without_extension(file: Entry) -> str:
    """Return a file's name without folder and extension."""
    return posixpath.basename(file.name).rpartition(".")[0]
