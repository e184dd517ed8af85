"""Join the scans of all songs into the tables of sources and of their active windows."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.audio import fingerprints
from pipelines.errors import UsageError
from pipelines.preprocess.songs import Song
from pipelines.preprocess.splits import SplitCandidate, SplitsConfig, assign_splits
from pipelines.schema import MIXTURE


@dataclass(frozen=True, kw_only=True)
class SourcesConfig:
    """Which sources may be clean targets, and the cache of decoded files.

    Args:
        allow_lossy: Use lossy files (MP3, AAC, Opus …) as clean targets too. A model learns their artefacts.
            Training uses them for bitrates below their own (`loader.below_source_bitrate`).
        min_bandwidth_hz: Leave out songs whose widest source has a lower bandwidth, as after a low-pass. 0
            uses all. Examples carry the bandwidth of what they are mixed from, and teach nothing above.
        cache: Folder or URI of decoded files, reachable from every node; unset is `cache` in the output.
            Runs may share one.
        cache_gb: Maximum size of the cache, in GB.
    """

    allow_lossy: bool = False
    min_bandwidth_hz: int = 16_500
    cache: str | None = None
    cache_gb: float = 200.0


@dataclass
class SourceTables:
    """Sources and active windows of all songs, with rejects and remarks."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    segments: dict[str, list[list[Any]]] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def usable(self, split: str) -> list[dict[str, Any]]:
        """Return the sources that recipes of a split may use."""
        return [row for row in self.rows if row["split"] == split and row["left_out"] is None]

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Return sources.parquet and segments.parquet."""
        counted = [{**row, "segments": len(self.segments[row["source_id"]])} for row in self.rows]
        windows: dict[str, list[Any]] = {  # by column: a dict for each row would take most of the memory
            "source_id": [source for source, found in self.segments.items() for _ in found]
        }
        for place, name in enumerate(schema.SEGMENTS.names[1:]):
            windows[name] = [window[place] for found in self.segments.values() for window in found]
        return pa.Table.from_pylist(counted, schema.SOURCES), pa.Table.from_pydict(windows, schema.SEGMENTS)


def collect_sources(
    songs: Sequence[Song],
    scans: Mapping[str, dict[str, Any]],
    config: SourcesConfig,
    splits: SplitsConfig,
    wanted: Mapping[str, int],
) -> SourceTables:
    """Join the scans of all songs, leave out unusable sources, and assign songs to the splits.

    Raises:
        UsageError: no usable source is left, or too few for the splits.
    """
    found = SourceTables()
    candidates, fingerprint_arrays = [], []
    for song in songs:
        scan = scans[song.song_id]
        found.rejects += scan["rejects"]
        found.remarks += scan.get("remarks", [])  # absent in scans of an earlier version
        rows = _rows(song, scan, config)
        found.rows += rows
        found.segments |= {row["source_id"]: row.pop("windows") for row in rows}
        candidates.append(
            SplitCandidate(
                song.song_id, song.artist, song.split, any(row["left_out"] is None for row in rows)
            )
        )
        fingerprint_arrays.append(np.frombuffer(base64.b64decode(scan["print"]), "<u4"))
    if not any(candidate.usable for candidate in candidates):
        raise UsageError(_nothing_usable(found))
    same = [
        (songs[i].song_id, songs[j].song_id) for i, j in fingerprints.find_same_recordings(fingerprint_arrays)
    ]
    found.remarks += [f"{first} and {second} are one recording" for first, second in same]
    same += _same_places(songs)
    assignment = assign_splits(candidates, same, wanted, splits)
    found.remarks += assignment.remarks
    for row in found.rows:
        row |= {"split": assignment.split[row["song_id"]], "group_id": assignment.group[row["song_id"]]}
    return found


def _same_places(songs: Sequence[Song]) -> list[tuple[str, str]]:
    """Return pairs of songs that are parts of one recording by their place, such as a mix and its stems."""
    first: dict[str, str] = {}
    pairs = [
        (first.setdefault(song.recording, song.song_id), song.song_id) for song in songs if song.recording
    ]
    return [(leader, other) for leader, other in pairs if leader != other]


def _rows(song: Song, scan: Mapping[str, Any], config: SourcesConfig) -> list[dict[str, Any]]:
    scanned = scan["sources"]
    all_files = [file for source in scanned if source["stem"] != MIXTURE for file in source["files"]]
    rows = []
    for source in scanned:
        left_out, bandwidth = source["left_out"], _bandwidth(source, scanned)
        if left_out is None and source["lossy"] and not config.allow_lossy:
            left_out = "lossy"
        if left_out is None and bandwidth < config.min_bandwidth_hz:
            left_out = f"band-limited: the song ends at {bandwidth} Hz"
        rows.append(
            {
                "source_id": source["source_id"],
                "dataset": song.dataset,
                "song_id": song.song_id,
                "artist": song.artist,
                "title": song.title,
                "stem": source["stem"],
                "files": source["files"] if source["files"] is not None else all_files,
                "frames": source["frames"],
                "lossy": source["lossy"],
                "bandwidth_hz": bandwidth,
                "left_out": left_out,
                "windows": source["segments"],
            }
        )
    return rows


def _bandwidth(source: Mapping[str, Any], scanned: Sequence[Mapping[str, Any]]) -> int:
    """Return the bandwidth, in Hz, of a song's widest source; for a lossy source, of its widest lossy one.

    A source that is narrower by itself, such as a bass, is not low-passed. Sums of sources do not count: they
    are as wide as the widest, however the others are coded.
    """
    alike = (other for other in scanned if other["files"] is not None and other["lossy"] >= source["lossy"])
    widest: int = max((other["bandwidth_hz"] for other in alike), default=source["bandwidth_hz"])
    return widest


def _nothing_usable(found: SourceTables) -> str:
    reasons: dict[str, int] = {}
    for row in found.rows:
        kind = str(row["left_out"]).partition(":")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
    if found.rejects:
        reasons[f"unreadable (the first: {found.rejects[0]['path']}: {found.rejects[0]['reason']})"] = len(
            found.rejects
        )
    hints = {
        "lossy": " --sources.allow_lossy true uses lossy files.",
        "band-limited": " --sources.min_bandwidth_hz 0 uses low-passed ones.",
    }
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(reasons.items()))
    return f"no usable source: {listed}." + "".join(hint for kind, hint in hints.items() if kind in reasons)
