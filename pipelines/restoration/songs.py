"""Find the songs to restore and name their results.

`apollo.audio.songs` names the results, as for `apollo restore`. For an object of a store it gets a path
(`/s3:/bucket/album/song.mp3`), so that templates, collisions and folders work alike everywhere.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.fs as pafs

from apollo.audio.folders import describe_left_out, is_song
from apollo.audio.formats import SongsConfig
from apollo.audio.rejects import RejectKind
from apollo.audio.songs import SongJob, list_songs, name_results
from pipelines.errors import UsageError
from pipelines.storage.folder import Folder, is_uri, join, open_filesystem
from pipelines.storage.object_store import translate_store_errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SongTask:
    """A song to restore.

    Args:
        source: Path or URI.
        source_bytes: Size of the source.
        source_mtime_ns: Modification time of the source.
        name: Path of the result below the output.
        problem: Why it cannot be restored, if known already.
        kind: Kind of the problem.
    """

    source: str
    source_bytes: int = 0
    source_mtime_ns: int = 0
    name: str = ""
    problem: str | None = None
    kind: str = RejectKind.OTHER


def find_songs(data: Sequence[str], songs: SongsConfig) -> list[SongTask]:
    """List the songs in files, folders and URIs, and name their results.

    Args:
        data: Absolute paths and URIs.
        songs: Naming of results; its output may be a URI.

    Raises:
        ValueError: an input does not exist, or is the output.
    """
    output = _local_name(songs.output)
    naming = replace(songs, output=str(output))
    found: dict[Path, Path] = {}
    problems: list[SongJob] = []
    stored: dict[Path, SongTask] = {}
    for location in data:
        if Folder(location).is_local:  # file:// too: links may form cycles there
            more, bad = list_songs([str(_local_name(location))], naming)
            found |= more
            problems += bad
            continue
        before = len(stored)
        for place, folder, song in _list_remote_songs(location, output):
            stored[place], found[place] = song, folder
        if len(stored) == before:
            problems.append(SongJob(Path(location), output, "no audio files in this folder"))
            stored[Path(location)] = SongTask(source=location)
    jobs = name_results(found, naming) + problems
    return list(dict.fromkeys(_make_task(job, stored, output) for job in jobs))


def _local_name(location: str) -> Path:
    """Return the path that stands for a location here, local or not."""
    if not is_uri(location):
        return Path(location)
    scheme = location.partition("://")[0]
    inner = open_filesystem(location)[1]
    return Path(inner) if scheme == "file" else Path(f"/{scheme}:", inner.strip("/"))


def _list_remote_songs(location: str, output: Path) -> Iterator[tuple[Path, Path, SongTask]]:
    """Yield the songs of a URI: the path that stands for it, the folder of its result, and its task."""
    root = _local_name(location)
    filesystem, inner = open_filesystem(location)
    with translate_store_errors("list", location):
        info = filesystem.get_file_info(inner)
        if info.type == pafs.FileType.NotFound:
            raise UsageError(f"{location}: no such file or folder")
        if info.type == pafs.FileType.File:
            song = SongTask(source=location, source_bytes=info.size or 0, source_mtime_ns=info.mtime_ns or 0)
            yield root, output, song
            return
        if root == output:
            raise UsageError(f"{location}: the output is also an input; results would be restored again")
        entries = Folder(location).entries(recursive=True)
    others = []
    for entry in entries:
        place = root / entry.name
        if place.is_relative_to(output) or place.name.startswith("."):
            continue
        if not is_song(place.name):
            others.append(place.name)
        else:
            source = join(location, entry.name)
            song = SongTask(source=source, source_bytes=entry.size, source_mtime_ns=entry.mtime_ns)
            yield place, output / place.parent.relative_to(root), song
    if others:
        logger.warning(describe_left_out(others))


def _make_task(job: SongJob, stored: dict[Path, SongTask], output: Path) -> SongTask:
    source = str(job.source)
    if source.encode(errors="surrogateescape") != source.encode(errors="replace"):
        return SongTask(source=ascii(source), problem="the name is not valid UTF-8")
    song = stored.get(job.source)
    if song is None:
        song = SongTask(source=source)
        try:
            status = os.stat(job.source)
            song = replace(song, source_bytes=status.st_size, source_mtime_ns=status.st_mtime_ns)
        except OSError:
            pass  # opening it reports the error
    if job.problem is not None:
        return replace(song, problem=job.problem, kind=job.kind)
    return replace(song, name=job.target.relative_to(output).as_posix())
