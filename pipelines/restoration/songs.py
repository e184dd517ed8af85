"""Songs that are to be restored and songs that are: what lies where, what is open, and the records of both.

Results are named by the code of `apollo restore`. An object of a store takes part under a path of its own
(`/s3:/bucket/album/song.mp3`), so that templates, collisions and folders mean the same everywhere.

The record of a song is an object below commits/. It is there before its result is (status `begun`), so that
what a killed run left is told from a file that somebody else put there.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow.fs as pafs

from apollo.audio.formats import SongsConfig
from apollo.audio.songs import Job, is_song, list_songs, name_results
from pipelines.errors import UsageError
from pipelines.storage.folder import Folder, is_uri, join, open_filesystem
from pipelines.storage.object_store import explained

COMMITS = "commits"
_READING_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A song to restore.

    Args:
        source: Path or URI.
        source_bytes: Its size.
        source_mtime_ns: When it was changed.
        name: The result's, below the output.
        problem: Why it cannot be done, known beforehand.
    """

    source: str
    source_bytes: int = 0
    source_mtime_ns: int = 0
    name: str = ""
    problem: str | None = None


@dataclass(kw_only=True)
class Record:
    """What became of a song: a line of outcomes.jsonl, and its object below commits/.

    Args:
        source: Path or URI.
        source_bytes: Its size.
        source_mtime_ns: When it was changed.
        name: The result's, below the output.
        status: `begun`, `restored`, `skipped` (a file is there that no run made) or `failed`.
        reason: Why not.
        warnings: What is wrong with the song although it was restored.
        channels: How many.
        samples: Length of the result, per channel.
        seconds: The same in seconds.
        elapsed_seconds: How long it took.
        peak: Largest absolute sample before clipping.
        gain: What the result was multiplied with to fit full scale.
        bytes: Size of the result.
        sha256: Of the result.
        device: Where it was computed.
        precision: Of the linear layers.
        run: The run that did it.
        attempts: How often that run began it.
    """

    source: str
    source_bytes: int
    source_mtime_ns: int
    name: str
    status: str
    reason: str | None = None
    warnings: list[str] = field(default_factory=list)
    channels: int = 0
    samples: int = 0
    seconds: float = 0.0
    elapsed_seconds: float = 0.0
    peak: float = 0.0
    gain: float = 1.0
    bytes: int = 0
    sha256: str = ""
    device: str = ""
    precision: str = ""
    run: str = ""
    attempts: int = 0

    @classmethod
    def of(cls, song: Wanted, status: str, reason: str | None = None) -> "Record":
        """Begin the record of a song."""
        return cls(
            source=song.source,
            source_bytes=song.source_bytes,
            source_mtime_ns=song.source_mtime_ns,
            name=song.name,
            status=status,
            reason=reason,
        )

    def line(self) -> str:
        """Give the line of outcomes.jsonl."""
        facts = asdict(self)
        del facts["run"], facts["attempts"]
        return json.dumps(facts)


def commit_path(name: str) -> str:
    """Name the commit object of a result."""
    return f"{COMMITS}/{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def write_record(output: Folder, record: Record) -> None:
    """Write a commit object."""
    output.write(commit_path(record.name), json.dumps(asdict(record), indent=1).encode())


def read_record(output: Folder, path: str) -> Record | None:
    """Read a commit object; None for one that is not there or damaged."""
    try:
        record = Record(**json.loads(output.read(path)))
        return record if commit_path(record.name) == path else None
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def read_records(output: Folder) -> dict[str, Record | None]:
    """Read all commit objects, by path; None stands for a damaged one."""
    paths = [entry.name for entry in output.entries(COMMITS) if entry.name.endswith(".json")]
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        return dict(zip(paths, pool.map(lambda path: read_record(output, path), paths), strict=True))


def find_wanted(data: Sequence[str], songs: SongsConfig) -> list[Wanted]:
    """Find the songs that files, folders and URIs name, and name their results.

    Args:
        data: Absolute paths and URIs.
        songs: How results are named; its output may be a URI.

    Raises:
        ValueError: an input does not exist, or is the output.
    """
    output = _place(songs.output)
    naming = replace(songs, output=str(output))
    found: dict[Path, Path] = {}
    problems: list[Job] = []
    stored: dict[Path, Wanted] = {}
    for location in data:
        if Folder(location).is_local:  # file:// too: links may lead in circles there
            more, bad = list_songs([str(_place(location))], naming)
            found |= more
            problems += bad
            continue
        before = len(stored)
        for place, folder, song in _stored_songs(location, output):
            stored[place], found[place] = song, folder
        if len(stored) == before:
            problems.append(Job(Path(location), output, "no audio files in this folder"))
            stored[Path(location)] = Wanted(source=location)
    jobs = name_results(found, naming) + problems
    return list(dict.fromkeys(_wanted(job, stored, output) for job in jobs))


def _place(location: str) -> Path:
    """Give the path that a location goes by here, whether or not it is one of this machine."""
    if not is_uri(location):
        return Path(location)
    scheme = location.partition("://")[0]
    inner = open_filesystem(location)[1]
    return Path(inner) if scheme == "file" else Path(f"/{scheme}:", inner.strip("/"))


def _stored_songs(location: str, output: Path) -> Iterator[tuple[Path, Path, Wanted]]:
    """Yield the songs of a URI: path it goes by, folder its result goes to, and where it is."""
    root = _place(location)
    filesystem, inner = open_filesystem(location)
    with explained("list", location):
        info = filesystem.get_file_info(inner)
        if info.type == pafs.FileType.NotFound:
            raise UsageError(f"{location}: no such file or folder")
        if info.type == pafs.FileType.File:
            song = Wanted(source=location, source_bytes=info.size or 0, source_mtime_ns=info.mtime_ns or 0)
            yield root, output, song
            return
        if root == output:
            raise UsageError(f"{location}: the output is an input; its results would be taken for songs")
        entries = Folder(location).entries(recursive=True)
    for entry in entries:
        place = root / entry.name
        if is_song(place.name) and not place.is_relative_to(output):
            source = join(location, entry.name)
            song = Wanted(source=source, source_bytes=entry.size, source_mtime_ns=entry.mtime_ns)
            yield place, output / place.parent.relative_to(root), song


def _wanted(job: Job, stored: dict[Path, Wanted], output: Path) -> Wanted:
    source = str(job.source)
    if source.encode(errors="surrogateescape") != source.encode(errors="replace"):
        return Wanted(source=ascii(source), problem="the name is not valid UTF-8")
    song = stored.get(job.source)
    if song is None:
        song = Wanted(source=source)
        try:
            status = os.stat(job.source)
            song = replace(song, source_bytes=status.st_size, source_mtime_ns=status.st_mtime_ns)
        except OSError:
            pass  # whoever opens it says why it cannot
    if job.problem is not None:
        return replace(song, problem=job.problem)
    return replace(song, name=job.target.relative_to(output).as_posix())


def divide(
    wanted: Sequence[Wanted], output: Folder, *, overwrite: bool
) -> tuple[dict[Wanted, Record], list[Wanted]]:
    """Tell the songs that there is nothing to do for, with their records, from those that are open."""
    records = read_records(output)
    sizes = _sizes(output, wanted)
    settled: dict[Wanted, Record] = {}
    for song in wanted:
        record = records.get(commit_path(song.name))
        size = sizes.get(song.name)
        if song.problem is not None:
            settled[song] = Record.of(song, "failed", song.problem)
        elif overwrite:
            continue
        elif commit_path(song.name) not in records and size is not None:
            reason = "a file is there that no run here has made; --overwrite replaces it"
            settled[song] = Record.of(song, "skipped", reason)
        elif record is not None and record.source != song.source and size is not None:
            reason = f"its result is there already, of {record.source}; use {{parent}} in the template"
            settled[song] = Record.of(song, "failed", reason)
        elif record is not None and _is_whole(record, song, size):
            settled[song] = record
    return settled, [song for song in wanted if song not in settled]


def _is_whole(record: Record, song: Wanted, size: int | None) -> bool:
    """Tell whether the result that a record is of is there, and the song is still the same."""
    then = (record.source_bytes, record.source_mtime_ns)
    unchanged = then == (song.source_bytes, song.source_mtime_ns)
    return record.status == "restored" and size == record.bytes and unchanged


def _sizes(output: Folder, wanted: Sequence[Wanted]) -> dict[str, int]:
    """Give the sizes of the results that are there, by name."""
    if not output.is_local:  # one listing is thousands of songs; asking for each would be a call each
        return {entry.name: entry.size for entry in output.entries(recursive=True)}
    sizes = {}
    for song in wanted:
        path = output.path(song.name)
        if song.name and os.path.isfile(path):
            sizes[song.name] = os.path.getsize(path)
    return sizes
