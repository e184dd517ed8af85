"""What preprocess costs, measured in one run: `make bench`. How to read the numbers: docs/benchmarks.md.

Ratios are taken between things measured in turns, because the speed of a shared machine drifts. The music is
the built-in album.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apollo.audio.ffmpeg import find_ffmpeg
from pipelines.audio.reading import SourceReader
from pipelines.dataset.plan import planned_shards
from pipelines.dataset.shards import ShardsConfig
from pipelines.demo.album import album_folders
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.render import RenderTask, ShardRenderer, cpu_seconds, mix, to_16_bit
from pipelines.preprocess.run import PreprocessRun
from pipelines.storage import parquet
from pipelines.storage.folder import Folder

_SHARD_ROWS = 16
_SHARDS = 14  # 224 recipes
_SONGS, _RECIPES = 390, 1_000_000


def main() -> None:
    """Run all benchmarks and print one line a number."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        album = album_folders(Path(scratch, "album"))
        config = PreprocessConfig(
            data=album,
            output=str(Path(scratch, "shards")),
            recipes=RecipesConfig(train=_SHARDS * _SHARD_ROWS, valid=0, test_per_category=0),
            shards=ShardsConfig(rows=_SHARD_ROWS),
        )
        run = PreprocessRun(config)
        run.resolve()
        run.make_plan()
        task = RenderTask(config.output, run.cache.location, config.codec, config.shards, run.versions)
        _encoding(task)
        _speed_up(run, task)
        _memory(Path(scratch), Path(album[0]))
    _plan()


def _say(name: str, value: str, target: str) -> None:
    print(f"{name:58s} {value:>22s}   {target}", flush=True)


def _encoding(task: RenderTask) -> None:
    """Compare whole recipes, child processes included, with raw LAME in process, shard by shard in turns."""
    renderer, shards = ShardRenderer(task), _planned(task)
    recipes = {shard["shard"]: renderer.recipes(shard) for shard in shards}
    ratios, ours, raw, sizes = [], [], [], []
    for shard in shards:
        made = recipes[shard["shard"]]
        clean = _excerpts(task, made)
        before = cpu_seconds()
        commit = renderer.render("train", shard["shard"], made)
        between = cpu_seconds()
        for excerpt in clean:
            _encode_raw(excerpt, task)
        after = cpu_seconds()
        ours.append((between - before) / len(made))
        raw.append((after - between) / len(made))
        ratios.append(ours[-1] / raw[-1])
        sizes.append(commit.bytes / commit.rows)
    warm = slice(1, None)  # the first shard opens files and loads libraries
    count = (len(shards) - 1) * _SHARD_ROWS
    _say(
        f"CPU of a recipe, {count} recipes (median of shards)",
        f"{1e3 * statistics.median(ours[warm]):.0f} ms",
        "",
    )
    _say("CPU of raw LAME, the same six bitrates", f"{1e3 * statistics.median(raw[warm]):.0f} ms", "")
    spread = f"{min(ratios[warm]):.2f}-{max(ratios[warm]):.2f}"
    _say(
        "ratio (median of shards; range)",
        f"{statistics.median(ratios[warm]):.2f} ({spread})",
        "target <= 1.5",
    )
    _say("bytes of a recipe in its shard", f"{statistics.mean(sizes):,.0f}", "")


def _planned(task: RenderTask) -> list[dict[str, Any]]:
    return planned_shards(json.loads(Folder(task.output).read("plan.json")))


def _excerpts(task: RenderTask, recipes: list[dict[str, Any]]) -> list[NDArray[np.int16]]:
    with Folder(task.output).open("sources.parquet") as file:
        sources = {row["source_id"]: row["files"] for row in parquet.read_table(file).to_pylist()}
    return [to_16_bit(mix(recipe["components"], sources, SourceReader()))[0] for recipe in recipes]


def _encode_raw(excerpt: NDArray[np.int16], task: RenderTask) -> None:
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
    """A renderer that keeps itself and its children on one core, and tells when it worked."""

    def __init__(self, task: RenderTask, scratch: str) -> None:
        cores = sorted(os.sched_getaffinity(0))
        for number, core in enumerate(cores):
            try:
                os.mkdir(os.path.join(scratch, str(number)))
            except FileExistsError:
                continue
            os.sched_setaffinity(0, {core})
            break
        super().__init__(task)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make a shard between two looks at the clock."""
        began = time.monotonic()
        result = super().__call__(row)
        return {**result, "began": began, "ended": time.monotonic()}


def _speed_up(run: PreprocessRun, task: RenderTask) -> None:
    """Compare the rates of one and two actors while they work, start-up left out."""
    from pipelines.cluster.actor_pool import run_actors

    if len(os.sched_getaffinity(0)) < 2:
        _say("speed-up of 2 actors over 1", "one core only", "")
        return
    rates: dict[int, list[float]] = {1: [], 2: []}
    for actors in (1, 2, 1, 2):
        with tempfile.TemporaryDirectory(prefix="apollo-pins-") as pins:
            shards = _planned(task)[: 4 * actors]
            arguments = (task, pins)
            done = list(run_actors(shards, PinnedRenderer, arguments, actors=actors, cluster=run.cluster))
        span = max(row["ended"] for row in done) - min(row["began"] for row in done)
        rates[actors].append(sum(row["rows"] for row in done) / span)
    speed_up = statistics.mean(rates[2]) / statistics.mean(rates[1])
    _say("speed-up of 2 actors over 1, a core each", f"{speed_up:.2f}", "target >= 1.8")


_MEMORY = """
import sys
from pipelines.preprocess.discovery import find_songs
from pipelines.runtime.versions import software_versions
from pipelines.preprocess.scan import SongScanner
from pipelines.storage.folder import Folder

def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

data, output = sys.argv[1:]
before = status("VmRSS")
scanner = SongScanner(output, output + "/cache", 10**11, None, software_versions(None))
result = scanner.scan(find_songs([data]).songs[0])
assert not result["rejects"], result["rejects"]
print(before, status("VmHWM"), result["sources"][0]["frames"] / 44100)
"""


def _memory(scratch: Path, musdb: Path) -> None:
    """Scan an hour of MP3 at 48 kHz, decoded into the cache first, and one of WAV, in two processes."""
    song = next(musdb.rglob("mixture.wav"))
    for name, options in (
        ("hour.mp3", ["-ar", "48000", "-b:a", "128k"]),
        ("hour.wav", ["-c:a", "pcm_s16le"]),
    ):
        data = scratch / name.replace(".", "-")
        data.mkdir()
        command = [find_ffmpeg(), "-loglevel", "error", "-stream_loop", "-1", "-i", str(song), "-t", "3600"]
        subprocess.run([*command, *options, str(data / name)], check=True, stdin=subprocess.DEVNULL)  # noqa: S603 - no shell
        asked = [sys.executable, "-c", _MEMORY, str(data), str(scratch / f"{name}-out")]
        said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()  # noqa: S603 - no shell
        before, peak, seconds = (float(value) for value in said)
        above = f"{peak - before:.0f} MiB above {before:.0f}"
        _say(f"peak memory of a scanner, {seconds / 60:.0f} min of {name[5:]}", above, "target <= 600 above")


_PLAN = """
import sys, time
import numpy as np
from pipelines.preprocess.catalog import Catalog
from pipelines.preprocess.plan_writer import write_recipes
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.schema import MIXTURE, STEMS
from pipelines.storage.folder import Folder
from benchmarks.procfs import memory_bytes

songs, recipes, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
draw = np.random.default_rng(0)
sources = [
    {"source_id": f"moisesdb/{song:036d}/{stem}", "stem": stem, "group_id": str(song)}
    for song in range(songs) for stem in (*STEMS, MIXTURE) if stem == MIXTURE or draw.random() < 0.6
]
windows = {
    row["source_id"]: [[132_300 * k, 264_600, -20.0, int(draw.integers(1, 2**31))] for k in range(80)]
    for row in sources
}
began, worked = time.monotonic(), time.process_time()
empty = Catalog.of([], {})
catalogs = {"train": Catalog.of(sources, windows), "valid": empty, "test": empty}
config = RecipesConfig(train=recipes, valid=0, test_per_category=0)
write_recipes(Folder(output), catalogs, config, seed=0, shard_rows=64)
print(time.monotonic() - began, time.process_time() - worked, memory_bytes("VmHWM") / 2**20)
"""


def plan_costs(songs: int, recipes: int) -> tuple[float, float, float, int]:
    """Plan recipes in a process of its own, recipes.parquet included.

    Returns:
        Seconds by the clock, processor time, peak memory in MiB, bytes of recipes.parquet.
    """
    with tempfile.TemporaryDirectory(prefix="apollo-plan-") as scratch:
        asked = [sys.executable, "-c", _PLAN, str(songs), str(recipes), scratch]
        said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()  # noqa: S603 - no shell
        seconds, worked, peak = map(float, said)
        return seconds, worked, peak, Path(scratch, "recipes.parquet").stat().st_size


def _plan() -> None:
    seconds, _, peak, size = plan_costs(_SONGS, _RECIPES)
    name = f"plan of {_RECIPES:,} recipes over {_SONGS} songs"
    _say(name, f"{seconds:.1f} s", "target <= 60 s")
    _say(
        "  its peak memory, and recipes.parquet",
        f"{peak:,.0f} MiB, {size / 1e6:.0f} MB",
        "target <= 2,048 MiB",
    )


if __name__ == "__main__":
    main()
