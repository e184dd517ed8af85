"""Make pairs to evaluate with: excerpts of songs, encoded as MP3 at the paper's bitrates.

    python data/test_pairs.py --songs /data/free-music/test --output /data/test-pairs
    python jobs/evaluate.py --data /data/test-pairs --models compact compact#strength=0 --output /data/scores

Every song gives `--excerpts` excerpts of `--seconds`, at the centres of as many equal parts: the same in
every run. An excerpt that exceeds full scale is scaled down; it is rounded to 16 bits, and that is what the
encoder gets. OUTPUT then holds

    64k/<song>/excerpt-1/{clean.flac,degraded.mp3}

and jobs/evaluate.py bootstraps its intervals over the songs. A song that is shorter than its excerpts, has
more than two channels or cannot be read is left out, with a message and exit code 3.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from apollo.audio.decoding import EXTENSIONS
from apollo.audio.ffmpeg import FfmpegError
from apollo.audio.reading import AudioReader
from apollo.audio.rejects import AudioError
from pipelines.audio.codec import CodecConfig, CodecError, Encoded, Encoder
from pipelines.schema import CHANNELS, SAMPLE_RATE

_FULL_SCALE = 32_767
_log = logging.getLogger("test_pairs")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="test_pairs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--songs", type=Path, required=True, help="folder of songs, at any depth")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pairs; must not exist")
    parser.add_argument("--excerpts", type=int, default=4, metavar="N", help="excerpts of a song")
    parser.add_argument(
        "--seconds", type=float, default=6.0, metavar="S", help="length of an excerpt, 1 to 60"
    )
    parser.add_argument(
        "--bitrates",
        type=int,
        nargs="+",
        default=CodecConfig().bitrates_bps,
        metavar="BPS",
        help="in bits per second; default: the paper's six",
    )
    return parser


def cut(samples: NDArray[np.float32], excerpts: int, seconds: float) -> list[NDArray[np.int16]]:
    """Cut excerpts at the centres of equal parts of a song.

    Args:
        samples: [frames, channels], 44.1 kHz, full scale 1.
        excerpts: How many.
        seconds: Length of each.

    Returns:
        [frames, channels] each, scaled down where it exceeds full scale.

    Raises:
        AudioError: they would overlap.
    """
    frames = round(seconds * SAMPLE_RATE)
    part = len(samples) / excerpts
    if part < frames:
        raise AudioError(
            f"{len(samples) / SAMPLE_RATE:.1f} s are too short for {excerpts} excerpts of {seconds:g} s"
        )
    starts = [int((number + 0.5) * part - frames / 2) for number in range(excerpts)]
    found = []
    for start in starts:
        excerpt = samples[start : start + frames].astype(np.float64)
        excerpt /= max(np.abs(excerpt).max() * (_FULL_SCALE + 1) / _FULL_SCALE, 1.0)
        found.append(np.rint(excerpt * _FULL_SCALE).astype(np.int16))
    return found


def read_song(path: Path) -> NDArray[np.float32]:
    """Read a song as stereo: [frames, channels], 44.1 kHz.

    Raises:
        AudioError: it cannot be read completely, or has more than two channels.
    """
    with AudioReader(str(path), SAMPLE_RATE) as song:
        if song.channels > CHANNELS:
            raise AudioError(f"has {song.channels} channels")
        blocks = [block.numpy().T for block in song.blocks(SAMPLE_RATE)]
    if song.warnings or not blocks:
        raise AudioError("; ".join(song.warnings) or "is empty")
    return np.repeat(np.concatenate(blocks), CHANNELS // song.channels, axis=1)


def write_pairs(
    output: Path, name: str, clean: NDArray[np.int16], encoded: Mapping[str, Encoded], bitrates: list[int]
) -> None:
    """Write the pairs of an excerpt: the clean audio once, linked at the other bitrates."""
    first: Path | None = None
    for bitrate_bps, one in zip(bitrates, encoded.values(), strict=True):
        folder = output / f"{bitrate_bps // 1000}k" / name
        folder.mkdir(parents=True)
        (folder / "degraded.mp3").write_bytes(one.stream)
        if first is None:
            first = folder / "clean.flac"
            soundfile.write(first, clean, SAMPLE_RATE, "PCM_16")
        else:
            os.link(first, folder / "clean.flac")


def name_songs(folder: Path) -> dict[str, Path]:
    """Return all songs of a folder by name: their path without extension, in one component."""
    songs = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix.lower().lstrip(".") in EXTENSIONS:
            relative = path.relative_to(folder).with_suffix("").as_posix()
            songs[re.sub(r"[^\w.-]+", "-", relative).strip("-.")] = path
    return songs


def main(arguments: list[str] | None = None) -> int:
    """Run from a command line and return the exit code: 0 done, 1 failed, 3 some songs are left out."""
    values = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    songs = name_songs(values.songs)
    problem = (
        f"{values.output} exists: the pairs of one run must not mix with others"
        if values.output.exists()
        else f"{values.songs} holds no songs"
        if not songs
        else "--seconds must be 1 to 60 and --excerpts 1 or more"
        if not 1 <= values.seconds <= 60 or values.excerpts < 1
        else ""
    )
    if problem:
        print(f"test_pairs: {problem}", file=sys.stderr)
        return 1
    bitrates = sorted(values.bitrates)
    encoder = Encoder(CodecConfig(bitrates_bps=tuple(bitrates)))
    left_out = 0
    for name, path in songs.items():
        try:
            excerpts = cut(read_song(path), values.excerpts, values.seconds)
            encoded = [encoder.encode(excerpt) for excerpt in excerpts]
        except (AudioError, CodecError, FfmpegError, OSError) as error:
            _log.warning("left out: %s: %s", path, error)
            left_out += 1
            continue
        for number, (excerpt, streams) in enumerate(zip(excerpts, encoded), 1):
            write_pairs(values.output, f"{name}/excerpt-{number}", excerpt, streams, bitrates)
        _log.info("%s: %d excerpts", name, len(excerpts))
    _log.info("%d songs; jobs/evaluate.py takes them as --data %s", len(songs) - left_out, values.output)
    return 3 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
