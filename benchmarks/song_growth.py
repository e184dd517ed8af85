"""How preprocess's driver grows with songs.

`python -m benchmarks.song_growth [SONGS …]`; 1,000 and 10,000 songs by default.

Scans of songs of four minutes with four stems and a mixture lie in an output, made up but as large as real
ones; what is measured is all that a run does with them until the plan stands, in a process of its own.
"""

import base64
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.procfs import memory_bytes
from benchmarks.shard_growth import Growth, count_requests
from pipelines.audio.fingerprints import HOP
from pipelines.preprocess.layouts import DiscoveryResult, Song
from pipelines.preprocess.plan_writer import write_plan
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.render import cpu_seconds
from pipelines.preprocess.scan import read_scans, scan_name
from pipelines.preprocess.sources import SourcesConfig, collect_sources
from pipelines.preprocess.splits import SplitsConfig
from pipelines.schema import EXCERPT_FRAMES, MIXTURE, SAMPLE_RATE
from pipelines.storage.folder import Entry, Folder

_SONGS = (1_000, 10_000)
_SONG_SECONDS = 240
_STEMS = ("bass", "drums", "other", "vocals", MIXTURE)
_KEPT_BITS = 0.9  # of a word in the next one: windows of 371 ms overlap by 325
_THREADS = 8
_RECIPES = RecipesConfig(train=1_000, valid=10, test_per_category=10)


def main() -> None:
    """Run the benchmark and print a line for every size."""
    sizes = [int(argument) for argument in sys.argv[1:]] or list(_SONGS)
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        for size in sizes:
            one = measure_made(str(Path(scratch, str(size))), size)
            print(
                f"{size:8,d} songs{one.seconds:8.2f} s{one.cpu_seconds:8.2f} s of CPU"
                f"{one.peak_bytes / 2**20:8.1f} MiB   {one.requests}",
                flush=True,
            )


def song(number: int) -> Song:
    """Make up a song."""
    name = f"Artist {number} - Song {number}"
    sources = {stem: (Entry(f"/data/musdb18hq/train/{name}/{stem}.wav", 42_336_044, 1),) for stem in _STEMS}
    return Song(
        dataset="musdb18hq",
        song_id=f"musdb18hq/{name}",
        artist=f"Artist {number}",
        title=f"Song {number}",
        sources=sources,
        split="train",
    )


def make_scans(location: str, songs: int) -> None:
    """Write the scans of made up songs."""
    output = Folder(location)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda number: _write(output, number), range(songs)))


def _write(output: Folder, number: int) -> None:
    output.write(scan_name(song(number)), json.dumps(_scan(number)).encode())


def _scan(number: int) -> dict[str, Any]:
    """Make up what `SongScanner.scan` gives: sources with a window every 3 s, and the words of the print."""
    draw = np.random.default_rng(number)
    made = song(number)
    frames = _SONG_SECONDS * SAMPLE_RATE
    starts = range(0, frames - 2 * EXCERPT_FRAMES, EXCERPT_FRAMES)
    sources = []
    for stem, (entry,) in sorted(made.sources.items()):
        file = {"path": entry.name, "readable": entry.name, "scale": 1.0, "channels": 2, "frames": frames}
        masks = draw.integers(1, 2**31, len(starts)).tolist()
        sources.append(
            {
                "source_id": f"{made.song_id}/{stem}",
                "stem": stem,
                "files": [file | {"size": entry.size, "mtime_ns": entry.mtime_ns}],
                "frames": frames,
                "lossy": False,
                "bandwidth_hz": 20_000,
                "segments": [[start, 2 * EXCERPT_FRAMES, -20.5, mask] for start, mask in zip(starts, masks)],
                "left_out": None,
            }
        )
    words = _words(draw, frames // HOP)
    return {
        "song_id": made.song_id,
        "sources": sources,
        "rejects": [],
        "print": base64.b64encode(words.astype("<u4").tobytes()).decode(),
    }


def _words(draw: np.random.Generator, count: int) -> NDArray[np.uint32]:
    """Make up the words of a print: every bit stays for some words, as in music."""
    flips = np.packbits(draw.random((count, 32)) > _KEPT_BITS, axis=1).view(">u4").ravel().astype(np.uint32)
    flips[0] = draw.integers(1, 2**32)
    return np.bitwise_xor.accumulate(flips)


def measure_made(location: str, songs: int) -> Growth:
    """Make scans, then read them and plan, in a process of its own."""
    make_scans(location, songs)
    code = "import sys; from benchmarks.song_growth import take; take(sys.argv[1], int(sys.argv[2]))"
    asked = [sys.executable, "-c", code, location, str(songs)]
    said = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 - no shell
    return Growth(**json.loads(said))


def take(location: str, songs: int) -> None:
    """Read the scans of an output and plan, and print what that cost, as JSON."""
    listed = [song(number) for number in range(songs)]
    before = memory_bytes("VmRSS")
    with count_requests() as requests:
        began, worked = time.monotonic(), cpu_seconds()
        output = Folder(location)
        scans = read_scans(output)
        sources = collect_sources(listed, scans, SourcesConfig(), SplitsConfig(), _RECIPES.wanted)
        write_plan(output, sources, DiscoveryResult(listed), _RECIPES, seed=0, shard_rows=64)
        seconds, worked = time.monotonic() - began, cpu_seconds() - worked
    peak = memory_bytes("VmHWM") - before
    print(json.dumps(asdict(Growth(seconds, worked, peak, dict(requests)))))


if __name__ == "__main__":
    main()
