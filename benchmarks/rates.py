"""Measure the rates of this machine for `jobs/scale.py`: `python -m benchmarks.rates [FILE]`.

Rates are CPU time, child processes included, of the code of a run on the generated album: the median of
several measurements after a first that loads libraries.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.compute as pc

from benchmarks import growth, scoring
from benchmarks.loader import read_rounds
from benchmarks.measurement import StartedActor, album_config, measure_actors, measure_rounds
from pipelines.capacity.estimate import Rates
from pipelines.dataset.plan import PLAN, RECIPES, planned_shards
from pipelines.evaluation.real_time_factor import processor_name
from pipelines.evaluation.shard_items import ShardItems
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.discovery import find_songs
from pipelines.preprocess.plan_writer import write_plan
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
_PLANNED, _SONGS = (100_000, 1_000_000), 390
_SCANS, _SHARDS = (250, 1_000), (500, 2_500)
_DRIVER_STEPS = ("schedule", "close")  # what every run does once per shard
_START_ROUNDS, _ACTORS = 2, 2
_ENDING_SECONDS = 2.0  # time for released actors to end


def main() -> None:
    """Measure all rates, print them, and write them to a file if one is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="YAML file for jobs/scale.py")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        config = album_config(Path(scratch), train=_RECIPES, valid=_ITEMS, rows=_SHARD_ROWS)
        rates = Rates(
            machine=_machine(),
            degradations=len(config.codec.columns),
            **measure_preprocess(config),
            start_seconds=measure_start(),
            load_seconds=measure_load(config.output),
            mix_seconds=measure_mix(config),
            score_seconds=measure_score(config.output),
            restore_seconds=_measure_restore(),
            **measure_driver(scratch, _PLANNED, _SCANS, _SHARDS),
        )
    text = json.dumps(asdict(rates), indent=1)
    if options.file:
        options.file.write_text(text + "\n")
    print(text)


def _machine() -> str:
    software = f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    return f"{processor_name()}, {os.cpu_count()} cores, {software}"


def measure_preprocess(config: PreprocessConfig) -> dict[str, float]:
    """Scan, plan and render in this process; return four rates by name."""
    versions, discovered = software_versions(config.codec.ffmpeg), find_songs(config.data)
    output, cache = Folder(config.output), join(config.output, "cache")
    scanner = SongScanner(config.output, cache, int(config.sources.cache_gb * 1e9), None, versions)
    scans, scanning, rendering = {}, [], []
    for song in discovered.songs:
        before = cpu_seconds()
        scan = scans[song.song_id] = scanner.scan(song)
        files = [file for source in scan["sources"] for file in source["files"] or ()]
        track_seconds = sum(file["frames"] for file in files) / SAMPLE_RATE
        scanning.append((cpu_seconds() - before) / track_seconds)
    sources = collect_sources(discovered.songs, scans, config.sources, config.splits, config.recipes.wanted)
    write_plan(output, sources, discovered, config.recipes, seed=config.seed, shard_rows=config.shards.rows)
    renderer = ShardRenderer(RenderTask(config.output, cache, config.codec, config.shards, versions))
    shards = planned_shards(json.loads(output.read(PLAN)))
    for shard in shards:
        before = cpu_seconds()
        renderer(shard)
        rendering.append((cpu_seconds() - before) / shard["rows"])
    recipes = sum(shard["rows"] for shard in shards)
    written = sum(entry.size for split in ("train", "valid", "test") for entry in output.entries(split))
    clean = sum(_clean_bytes(output, shard_path(shard["split"], shard["shard"])) for shard in shards)
    return {
        "scan_seconds": statistics.median(scanning[1:] or scanning),
        "render_seconds": statistics.median(rendering[1:] or rendering),
        "clean_bytes": clean / recipes,
        "recipe_bytes": written / recipes,
    }


def _clean_bytes(output: Folder, name: str) -> int:
    with output.open(name) as file:
        return int(pc.sum(pc.binary_length(parquet.read_table(file, ["clean"])["clean"])).as_py())


def measure_start() -> float:
    """Return the CPU seconds of an actor of a local Ray that starts and ends."""
    from pipelines.cluster.actor_pool import run_actors
    from pipelines.cluster.connection import connect

    cluster = connect()
    seconds: list[float] = []
    for _ in range(_START_ROUNDS):
        with measure_actors() as by_process:
            rows = [{"number": number} for number in range(_ACTORS)]
            list(run_actors(rows, StartedActor, (), actors=_ACTORS, cluster=cluster))
            time.sleep(_ENDING_SECONDS)
        seconds += by_process.values()
    return statistics.median(seconds)


def _median_cpu_seconds(work: Callable[[], object]) -> float:
    (seconds,) = measure_rounds(work, rounds=3, clock=cpu_seconds)
    return statistics.median(seconds)


def measure_load(output: str) -> float:
    """Return the CPU seconds of loading an example from shards."""
    seconds = read_rounds(output, workers=1, rounds=3, examples=_EXAMPLES, clock=time.process_time)
    return statistics.median(seconds) / _EXAMPLES


def measure_mix(config: PreprocessConfig) -> float:
    """Return the CPU seconds of mixing an example live."""
    from pipelines.loading.live_source import ExampleMixer, MixTask

    versions, names = software_versions(None), config.codec.columns
    mixer = ExampleMixer(MixTask(config.output, join(config.output, "cache"), config.codec, versions))
    with Folder(config.output).open(RECIPES) as file:
        recipes = parquet.read_table(file).to_pylist()[:_MIXES]
    tasks = [
        {
            "number": number,
            "recipe_id": recipe["recipe_id"],
            "degradation": names[number % len(names)],
            "components": json.dumps(recipe["components"]),
        }
        for number, recipe in enumerate(recipes)
    ]
    return _median_cpu_seconds(lambda: [mixer(task) for task in tasks]) / len(tasks)


def measure_score(output: str) -> float:
    """Return the CPU seconds of scoring an item."""
    items = ShardItems(output, "valid", (), _ITEMS)
    _, actor = scoring.score_rounds(items, output, items.degradations[0].name, rounds=3)
    return statistics.median(actor) / len(items.items)


def _measure_restore() -> float:
    import torch

    from apollo.inference.restoration import restore
    from apollo.model.config import PRESETS
    from apollo.model.generator import Generator

    torch.set_num_threads(1)
    generator = Generator(PRESETS["released"])
    samples = 0.1 * torch.randn(CHANNELS, _RESTORED_SECONDS * SAMPLE_RATE)
    return _median_cpu_seconds(lambda: restore(generator, samples)) / _RESTORED_SECONDS


def measure_driver(
    scratch: str, planned: tuple[int, int], scans: tuple[int, int], shards: tuple[int, int]
) -> dict[str, float]:
    """Return seven rates of the driver by name: slopes between two sizes."""
    recipes, songs, outputs = [], [], []
    for size in planned:
        recipes.append(growth.measure_recipes(_SONGS, size, join(scratch, f"{size}-recipes")))
    for size in scans:
        songs.append(growth.measure_songs(join(scratch, f"{size}-songs"), size))
    for size in shards:
        location = join(scratch, f"{size}-shards")
        growth.make_output(location, size)
        outputs.append([growth.measure_step(location, step) for step in _DRIVER_STEPS])

    def slope(values: Sequence[float], sizes: tuple[int, int]) -> float:
        return max(0.0, values[1] - values[0]) / (sizes[1] - sizes[0])

    song_bytes, shard_bytes = (
        [sum(cost.peak_bytes - cost.start_bytes for cost in costs) for costs in pair]
        for pair in ([[cost] for cost in songs], outputs)
    )
    shard_seconds = [sum(cost.cpu_seconds for cost in costs) for costs in outputs]
    recipe_bytes = slope([cost.peak_bytes for cost in recipes], planned)
    return {
        "plan_song_seconds": slope([cost.cpu_seconds for cost in songs], scans),
        "plan_seconds": slope([cost.cpu_seconds for cost in recipes], planned),
        "shard_seconds": slope(shard_seconds, shards),
        "driver_bytes": recipes[0].peak_bytes - planned[0] * recipe_bytes,
        "driver_song_bytes": slope(song_bytes, scans),
        "driver_recipe_bytes": recipe_bytes,
        "driver_shard_bytes": slope(shard_bytes, shards),
    }


if __name__ == "__main__":
    main()
