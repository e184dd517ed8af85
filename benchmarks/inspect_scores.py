"""Score `apollo inspect` on files whose history is known: `python -m benchmarks.inspect_scores`.

Honest files: recordings that were never coded lossily (folders of the command line) and generated songs, as
they are, at another sample rate, and dull in several ways. The same, encoded and decoded to 16-bit FLAC, are
the transcodes. Half of the songs, by a hash of their names, served to choose thresholds; the other is scored.
"""

import argparse
import json
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy import signal

from apollo.audio.ffmpeg import find_ffmpeg
from apollo.audio.folders import is_song
from apollo.audio.inspection import inspect_file
from pipelines.demo.album import compose_songs
from pipelines.demo.album.layouts import perform

Samples = NDArray[np.float64]
_SECONDS = 12
_RATE = 44_100
_CUT = 12_420  # at 44.1 and at 48 kHz, no whole number of samples of the other
_EXCERPTS = 3  # of every rendered song
_CODINGS = {  # by name: extension and ffmpeg's options
    **{f"mp3 {kbps}": ("mp3", f"-c:a libmp3lame -b:a {kbps}k") for kbps in (64, 128, 192, 256, 320)},
    "mp3 V0": ("mp3", "-c:a libmp3lame -q:a 0"),
    **{f"aac {kbps}": ("m4a", f"-c:a aac -b:a {kbps}k") for kbps in (64, 128, 192, 256, 320)},
    **{f"vorbis q{quality}": ("ogg", f"-c:a libvorbis -q:a {quality}") for quality in (2, 5, 8)},
    **{f"opus {kbps}": ("opus", f"-c:a libopus -ar 48000 -b:a {kbps}k") for kbps in (64, 128, 192)},
}
_VERDICTS = ("lossless", "unknown", "transcode")


def main() -> None:
    """Make the files, inspect them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", nargs="*", default=[], help="folders of recordings that were never lossy")
    parser.add_argument("--rendered", nargs="*", default=[], help="folders of songs rendered from samples")
    parser.add_argument("--generated", type=int, default=8, help="generated songs")
    parser.add_argument("--coded", type=int, default=12, help="originals to encode")
    parser.add_argument("--changed", type=int, default=16, help="originals to resample, filter and so on")
    parser.add_argument("--half", choices=("tune", "report"), default="report")
    parser.add_argument("--lines", help="file for a JSON line per inspected file")
    options = parser.parse_args()
    groups = {
        "real": list(_read_folders(options.real, options.half, 1)),
        "rendered": list(_read_folders(options.rendered, options.half, _EXCERPTS)),
        "generated": list(_generate(options.generated, options.half)),
    }
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, name, path in _make_files(groups, options.coded, options.changed, Path(scratch)):
            result = inspect_file(str(path))
            counts.setdefault(kind, Counter())[str(result.verdict)] += 1
            line = {"kind": kind, "name": name} | {
                field: getattr(result, field)
                for field in ("verdict", "history", "confidence", "edge_hz", "reasons")
            }
            if options.lines:
                with open(options.lines, "a") as stream:
                    print(json.dumps(line), file=stream)
            path.unlink()
    _print_table(counts)


def _read_folders(folders: list[str], half: str, excerpts: int) -> Iterator[tuple[str, Samples, int]]:
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if is_song(path.name) and _half(f"{path.parent.name}/{path.stem}") == half:
                samples, rate = soundfile.read(path, always_2d=True)
                for number in range(excerpts):
                    start = max(len(samples) - _SECONDS * rate, 0) * (number + 1) // (excerpts + 1)
                    excerpt = samples[start : start + _SECONDS * rate, :2]
                    yield f"{path.parent.name}/{path.stem} {number}", excerpt, rate


def _generate(number: int, half: str) -> Iterator[tuple[str, Samples, int]]:
    for song in compose_songs((0, 1, 2), seed=7, seconds=_SECONDS + 2.0)[: 2 * number]:
        if _half(song.title) == half:
            tracks = [np.broadcast_to(track.audio.T, (track.audio.shape[1], 2)) for track in perform(song)]
            length = min(_SECONDS * _RATE, *map(len, tracks))
            mix = np.sum([track[:length] for track in tracks], axis=0, dtype=np.float64)
            yield song.title, 0.8 * mix / np.abs(mix).max(), _RATE


def _half(name: str) -> str:
    return ("tune", "report")[zlib.crc32(name.encode()) % 2]


def _make_files(
    groups: dict[str, list[tuple[str, Samples, int]]], num_coded: int, num_changed: int, folder: Path
) -> Iterator[tuple[str, str, Path]]:
    """Write one file after the other: kind, name of the song, path."""
    songs = [song for group in groups.values() for song in group if len(song[1]) >= 5 * song[2]]
    songs.sort(key=lambda song: zlib.crc32(song[0][::-1].encode()))
    for name, samples, rate in songs[:num_coded]:
        for coding, (extension, arguments) in _CODINGS.items():
            yield coding, name, _code(folder, samples, rate, extension, arguments)
        coded = _code(folder, samples, rate, *_CODINGS["mp3 128"])
        decoded, decoded_rate = soundfile.read(coded, always_2d=True)
        other = 48_000 if decoded_rate == _RATE else _RATE
        resampled = soxr.resample(decoded, decoded_rate, other)
        yield "mp3 128, resampled", name, _write(folder, resampled, other)
        yield "mp3 128, resampled, cut", name, _write(folder, resampled[_CUT:], other)
        yield "mp3 128, cut, 6 dB lower", name, _write(folder, 0.5 * decoded[_CUT:], decoded_rate)
    for name, samples, rate in songs[:num_changed]:
        for variant, change in _HONEST_CHANGES.items():
            changed, new_rate = change(samples, rate)
            yield f"honest: {variant}", name, _write(folder, changed, new_rate)
    for group, originals in groups.items():
        for name, samples, rate in originals:
            yield f"honest: {group}", name, _write(folder, samples, rate)


def _write(folder: Path, samples: Samples, rate: int) -> Path:
    path = folder / "song.flac"
    soundfile.write(path, samples / max(float(np.abs(samples).max()), 1.0), rate, subtype="PCM_16")
    return path


def _code(folder: Path, samples: Samples, rate: int, extension: str, arguments: str) -> Path:
    source, coded, target = folder / "in.wav", folder / f"coded.{extension}", folder / "song.flac"
    soundfile.write(source, samples, rate, subtype="PCM_16")
    program = [find_ffmpeg(), "-loglevel", "fatal", "-y", "-i"]
    subprocess.run([*program, source, *arguments.split(), coded], check=True)  # noqa: S603
    subprocess.run([*program, coded, "-sample_fmt", "s16", target], check=True)  # noqa: S603
    return target


def _resample(samples: Samples, rate: int) -> tuple[Samples, int]:
    other = 48_000 if rate == _RATE else _RATE
    return soxr.resample(samples, rate, other, "VHQ"), other


def _halve_band(samples: Samples, rate: int) -> tuple[Samples, int]:
    """Return what a recorder at 32 kHz leaves, at the old sample rate: a steep edge at 15 to 16 kHz."""
    return soxr.resample(soxr.resample(samples, rate, 32_000, "VHQ"), 32_000, rate, "VHQ"), rate


def _filter(
    order: int, cutoff_hz: float, noise: float = 0.0
) -> Callable[[Samples, int], tuple[Samples, int]]:
    """Return a filter of 6 dB per octave and order, as analogue equipment has; with noise, as of tape."""

    def change(samples: Samples, rate: int) -> tuple[Samples, int]:
        sections = signal.butter(order, cutoff_hz, fs=rate, output="sos")
        hiss = np.random.default_rng(0).standard_normal(samples.shape) * noise
        return signal.sosfilt(sections, samples, axis=0) + hiss, rate

    return change


def _anti_alias(samples: Samples, rate: int) -> tuple[Samples, int]:
    """Return what a converter with a filter at 20 kHz leaves."""
    taps = signal.firwin(511, 20_000, fs=rate, window=("kaiser", 10.0))
    return signal.oaconvolve(samples, taps[:, None], mode="same", axes=0), rate


_HONEST_CHANGES: dict[str, Callable[[Samples, int], tuple[Samples, int]]] = {
    "resampled": _resample,
    "from 32 kHz": _halve_band,
    "dull, 6 dB/octave from 3 kHz": _filter(1, 3_000),
    "dull, 24 dB/octave from 8 kHz": _filter(4, 8_000),
    "tape, 12 dB/octave from 6 kHz, hiss": _filter(2, 6_000, 3e-4),
    "filter at 20 kHz": _anti_alias,
}


def _print_table(counts: dict[str, Counter[str]]) -> None:
    print(f"| {'file':40s} | {' | '.join(f'{verdict:>9s}' for verdict in _VERDICTS)} |")
    print(f"|{'-' * 42}|{'|'.join('-' * 10 + ':' for _ in _VERDICTS)}|")
    for kind, found in counts.items():
        print(f"| {kind:40s} | {' | '.join(f'{found[verdict]:9d}' for verdict in _VERDICTS)} |")
    for title, chosen in (("honest", True), ("transcodes", False)):
        parts = [found for kind, found in counts.items() if kind.startswith("honest") == chosen]
        total = sum(parts, Counter())
        print(f"{title}: {total.total()} files, {dict(total)}")


if __name__ == "__main__":
    main()
