"""Scan songs: measure all sources of a song in one pass, decoded into the cache where needed.

The result of a song is a small JSON object below `scan/` of the output, so that a killed scan continues.
Shape legend: samples are [frames, channels].
"""

import base64
import hashlib
import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apollo.audio.ffmpeg import find_ffmpeg
from apollo.audio.rejects import AudioError, RejectError, RejectKind
from pipelines.audio import activity, fingerprints, reading, transcoding
from pipelines.audio.bandwidth import BandwidthMeter
from pipelines.audio.reading import SourceReader
from pipelines.preprocess.songs import Song, SourceFile
from pipelines.preprocess.sums import drop_sums
from pipelines.runtime.versions import check_versions
from pipelines.schema import CHANNELS, EXCERPT_FRAMES, MIXTURE, SAMPLE_RATE
from pipelines.storage import parquet
from pipelines.storage.folder import Folder

SCANS = "scan"
_BLOCK = 3 * SAMPLE_RATE  # a whole number of activity frames
_READING_THREADS = 8


@dataclass
class _Tally:
    """What accumulates over a source."""

    power: list[NDArray[np.float64]] = field(default_factory=list)
    bandwidth: BandwidthMeter = field(default_factory=BandwidthMeter)

    def add(self, samples: NDArray[np.float32]) -> None:
        self.power.append(activity.frame_power(samples))
        self.bandwidth.add(samples)


def read_scans(output: Folder) -> dict[str, dict[str, Any]]:
    """Read the finished scans, by song id."""
    names = [entry.name for entry in output.entries(SCANS)]
    with ThreadPoolExecutor(_READING_THREADS) as pool:  # requests to an object store run in parallel
        found = pool.map(lambda name: json.loads(output.read(name)), names)
        return {scan["song_id"]: scan for scan in found}


def cache_names(songs: list[Song]) -> set[str]:
    """Return the names that files of these songs have in the cache."""
    files = (file for song in songs for files in song.sources.values() for file in files)
    return {_cache_name(file) for file in files}


def _cache_name(file: SourceFile) -> str:
    return transcoding.cache_name(file.name, file.size, file.mtime_ns, file.stream)


def find_uncached_songs(output: Folder, cache: Folder) -> set[str]:
    """Return the songs of a plan whose decoded files are missing from the cache."""
    with output.open("sources.parquet") as file:
        rows = parquet.read_table(file, ["song_id", "files"]).to_pylist()
    cached = {entry.name for entry in cache.entries()}
    return {
        row["song_id"]
        for row in rows
        for file in row["files"]
        if file["readable"] != file["path"] and file["readable"] not in cached
    }


def scan_name(song: Song) -> str:
    """Return the name of a song's scan."""
    return f"{SCANS}/{hashlib.sha256(song.song_id.encode()).hexdigest()[:32]}.json"


def _count_frames(sources: dict[str, list[dict[str, Any]]], stems: Collection[str]) -> int:
    """Return the length of the longest of some stems; a rejected one may have declared any."""
    return max(
        (file["frames"] for stem, files in sources.items() if stem in stems for file in files), default=0
    )


class SongScanner:
    """Actor that scans one song at a time."""

    def __init__(
        self, output: str, cache: str, cache_bytes: int, ffmpeg: str | None, versions: dict[str, str]
    ) -> None:
        check_versions(versions, ffmpeg)
        self._output, self._cache, self._cache_bytes = Folder(output), Folder(cache), cache_bytes
        self._program = find_ffmpeg(ffmpeg)
        self._cached = {entry.name for entry in self._cache.entries()}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Scan the song of a row and write the result to the output."""
        song = Song.from_json(row["song"])
        result = self.scan(song)
        self._output.write(scan_name(song), json.dumps(result).encode())
        return {"song_id": song.song_id, "rejects": len(result["rejects"])}

    def scan(self, song: Song) -> dict[str, Any]:
        """Measure all sources of a song.

        Returns:
            `sources`: rows of sources.parquet without split and group, each with its `segments`;
            `rejects`: rows of rejects.parquet; `remarks` for the report; `print`: its sub-fingerprints,
            uint32, base64.
        """
        rejects: list[dict[str, str]] = []
        sources: dict[str, list[dict[str, Any]]] = {}
        lossy: dict[str, bool] = {}
        remarks: list[str] = []
        for stem, entries in song.sources.items():
            try:
                opened = [self._prepare(entry, remarks) for entry in entries]
            except RejectError as error:
                self._reject(rejects, song, stem, entries, error)
                continue
            sources[stem] = [file for file, _ in opened]
            lossy[stem] = any(is_lossy for _, is_lossy in opened)
        remarks += drop_sums(song.song_id, sources, SourceReader(self._cache.location))
        tallies, words = self._measure(song, sources, rejects)
        rows = [
            self._row(song, stem, sources.get(stem), lossy.get(stem, any(lossy.values())), tally)
            for stem, tally in sorted(tallies.items())
        ]
        for row in rows:
            if row["frames"] < EXCERPT_FRAMES:
                row["left_out"] = "shorter than 3 s"
        print_bytes = base64.b64encode(words.astype("<u4").tobytes()).decode()
        return {
            "song_id": song.song_id,
            "sources": rows,
            "rejects": rejects,
            "remarks": remarks,
            "print": print_bytes,
        }

    def _prepare(self, entry: SourceFile, remarks: list[str]) -> tuple[dict[str, Any], bool]:
        """Return the row of a file and whether it is lossy; decode it if needed, and add remarks about it."""
        known = reading.probe(entry.name)
        if known is not None and known.windowed:
            readable, scale, frames, lossy, remark = entry.name, 1.0, known.frames, False, known.remark
        else:
            name = _cache_name(entry)
            if {name, name + transcoding.INFO_SUFFIX} <= self._cached:
                made = transcoding.TranscodedFile(
                    **json.loads(self._cache.read(name + transcoding.INFO_SUFFIX))
                )
            else:
                made = transcoding.transcode(
                    entry.name,
                    cache=self._cache,
                    name=name,
                    known=known,
                    program=self._program,
                    audio_stream=entry.stream,
                )
                self._cache.write(name + transcoding.INFO_SUFFIX, json.dumps(asdict(made)).encode())
                transcoding.check_cache_size(self._cache, self._cache_bytes)
            readable, scale, frames = name, transcoding.HEADROOM, made.frames
            lossy, remark = made.lossy, made.remark
        if not frames:
            raise AudioError("the file holds no samples", RejectKind.EMPTY)
        if remark:
            remarks.append(f"{entry.name}: {remark}")
        file = {
            "path": entry.name,
            "readable": readable,
            "scale": scale,
            "channels": known.channels if known else None,
            "frames": frames,
            "size": entry.size,
            "mtime_ns": entry.mtime_ns,
        }
        return file, lossy

    def _measure(
        self, song: Song, sources: dict[str, list[dict[str, Any]]], rejects: list[dict[str, str]]
    ) -> tuple[dict[str, _Tally], NDArray[np.uint32]]:
        """Read all sources in parallel; without a mixture file, the mixture is the sum of all stems."""
        reader = SourceReader(self._cache.location)
        summed = song.complete and MIXTURE not in song.sources and not rejects
        tallies = {stem: _Tally() for stem in sources}
        if summed and sources:
            tallies[MIXTURE] = _Tally()
        extractor = fingerprints.FingerprintExtractor()
        start = 0
        while start < (frames := _count_frames(sources, tallies)):
            blocks: dict[str, NDArray[np.float32]] = {}
            for stem, files in sources.items():
                if stem not in tallies:
                    continue
                length = min(max(file["frames"] for file in files) - start, _BLOCK)
                if length <= 0:
                    continue
                try:
                    blocks[stem] = _finite(reader.read(files, start, length), start)
                except AudioError as error:
                    self._reject(rejects, song, stem, song.sources[stem], error)
                    del tallies[stem]
                    if summed:
                        tallies.pop(MIXTURE, None)
            whole = blocks.get(MIXTURE) if MIXTURE in sources else _sum(blocks, min(frames - start, _BLOCK))
            if whole is not None:
                extractor.add(whole)
                if summed and MIXTURE in tallies:
                    blocks[MIXTURE] = whole
            for stem, samples in blocks.items():
                tallies[stem].add(samples)
            start += _BLOCK
        reader.close()
        return tallies, extractor.sub_fingerprints()

    def _row(
        self, song: Song, stem: str, files: list[dict[str, Any]] | None, lossy: bool, tally: _Tally
    ) -> dict[str, Any]:
        power = np.concatenate([*tally.power, np.zeros(0)])
        segments = activity.find_segments(power)
        return {
            "source_id": f"{song.song_id}/{stem}",
            "stem": stem,
            "files": files,  # None: the sum of all stems
            "frames": max(file["frames"] for file in files) if files else len(power) * activity.FRAME,
            "lossy": lossy,
            "bandwidth_hz": tally.bandwidth.bandwidth_hz(),
            "segments": [[s.start, s.frames, round(s.rms_db, 2), s.active_starts] for s in segments],
            "left_out": None if segments else "silent",
        }

    @staticmethod
    def _reject(
        rejects: list[dict[str, str]],
        song: Song,
        stem: str,
        entries: tuple[SourceFile, ...],
        error: RejectError,
    ) -> None:
        path = entries[0].name if len(entries) == 1 else f"{entries[0].name} (+{len(entries) - 1} more)"
        rejects.append(
            {
                "stage": "scan",
                "id": f"{song.song_id}/{stem}",
                "path": path,
                "reason": str(error),
                "kind": error.kind,
            }
        )


def _finite(samples: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    if not np.isfinite(samples).all():
        raise AudioError(
            f"contains non-finite samples near {start / SAMPLE_RATE:.1f} s", RejectKind.NOT_FINITE
        )
    return samples


def _sum(blocks: dict[str, NDArray[np.float32]], frames: int) -> NDArray[np.float32]:
    total = np.zeros((frames, CHANNELS), np.float32)
    for samples in blocks.values():
        total[: len(samples)] += samples
    return total
