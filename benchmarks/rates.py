"""What things cost on this machine, for `jobs/scale.py`: `python -m benchmarks.rates FILE`.

Processor time, children included, on the generated album, each thing by the code that does it in a run. What
is measured in parts gives their median, after a first that loads libraries.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from benchmarks.procfs import watch_actors
from pipelines.capacity.rates import Rates
from pipelines.dataset.plan import PLAN, planned_shards
from pipelines.dataset.shards import ShardsConfig
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.layouts import Song
from pipelines.preprocess.plan_writer import write_plan
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.render import RenderTask, ShardRenderer, cpu_seconds
from pipelines.preprocess.scan import SongScanner
from pipelines.preprocess.sources import collect_sources
from pipelines.runtime.versions import software_versions
from pipelines.schema import CHANNELS, SAMPLE_RATE, shard_path
from pipelines.storage import parquet
from pipelines.storage.folder import Folder, join

_RECIPES, _SHARD_ROWS = 80, 16
_ITEMS, _EXAMPLES, _MIXES = 8, 200, 24
_RESTORED_SECONDS = 1
_PLANS = (100_000, 1_000_000)
_SONGS = 390
_SCANS = (250, 1_000)
_SHARDS = (500, 2_500)
_IN_DRIVER = ("hand out", "close")  # what every run does once with every shard
_STARTS, _STARTING = 2, 2
_ENDING_SECONDS = 2.0  # while actors that are let go end


@dataclass(frozen=True)
class Made:
    """What preprocess costs, as `Rates` has it."""

    scan_seconds: float
    render_seconds: float
    clean_bytes: float
    recipe_bytes: float


def main() -> None:
    """Measure all rates and write them to a file, or print them."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        from pipelines.demo.album import album_folders

        config = PreprocessConfig(
            data=album_folders(Path(scratch, "album")),
            output=str(Path(scratch, "shards")),
            recipes=RecipesConfig(train=_RECIPES, valid=_ITEMS, test_per_category=0),
            shards=ShardsConfig(rows=_SHARD_ROWS),
        )
        made = measure_preprocess(config)
        rates = Rates(
            machine=_describe(),
            degradations=len(config.codec.degradations),
            **vars(made),
            start_seconds=measure_start(),
            load_seconds=_measure_load(config.output),
            mix_seconds=_measure_mix(config),
            score_seconds=_measure_score(config.output),
            restore_seconds=_measure_restore(),
            **_measure_driver(scratch),
        )
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(rates.to_json())
    print(rates.to_json())


def _describe() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"


def measure_preprocess(config: PreprocessConfig) -> Made:
    """Scan, plan and render in this process, into the output of a configuration."""
    versions, discovered = software_versions(config.codec.ffmpeg), find_songs(config.data)
    output, cache = Folder(config.output), join(config.output, "cache")
    scanner = SongScanner(config.output, cache, int(config.sources.cache_gb * 1e9), None, versions)
    scans, scanning = {}, []
    for song in discovered.songs:
        before = cpu_seconds()
        scans[song.song_id] = scanner.scan(song)
        scanning.append((cpu_seconds() - before) / _track_seconds(song, scans[song.song_id]))
    sources = collect_sources(discovered.songs, scans, config.sources, config.splits, config.recipes.wanted)
    write_plan(output, sources, discovered, config.recipes, seed=config.seed, shard_rows=config.shards.rows)
    renderer = ShardRenderer(RenderTask(config.output, cache, config.codec, config.shards, versions))
    rendering = []
    shards = planned_shards(json.loads(output.read(PLAN)))
    for shard in shards:
        before = cpu_seconds()
        renderer(shard)
        rendering.append((cpu_seconds() - before) / shard["rows"])
    tables = [shard_path(shard["split"], shard["shard"]) for shard in shards]
    total = sum(entry.size for split in ("train", "valid", "test") for entry in output.entries(split))
    recipes = sum(shard["rows"] for shard in shards)
    clean = sum(_clean_bytes(output, name) for name in tables)
    warm = slice(1, None) if len(shards) > 1 else slice(None)
    return Made(
        statistics.median(scanning[warm] or scanning),
        statistics.median(rendering[warm]),
        clean / recipes,
        total / recipes,
    )


def _track_seconds(song: Song, scan: dict[str, Any]) -> float:
    """Give the length of all files of a song that were read."""
    files = [file for source in scan["sources"] for file in source["files"] or ()]
    return float(sum(file["frames"] for file in files)) / SAMPLE_RATE


def _clean_bytes(output: Folder, name: str) -> int:
    with output.open(name) as file:
        return int(pc.sum(pc.binary_length(parquet.read_table(file, ["clean"])["clean"])).as_py())


class Starter:
    """An actor that begins as those of preprocess do, and does nothing."""

    def __init__(self) -> None:
        software_versions(None)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Give the row back."""
        return row


def measure_start() -> float:
    """Start actors on a local Ray and end them again."""
    from pipelines.cluster.actor_pool import run_actors
    from pipelines.cluster.connection import connect

    cluster = connect()
    taken: list[float] = []
    for _ in range(_STARTS):
        with watch_actors() as worked:
            rows = [{"number": number} for number in range(_STARTING)]
            list(run_actors(rows, Starter, (), actors=_STARTING, cluster=cluster))
            time.sleep(_ENDING_SECONDS)
        taken += worked.values()
    return statistics.median(taken)


def _each(work: Callable[[], object], rounds: int = 3) -> float:
    """Give the processor time of a piece of work: the median of some, after one that does not count."""
    work()
    taken = []
    for _ in range(rounds):
        before = cpu_seconds()
        work()
        taken.append(cpu_seconds() - before)
    return statistics.median(taken)


def _measure_load(output: str) -> float:
    from pipelines.loading.shard_source import ShardSource

    stream = ShardSource(output, epoch_examples=10**6).read(0, range(10**6))
    taken = _each(lambda: [next(stream) for _ in range(_EXAMPLES)])
    stream.close()  # type: ignore[attr-defined]
    return taken / _EXAMPLES


def _measure_mix(config: PreprocessConfig) -> float:
    from pipelines.loading.live_source import ExampleMixer, MixTask

    versions = software_versions(None)
    mixer = ExampleMixer(MixTask(config.output, join(config.output, "cache"), config.codec, versions))
    with Folder(config.output).open("recipes.parquet") as file:
        recipes = parquet.read_table(file).to_pylist()[:_MIXES]
    names = config.codec.degradations
    tasks = [
        {
            "number": number,
            "recipe_id": recipe["recipe_id"],
            "degradation": names[number % len(names)],
            "components": json.dumps(recipe["components"]),
        }
        for number, recipe in enumerate(recipes)
    ]
    return _each(lambda: [mixer(task) for task in tasks]) / len(tasks)


def _measure_score(output: str) -> float:
    from pipelines.evaluation.items import find_cutoff_hz
    from pipelines.evaluation.scorer import Scorer
    from pipelines.evaluation.shard_items import ShardItems

    items = ShardItems(output, "valid", (), _ITEMS)
    degradation = items.degradations[0].name
    scorer = Scorer(items, {degradation: find_cutoff_hz(items, degradation)}, "float32", output)
    numbers = items.indices(degradation)
    return _each(lambda: scorer.score(numbers, degradation, "untouched", None)) / len(numbers)


def _measure_restore() -> float:
    import torch

    from apollo.inference.restoration import restore
    from apollo.model.config import PRESETS
    from apollo.model.generator import Generator

    torch.set_num_threads(1)
    generator = Generator(PRESETS["released"])
    samples = 0.1 * torch.randn(CHANNELS, _RESTORED_SECONDS * SAMPLE_RATE)
    return _each(lambda: restore(generator, samples)) / _RESTORED_SECONDS


def _measure_driver(scratch: str) -> dict[str, float]:
    """Measure how time and memory of the driver grow: slopes between two sizes."""
    from benchmarks import shard_growth, song_growth
    from benchmarks.preprocess import plan_costs

    plans = [plan_costs(_SONGS, recipes) for recipes in _PLANS]
    more = _PLANS[1] - _PLANS[0]
    recipe_bytes = max(0.0, plans[1][2] - plans[0][2]) * 2**20 / more
    shards = {count: str(Path(scratch, f"{count} shards")) for count in _SHARDS}
    for count, location in shards.items():
        shard_growth.make_output(location, count)
    few, many = (
        [shard_growth.measure(location, step) for step in _IN_DRIVER] for location in shards.values()
    )
    songs = [song_growth.measure_made(str(Path(scratch, f"{count} songs")), count) for count in _SCANS]
    more_songs = _SCANS[1] - _SCANS[0]
    more_shards = _SHARDS[1] - _SHARDS[0]
    return {
        "plan_song_seconds": (songs[1].cpu_seconds - songs[0].cpu_seconds) / more_songs,
        "driver_song_bytes": max(0.0, songs[1].peak_bytes - songs[0].peak_bytes) / more_songs,
        "plan_seconds": (plans[1][1] - plans[0][1]) / more,
        "shard_seconds": (sum(one.cpu_seconds for one in many) - sum(one.cpu_seconds for one in few))
        / more_shards,
        "driver_bytes": plans[0][2] * 2**20 - _PLANS[0] * recipe_bytes,
        "driver_recipe_bytes": recipe_bytes,
        "driver_shard_bytes": max(
            0.0, sum(one.peak_bytes for one in many) - sum(one.peak_bytes for one in few)
        )
        / more_shards,
    }


if __name__ == "__main__":
    main()
