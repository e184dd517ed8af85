"""All state of a song in one folder, so that any process that shares the disk can answer for it.

    ROOT/songs/ID/song.json          name, size, inspection; written last: a folder without it is no song
                  song.reserved    size that the song may reach by what was accepted for it
                  upload.EXTENSION
                  jobs/JOB.json      status, progress and reason of a job: `parts`, or a result's name
                  parts/             pieces to listen to, and the spectrograms
                  results/JOB.EXTENSION
    ROOT/queue/TIME.ID.JOB           a job that waits or is being done

A JSON file has one writer at a time and is replaced atomically. A song is cancelled by removing its
`song.json`: whoever works on it sees that and stops.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

WAITING, WORKING, READY, FAILED = "waiting", "working", "ready", "failed"
_ID = re.compile(r"[0-9a-f]{48}")
_RESERVED = "song.reserved"
_SESSION_LENGTH, _MAX_NAME = 16, 200
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}")


class SongGoneError(Exception):
    """The song was cancelled or removed."""


class SongFolder:
    """One song.

    Args:
        path: Its folder, named by its id.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.id = path, path.name

    @property
    def exists(self) -> bool:
        """Whether the song was uploaded, and not removed."""
        return (self.path / "song.json").exists()

    @property
    def upload(self) -> Path:
        """The uploaded file.

        Raises:
            SongGoneError: the song was removed.
        """
        for name in _names(self.path):
            if name.startswith("upload"):
                return self.path / name
        raise SongGoneError

    def describe(self) -> dict[str, Any]:
        """Return name, size, time of creation and inspection.

        Raises:
            SongGoneError: the song was removed.
        """
        return _read(self.path / "song.json")

    def complete(self, **facts: Any) -> None:
        """Turn an upload into a song."""
        (self.path / "jobs").mkdir(exist_ok=True)
        _write(self.path / "song.json", facts | {"created": time.time()})

    def read_job(self, job: str) -> dict[str, Any]:
        """Return the state of a job; an empty one if there is no such job."""
        try:
            return _read(self.path / "jobs" / f"{job}.json")
        except SongGoneError:
            return {}

    def write_job(self, job: str, status: str, **facts: Any) -> None:
        """Replace the state of a job.

        Raises:
            SongGoneError: the song was removed.
        """
        if not self.exists:
            raise SongGoneError
        _write(self.path / "jobs" / f"{job}.json", {"status": status} | facts)

    def jobs(self) -> list[str]:
        """Return the names of the jobs."""
        found = [Path(name) for name in _names(self.path / "jobs")]
        return sorted(name.stem for name in found if name.suffix == ".json" and name.stem[0] != ".")

    def result(self, job: str, extension: str) -> Path:
        """Return the path of a result."""
        return self.path / "results" / f"{job}.{extension}"

    def piece(self, part: str, number: int) -> Path:
        """Return the path of a piece to listen to."""
        return self.path / "parts" / f"{part}-{number:05d}.flac"

    def spectrogram(self, part: str) -> Path:
        """Return the path of a picture."""
        return self.path / "parts" / f"{part}.png"

    def remove_unfinished(self) -> None:
        """Delete the temporary files of results, which a process that was killed has left."""
        for name in _names(self.path / "results"):
            if name.startswith(".apollo-"):
                (self.path / "results" / name).unlink(missing_ok=True)

    def renew(self) -> None:
        """Count the age from now."""
        try:
            os.utime(self.path / "song.json")
        except FileNotFoundError as error:
            raise SongGoneError from error

    def remove(self) -> None:
        """Cancel what is being done, and delete all of it."""
        (self.path / "song.json").unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


class SongStore:
    """All songs, and the queue of jobs.

    Args:
        root: A folder, which is created.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._songs, self._queue = root / "songs", root / "queue"
        for folder in (self._songs, self._queue):
            folder.mkdir(parents=True, exist_ok=True)

    def create(self, session: str, name: str) -> tuple[SongFolder, Path]:
        """Create the folder of a song that is uploaded next; return it and where the upload goes.

        Args:
            session: Secret of the browser session.
            name: Of the file, as the user calls it: only a plain extension of it becomes part of a path.
        """
        song = SongFolder(self._songs / f"{_session_prefix(session)}{secrets.token_hex(16)}")
        song.path.mkdir()
        extension = Path(name).suffix
        return song, song.path / f"upload{extension if _EXTENSION.fullmatch(extension) else ''}"

    def open(self, song_id: str) -> SongFolder:
        """Return a song.

        Raises:
            SongGoneError: there is none.
        """
        song = SongFolder(self._songs / song_id)
        if not _ID.fullmatch(song_id) or not song.exists:
            raise SongGoneError
        return song

    def of_session(self, session: str) -> list[SongFolder]:
        """Return the songs of a browser session, the oldest first."""
        found = [song for song in self._all() if song.id.startswith(_session_prefix(session)) and song.exists]
        return sorted(found, key=_age, reverse=True)

    def enqueue(self, song: SongFolder, job: str) -> Path:
        """Add a job to the end of the queue, and return its file there."""
        song.write_job(job, WAITING, progress=0.0)
        ticket = self._queue / f"{time.time_ns():020d}.{song.id}.{job}"
        ticket.touch()
        return ticket

    def dequeue(self, song_id: str, job: str = "*") -> None:
        """Remove a job from the queue: it is done, or not wanted any more; all jobs of a song by default."""
        for ticket in self._queue.glob(f"*.{song_id}.{job}"):
            ticket.unlink(missing_ok=True)

    def tickets(self) -> list[Path]:
        """Return the files of the queue, the next first."""
        return sorted(self._queue.iterdir())

    def queue(self) -> list[str]:
        """Return the jobs of the queue as `ID.JOB`, the next first."""
        return [ticket.name.partition(".")[2] for ticket in self.tickets()]

    def remove(self, song: SongFolder) -> None:
        """Cancel and delete a song."""
        song.remove()
        self.dequeue(song.id)

    def clean(self, max_age: float) -> None:
        """Remove songs that are older than some seconds, and what is left of uploads."""
        busy = self._busy()
        for song in list(self._all()):
            if _age(song) > max_age and song.id not in busy:
                self.remove(song)

    def make_room(self, song: SongFolder, num_bytes: int, limit: int) -> bool:
        """Reserve room for what a song needs next, and return whether there is room; the oldest are removed.

        Songs that are uploaded, wait or are being restored count with what was reserved for them.

        Args:
            song: It is uploaded next, or a job of it is enqueued.
            num_bytes: How many more it needs.
            limit: Size of all songs.
        """
        busy = self._busy()
        songs = sorted((one for one in self._all() if one.id != song.id), key=_age, reverse=True)
        kept = {one.id for one in songs if one.id in busy or not one.jobs()}  # without jobs: not yet enqueued
        stored = {one.id: _size(one.path) for one in [*songs, song]}
        sizes = stored | {id: max(stored[id], self._reserved(id)) for id in (kept | busy) & stored.keys()}
        sizes[song.id] += num_bytes
        for one in [*songs, None]:
            growth = sum(sizes.values()) - sum(stored.values())
            if sum(sizes.values()) <= limit and growth < shutil.disk_usage(self.root).free:
                _write(song.path / _RESERVED, {"bytes": sizes[song.id]})
                return True
            if one is not None and one.exists and one.id not in kept:
                self.remove(one)
                del sizes[one.id], stored[one.id]
        return False

    def _reserved(self, song_id: str) -> int:
        with suppress(SongGoneError):
            return int(_read(self._songs / song_id / _RESERVED)["bytes"])
        return 0

    def _busy(self) -> set[str]:
        """Return the ids of songs of which a job waits or is being done.

        The states of jobs would not tell: a process that is killed leaves them as they are.
        """
        return {job.partition(".")[0] for job in self.queue()}

    def _all(self) -> Iterator[SongFolder]:
        return (SongFolder(path) for path in self._songs.iterdir() if _ID.fullmatch(path.name))


def clean_name(name: str) -> str:
    """Return the last part of a file's name, without control characters, of at most 200 characters."""
    last = re.split(r"[/\\]", name.strip())[-1]
    printable = "".join(letter for letter in last if letter.isprintable())
    stem, suffix = os.path.splitext(printable)
    return (stem[: _MAX_NAME - len(suffix[:10])] + suffix[:10]) or "song"


def _session_prefix(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()[:_SESSION_LENGTH]


def _age(song: SongFolder) -> float:
    """Return the seconds since a song was uploaded, or a result was asked of it."""
    for path in (song.path / "song.json", song.path):
        try:
            return time.time() - path.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _names(folder: Path) -> list[str]:
    """Return what is in a folder; nothing if it was removed."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # unlike pathlib, it goes on if a folder is removed meanwhile
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SongGoneError from error
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file atomically, not flushed to disk: it describes what lasts as long as the server."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        scratch.write_text(json.dumps(content, allow_nan=False))
        scratch.replace(path)
    except FileNotFoundError as error:
        raise SongGoneError from error
