"""Cost of preprocess on the generated album: `python -m benchmarks.preprocess`; numbers: docs/benchmarks.md.

Ratios are of measurements that alternate, because the speed of a shared machine varies.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apollo.audio.ffmpeg import find_ffmpeg
from benchmarks.growth import measure_recipes
from benchmarks.measurement import album_config, measure, median_and_range, print_row
from pipelines.audio.reading import SourceReader
from pipelines.dataset.plan import PLAN, planned_shards
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.mixing import mix, read_sources
from pipelines.preprocess.render import RenderTask, ShardRenderer, cpu_seconds, to_16_bit
from pipelines.preprocess.run import PreprocessRun
from pipelines.preprocess.scan import SongScanner
from pipelines.runtime.versions import software_versions
from pipelines.storage.folder import Folder

_SHARD_ROWS, _SHARDS = 16, 14  # 224 recipes
_SONGS, _RECIPES = 390, 1_000_000


def main() -> None:
    """Measure and print one line per number."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as folder:
        scratch = Path(folder)
        config = album_config(scratch, train=_SHARDS * _SHARD_ROWS, valid=0, rows=_SHARD_ROWS)
        run = PreprocessRun(config)
        run.resolve()
        run.make_plan()
        task = RenderTask(config.output, run.cache.location, config.codec, config.shards, run.versions)
        shards = planned_shards(json.loads(Folder(config.output).read(PLAN)))
        print_encoding(task, shards)
        _print_speed_up(run, task, shards)
        mixture = next(Path(config.data[0]).rglob("mixture.wav"))
        print_scan_memory(scratch, mixture, "hour.mp3", ["-ar", "48000", "-b:a", "128k"])
        print_scan_memory(scratch, mixture, "hour.wav", ["-c:a", "pcm_s16le"])
        cost = measure_recipes(_SONGS, _RECIPES, folder)
        size = Path(folder, "recipes.parquet").stat().st_size
        print_row(
            f"plan of {_RECIPES:,} recipes over {_SONGS} songs", f"{cost.seconds:.1f} s", "target <= 60 s"
        )
        memory = f"{cost.peak_bytes / 2**20:,.0f} MiB, {size / 1e6:.0f} MB"
        print_row("  its peak memory, and recipes.parquet", memory, "target <= 2,048 MiB")


def print_encoding(task: RenderTask, shards: list[dict[str, Any]]) -> None:
    """Compare rendering with its child processes to LAME in process, alternating shard by shard."""
    renderer, rows = ShardRenderer(task), []
    recipes = [renderer.recipes(shard) for shard in shards]
    for shard, planned in zip(shards, recipes):
        clean = _excerpts(task, planned)
        start = cpu_seconds()
        commit = renderer.render("train", shard["shard"], planned)
        rendered = cpu_seconds()
        for excerpt in clean:
            _encode_with_lame(excerpt, task)
        lame = cpu_seconds() - rendered
        rows.append(((rendered - start) / len(planned), lame / len(planned), commit.bytes / commit.rows))
    rows = rows[1:] or rows  # the first shard opens files and loads libraries
    render, raw, size = zip(*rows)
    print_row(f"CPU of a recipe, {len(rows)} shards", f"{1e3 * statistics.median(render):.0f} ms")
    print_row("CPU of LAME in process, the same bitrates", f"{1e3 * statistics.median(raw):.0f} ms")
    ratios = [one / other for one, other in zip(render, raw)]
    print_row("ratio (median of shards; range)", median_and_range(ratios), "target <= 1.5")
    print_row("bytes of a recipe in its shard", f"{statistics.mean(size):,.0f}")


def _excerpts(task: RenderTask, recipes: list[dict[str, Any]]) -> list[NDArray[np.int16]]:
    sources = read_sources(Folder(task.output))
    return [to_16_bit(mix(recipe["components"], sources, SourceReader()).samples)[0] for recipe in recipes]


def _encode_with_lame(excerpt: NDArray[np.int16], task: RenderTask) -> None:
    import lameenc

    for bitrate_bps in task.codec.bitrates_bps:
        encoder = lameenc.Encoder()
        encoder.set_bit_rate(max(bitrate_bps, 32_000) // 1000)
        encoder.set_in_sample_rate(44_100)
        encoder.set_channels(2)
        encoder.set_quality(task.codec.quality)
        encoder.encode(excerpt.tobytes())
        encoder.flush()


class PinnedRenderer(ShardRenderer):
    """A renderer pinned, with its children, to a core of its own; it reports start and end of its work."""

    def __init__(self, task: RenderTask, scratch: str) -> None:
        for core in sorted(os.sched_getaffinity(0)):
            try:
                os.mkdir(os.path.join(scratch, str(core)))  # atomic: the first actor gets the core
            except FileExistsError:
                continue
            os.sched_setaffinity(0, {core})
            break
        super().__init__(task)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Render a shard and add start and end times."""
        start = time.monotonic()
        return {**super().__call__(row), "start": start, "end": time.monotonic()}


def _print_speed_up(run: PreprocessRun, task: RenderTask, shards: list[dict[str, Any]]) -> None:
    """Compare the rates of one and two actors while they work, without their start."""
    from pipelines.cluster.actor_pool import run_actors

    if len(os.sched_getaffinity(0)) < 2:
        print_row("speed-up of 2 actors over 1", "one core only")
        return
    rates: dict[int, list[float]] = {1: [], 2: []}
    for actors in (1, 2, 1, 2):
        with tempfile.TemporaryDirectory(prefix="apollo-pins-") as pins:
            items, arguments = shards[: 4 * actors], (task, pins)
            rows = list(run_actors(items, PinnedRenderer, arguments, actors=actors, cluster=run.cluster))
        seconds = max(row["end"] for row in rows) - min(row["start"] for row in rows)
        rates[actors].append(sum(row["rows"] for row in rows) / seconds)
    speed_up = statistics.mean(rates[2]) / statistics.mean(rates[1])
    print_row("speed-up of 2 actors over 1, a core each", f"{speed_up:.2f}", "target >= 1.8")


def print_scan_memory(
    scratch: Path, audio: Path, name: str, encoding: list[str], seconds: int = 3600
) -> None:
    """Scan a looped file in a process of its own; MP3 at 48 kHz is decoded to the cache first."""
    data = scratch / name.replace(".", "-")
    data.mkdir()
    command = [
        find_ffmpeg(),
        "-loglevel",
        "error",
        "-stream_loop",
        "-1",
        "-i",
        str(audio),
        "-t",
        str(seconds),
    ]
    subprocess.run([*command, *encoding, str(data / name)], check=True, stdin=subprocess.DEVNULL)  # noqa: S603 - no shell
    cost = measure(_prepare_scan, str(data), str(scratch / f"{name}-out"))
    above = f"{(cost.peak_bytes - cost.start_bytes) / 2**20:.0f} MiB above {cost.start_bytes / 2**20:.0f}"
    print_row(f"peak memory of a scanner, {seconds // 60} min of {name[5:]}", above, "target <= 600 above")


def _prepare_scan(data: str, output: str) -> Callable[[], object]:
    song = find_songs([data]).songs[0]

    def scan() -> None:
        scanner = SongScanner(output, f"{output}/cache", 10**11, None, software_versions(None))
        rejects = scanner.scan(song)["rejects"]
        if rejects:
            raise RuntimeError(f"the scan rejected files: {rejects}")

    return scan


if __name__ == "__main__":
    main()
