"""Songs of unpacked packages: measure them, choose the good ones, and lay them out for preprocess.

Shape legend: samples are [frames, channels], at the file's own sample rate.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import soundfile

from apollo.checkpoints.io import file_sha256
from pipelines.audio.bandwidth import BandwidthMeter
from pipelines.free_music.packages import Files, Package

_BLOCK_SECONDS = 3
_NOT_IN_NAMES = str.maketrans({"/": "-"} | dict.fromkeys('\0\\:*?"<>|', ""))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What songs for training must reach; songs for testing need only be readable.

    Args:
        min_bandwidth_hz: Least bandwidth, in Hz; a song below it has been low-passed.
        min_kbps: Least mean bitrate of a file, in kbit/s.
        min_seconds: Least length, in seconds.
    """

    min_bandwidth_hz: int = 15_500
    min_kbps: float = 80.0
    min_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Song:
    """A song and what was measured: a row of songs.csv.

    Args:
        package: Package that holds it.
        version: The package's version in the manifest.
        use: `train` or `test`.
        song: Name of the file, or of the folder of stems, in the package.
        artist: As the manifest or else the file's own tag has it; empty if neither does.
        author: Whom to name, as the manifest has it.
        licence: Its licence.
        seconds: Length.
        sample_rate: In Hz.
        kbps: Mean bitrate of its files together, in kbit/s.
        bandwidth_hz: Bandwidth, as preprocess measures it.
        files: Where it lies below the output, separated by `|`; empty if it is left out.
        left_out: Why it is left out; empty if it is not.
    """

    package: str
    version: str
    use: str
    song: str
    artist: str
    author: str
    licence: str
    seconds: float = 0.0
    sample_rate: int = 0
    kbps: float = 0.0
    bandwidth_hz: int = 0
    files: str = ""
    left_out: str = ""


@dataclass(frozen=True)
class _Part:
    """A file of a song: the stem class is empty for a whole song."""

    path: Path
    stem: str
    entry: Files


def lay_out(package: Package, folder: Path, output: Path, limits: Limits) -> list[Song]:
    """Measure all songs of a package unpacked in a folder, and move the good ones into the output.

    Returns:
        All songs, also those that are left out.
    """
    songs: list[Song] = []
    known: dict[tuple[str, ...], str] = {}
    for name, parts in sorted(_find(package, folder).items()):
        song = _measure(package, name, parts, limits)
        content = tuple(file_sha256(part.path) for part in parts)
        if not song.left_out and content in known:
            song = replace(song, left_out=f"the same as {known[content]}")
        known.setdefault(content, name)
        if not song.left_out:
            song = replace(song, files="|".join(_move(song, part, output) for part in parts))
        songs.append(song)
    return songs


def _find(package: Package, folder: Path) -> dict[str, list[_Part]]:
    songs: dict[str, list[_Part]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        entry = package.find(path.relative_to(folder).as_posix())
        if entry and not entry.stems:
            songs[path.stem].append(_Part(path, "", entry))
        elif entry and path.name in entry.stems:
            songs[path.parent.name].append(_Part(path, entry.stems[path.name], entry))
    return songs


def _measure(package: Package, name: str, parts: Sequence[_Part], limits: Limits) -> Song:
    entry = parts[0].entry
    song = Song(
        package=package.name,
        version=package.version,
        use=entry.use,
        song=name,
        artist=entry.artist,
        author=entry.author,
        licence=entry.licence,
    )
    try:
        streams = [soundfile.SoundFile(part.path) for part in parts]
        artist = entry.artist or (streams[0].artist or "").strip()
        song = replace(song, artist=artist, sample_rate=streams[0].samplerate)
        frames, bandwidth_hz, mono = _read(streams)
    except (soundfile.LibsndfileError, ValueError) as error:
        return replace(song, left_out=f"broken: {error}")
    seconds = frames / song.sample_rate
    size = sum(part.path.stat().st_size for part in parts)
    song = replace(
        song,
        seconds=round(seconds, 2),
        kbps=round(size * 8 / seconds / 1_000, 1),
        bandwidth_hz=bandwidth_hz,
    )
    return song if song.use == "test" else replace(song, left_out=_rejection_reason(song, mono, limits))


def _read(streams: Sequence[soundfile.SoundFile]) -> tuple[int, int, bool]:
    """Read a song's files side by side; return its frames, its bandwidth in Hz, and whether it is mono.

    Raises:
        ValueError: the files differ in sample rate, or hold no samples or non-finite ones.
    """
    rate = streams[0].samplerate
    if any(stream.samplerate != rate for stream in streams):
        raise ValueError("the stems differ in sample rate")
    meter, frames, mono = BandwidthMeter(), 0, True
    while True:
        blocks = [stream.read(_BLOCK_SECONDS * rate, "float32", always_2d=True) for stream in streams]
        length = max(len(block) for block in blocks)
        if not length:
            break
        samples = np.zeros((length, 2), np.float32)
        for block in blocks:
            samples[: len(block)] += block[:, :2]
        if not np.isfinite(samples).all():
            raise ValueError(f"non-finite samples near {frames / rate:.0f} s")
        meter.add(samples)
        mono = mono and bool((samples[:, 0] == samples[:, 1]).all())
        frames += length
    if not frames:
        raise ValueError("no samples")
    return frames, meter.bandwidth_hz(rate), mono


def _rejection_reason(song: Song, mono: bool, limits: Limits) -> str:
    """Return why a song cannot train; nothing if it can."""
    if song.seconds < limits.min_seconds:
        return f"too short: {song.seconds:.0f} s"
    if mono:
        return "mono"
    if song.kbps < limits.min_kbps:
        return f"too low a bitrate: {song.kbps:.0f} kbit/s"
    if song.bandwidth_hz < limits.min_bandwidth_hz:
        return f"low-passed: ends at {song.bandwidth_hz} Hz"
    return ""


def _move(song: Song, part: _Part, output: Path) -> str:
    """Move a file to its place and return that, relative to the output.

    A song is `<artist> - <song>.<ext>`, from which preprocess reads the artist; stems are
    `<artist> - <song>/<stem>.<ext>`.
    """
    name = f"{song.artist} - {song.song}" if song.artist else song.song
    name = name.translate(_NOT_IN_NAMES).lstrip(".")
    folder = Path("songs" if song.use == "train" else "test", song.package)
    place = folder / name / part.stem if part.stem else folder / name
    place = place.with_name(place.name + part.path.suffix.lower())
    (output / place).parent.mkdir(parents=True, exist_ok=True)
    part.path.replace(output / place)
    return place.as_posix()


def write_songs(path: Path, songs: Iterable[Song]) -> None:
    """Write rows of songs.csv."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Song)])
        writer.writeheader()
        writer.writerows(asdict(song) for song in songs)


def read_songs(path: Path) -> list[Song]:
    """Read rows that `write_songs` wrote."""
    types = {field.name: field.type for field in fields(Song)}
    with path.open(newline="") as file:
        return [
            Song(**{name: types[name](value) for name, value in row.items()})  # type: ignore[operator]
            for row in csv.DictReader(file)
        ]


def attribution(songs: Iterable[Song]) -> str:
    """Return the text of ATTRIBUTION.md: who made the songs that are used, and under which licences."""
    by_source: dict[tuple[str, str, str], dict[tuple[str, str], list[Song]]] = {}
    for song in songs:
        if not song.left_out:
            by_author = by_source.setdefault((song.package, song.version, song.use), {})
            by_author.setdefault((song.author, song.licence), []).append(song)
    lines = ["# Attribution", ""]
    for (package, version, use), by_author in by_source.items():
        lines += [f"## Debian package {package} {version} ({use})", ""]
        for (author, licence), made in by_author.items():
            names = ", ".join(f"{song.song} ({song.artist})" if song.artist else song.song for song in made)
            lines += [f"- {author}, {licence}: {names}"]
        lines += ["", f"Copyright file: licences/{package}.txt", ""]
    return "\n".join(lines)
