"""Records of songs: objects below commits/ and lines of outcomes.jsonl.

A record is written before the result (status `begun`), which distinguishes results of an interrupted run from
foreign files.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from apollo.audio.rejects import RejectKind
from pipelines.restoration.songs import SongTask
from pipelines.storage.folder import Folder

COMMITS = "commits"
_READING_THREADS = 16


@dataclass(kw_only=True)
class SongRecord:
    """Status of a song: its object below commits/, and a line of outcomes.jsonl.

    Args:
        source: Path or URI.
        source_bytes: Size of the source.
        source_mtime_ns: Modification time of the source.
        name: Path of the result below the output.
        status: `begun`, `restored`, `skipped` (a foreign file has its name) or `failed`.
        reason: Why it was skipped or failed.
        kind: Kind of the reason of a failure, one of RejectKind; None in older outputs.
        warnings: Damage of a song that was restored.
        channels: Number of channels.
        samples: Length of the result per channel.
        seconds: Length of the result.
        elapsed_seconds: Duration of the restoration.
        peak: Largest absolute sample before clipping.
        gain: Factor that fitted the result to full scale.
        bytes: Size of the result.
        sha256: Of the result.
        device: `cpu` or `cuda`.
        precision: Of the linear layers.
        run: Identifier of the run.
        attempts: Number of attempts of that run.
    """

    source: str
    source_bytes: int
    source_mtime_ns: int
    name: str
    status: str
    reason: str | None = None
    kind: str | None = None
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
    def start(
        cls, song: SongTask, status: str, reason: str | None = None, kind: str | None = None
    ) -> "SongRecord":
        """Create the record of a song."""
        return cls(
            source=song.source,
            source_bytes=song.source_bytes,
            source_mtime_ns=song.source_mtime_ns,
            name=song.name,
            status=status,
            reason=reason,
            kind=kind,
        )

    def to_json(self) -> str:
        """Return the line of outcomes.jsonl."""
        facts = asdict(self)
        del facts["run"], facts["attempts"]
        return json.dumps(facts)


def commit_path(name: str) -> str:
    """Return the path of a result's commit object."""
    return f"{COMMITS}/{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def write_record(output: Folder, record: SongRecord) -> None:
    """Write a commit object."""
    output.write(commit_path(record.name), json.dumps(asdict(record), indent=1).encode())


def read_record(output: Folder, path: str) -> SongRecord | None:
    """Read a commit object; None if it is missing or damaged."""
    try:
        record = SongRecord(**json.loads(output.read(path)))
        return record if commit_path(record.name) == path else None
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def read_records(output: Folder) -> dict[str, SongRecord | None]:
    """Read all commit objects by path; None for a damaged one."""
    paths = [entry.name for entry in output.entries(COMMITS) if entry.name.endswith(".json")]
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        return dict(zip(paths, pool.map(lambda path: read_record(output, path), paths), strict=True))


def split_pending(
    tasks: Sequence[SongTask], output: Folder, *, overwrite: bool
) -> tuple[dict[SongTask, SongRecord], list[SongTask]]:
    """Return the records of the songs that need no work, and the pending songs.

    Args:
        tasks: All songs.
        output: Of the run.
        overwrite: Restore existing results again.
    """
    records = read_records(output)
    sizes = _sizes(output, tasks)
    finished: dict[SongTask, SongRecord] = {}
    for song in tasks:
        record = records.get(commit_path(song.name))
        size = sizes.get(song.name)
        if song.problem is not None:
            finished[song] = SongRecord.start(song, "failed", song.problem, song.kind)
        elif overwrite:
            continue
        elif commit_path(song.name) not in records and size is not None:
            reason = "a file of this name exists that was not restored here; --overwrite replaces it"
            finished[song] = SongRecord.start(song, "skipped", reason)
        elif record is not None and record.source != song.source and size is not None:
            reason = f"the result of {record.source} has the same name; use {{parent}} in --filename"
            finished[song] = SongRecord.start(song, "failed", reason, RejectKind.OTHER)
        elif record is not None and _is_whole(record, song, size):
            finished[song] = record
    return finished, [song for song in tasks if song not in finished]


def _is_whole(record: SongRecord, song: SongTask, size: int | None) -> bool:
    """Return whether the result exists and the song has not changed."""
    then = (record.source_bytes, record.source_mtime_ns)
    unchanged = then == (song.source_bytes, song.source_mtime_ns)
    return record.status == "restored" and size == record.bytes and unchanged


def _sizes(output: Folder, tasks: Sequence[SongTask]) -> dict[str, int]:
    """Return the sizes of existing results by name."""
    if not output.is_local:  # one listing instead of a request per song
        return {entry.name: entry.size for entry in output.entries(recursive=True)}
    sizes = {}
    for song in tasks:
        path = output.path(song.name)
        if song.name and os.path.isfile(path):
            sizes[song.name] = os.path.getsize(path)
    return sizes
