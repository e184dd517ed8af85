"""Records of songs: what became of each, as objects below commits/ and as lines of outcomes.jsonl.

A record is there before its song's result is (status `begun`), so that what a killed run left is told from a
file that somebody else put there.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from pipelines.restoration.songs import SongTask
from pipelines.storage.folder import Folder

COMMITS = "commits"
_READING_THREADS = 16


@dataclass(kw_only=True)
class SongRecord:
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
    def start(cls, song: SongTask, status: str, reason: str | None = None) -> "SongRecord":
        """Begin the record of a song."""
        return cls(
            source=song.source,
            source_bytes=song.source_bytes,
            source_mtime_ns=song.source_mtime_ns,
            name=song.name,
            status=status,
            reason=reason,
        )

    def to_json(self) -> str:
        """Give the line of outcomes.jsonl."""
        facts = asdict(self)
        del facts["run"], facts["attempts"]
        return json.dumps(facts)


def commit_path(name: str) -> str:
    """Name the commit object of a result."""
    return f"{COMMITS}/{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def write_record(output: Folder, record: SongRecord) -> None:
    """Write a commit object."""
    output.write(commit_path(record.name), json.dumps(asdict(record), indent=1).encode())


def read_record(output: Folder, path: str) -> SongRecord | None:
    """Read a commit object; None for one that is not there or damaged."""
    try:
        record = SongRecord(**json.loads(output.read(path)))
        return record if commit_path(record.name) == path else None
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def read_records(output: Folder) -> dict[str, SongRecord | None]:
    """Read all commit objects, by path; None stands for a damaged one."""
    paths = [entry.name for entry in output.entries(COMMITS) if entry.name.endswith(".json")]
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        return dict(zip(paths, pool.map(lambda path: read_record(output, path), paths), strict=True))


def split_pending(
    tasks: Sequence[SongTask], output: Folder, *, overwrite: bool
) -> tuple[dict[SongTask, SongRecord], list[SongTask]]:
    """Tell the songs that there is nothing to do for, with their records, from those that are open."""
    records = read_records(output)
    sizes = _sizes(output, tasks)
    finished: dict[SongTask, SongRecord] = {}
    for song in tasks:
        record = records.get(commit_path(song.name))
        size = sizes.get(song.name)
        if song.problem is not None:
            finished[song] = SongRecord.start(song, "failed", song.problem)
        elif overwrite:
            continue
        elif commit_path(song.name) not in records and size is not None:
            reason = "a file is there that no run here has made; --overwrite replaces it"
            finished[song] = SongRecord.start(song, "skipped", reason)
        elif record is not None and record.source != song.source and size is not None:
            reason = f"its result is there already, of {record.source}; use {{parent}} in the template"
            finished[song] = SongRecord.start(song, "failed", reason)
        elif record is not None and _is_whole(record, song, size):
            finished[song] = record
    return finished, [song for song in tasks if song not in finished]


def _is_whole(record: SongRecord, song: SongTask, size: int | None) -> bool:
    """Tell whether the result that a record is of is there, and the song is still the same."""
    then = (record.source_bytes, record.source_mtime_ns)
    unchanged = then == (song.source_bytes, song.source_mtime_ns)
    return record.status == "restored" and size == record.bytes and unchanged


def _sizes(output: Folder, tasks: Sequence[SongTask]) -> dict[str, int]:
    """Give the sizes of the results that are there, by name."""
    if not output.is_local:  # one listing is thousands of songs; asking for each would be a call each
        return {entry.name: entry.size for entry in output.entries(recursive=True)}
    sizes = {}
    for song in tasks:
        path = output.path(song.name)
        if song.name and os.path.isfile(path):
            sizes[song.name] = os.path.getsize(path)
    return sizes
