"""Driver time, memory and requests over shards and songs: `python -m benchmarks.growth`.

The real code runs on generated outputs, each step in a process of its own. Requests are calls of
`pipelines.storage.folder` and, as `range`, reads of an opened file: on an object store each is a request or
two, a listing one in 1,000 names.
"""

import argparse
import base64
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

import pipelines.preprocess.report  # noqa: F401 - imported here, not while a step is measured
from benchmarks.measurement import Cost, measure
from pipelines import schema
from pipelines.audio.codec import CodecConfig, Encoder
from pipelines.audio.fingerprints import HOP
from pipelines.dataset.plan import PLAN, RECIPES, planned_shards, read_recipes
from pipelines.dataset.sampling import ShuffledOrder
from pipelines.dataset.shards import (
    ShardCommit,
    commit_shard,
    encode_shard,
    find_damaged_shards,
    read_commits,
    sha256_hex,
)
from pipelines.evaluation.shard_items import ShardItems
from pipelines.loading.shard_source import ShardSource
from pipelines.preprocess import audit
from pipelines.preprocess.catalog import Catalog
from pipelines.preprocess.plan_writer import write_plan, write_recipes
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.render import to_flac
from pipelines.preprocess.scan import read_scans, scan_name
from pipelines.preprocess.songs import DiscoveryResult, Song, SourceFile
from pipelines.preprocess.sources import SourcesConfig, collect_sources
from pipelines.preprocess.splits import SplitsConfig
from pipelines.schema import EXCERPT_FRAMES, SAMPLE_RATE
from pipelines.storage import parquet
from pipelines.storage.folder import Folder
from pipelines.storage.parquet import parquet_bytes

_CODEC = CodecConfig(bitrates_bps=(32_000,))
_SOURCES, _EXAMPLES = 8, 8
_THREADS, _ACTORS = 8, 2
_SONG_FRAMES = 240 * SAMPLE_RATE
_STEMS = ("bass", "drums", "other", "vocals", schema.MIXTURE)
_KEPT_BITS = 0.9  # fraction of bits equal in successive fingerprint words: windows of 371 ms overlap by 325


def main() -> None:
    """Measure every step at every size and print one line each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--shards", type=int, nargs="*", default=[1_000, 10_000], help="(1000 10000)")
    parser.add_argument("--songs", type=int, nargs="*", default=[1_000, 10_000], help="(1000 10000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        outputs = {size: f"{scratch}/{size}-shards" for size in options.shards}
        for size, location in outputs.items():
            make_output(location, size)
        for step in STEPS if outputs else ():
            costs = [measure_step(location, step) for location in outputs.values()]
            for size, cost in zip(outputs, costs):
                _print(step, f"{size:,} shards", cost)
            print(f"{step:9s}{costs[-1].seconds / costs[0].seconds:8.1f} times", flush=True)
        for size in options.songs:
            _print("plan", f"{size:,} songs", measure_songs(f"{scratch}/{size}-songs", size))


def _print(step: str, size: str, cost: Cost) -> None:
    added = (cost.peak_bytes - cost.start_bytes) / 2**20
    numbers = f"{cost.seconds:8.2f} s{cost.cpu_seconds:8.2f} s of CPU{added:8.1f} MiB"
    requests = ", ".join(f"{count:,} {name}" for name, count in sorted(cost.requests.items()))
    print(f"{step:9s}{size:>15s}{numbers}   {requests}", flush=True)


def make_output(location: str, shards: int) -> None:
    """Write a complete preprocess output, but for its report: one short row of clicks per shard."""
    output = Folder(location)
    names = [f"bench/{number}/vocals" for number in range(_SOURCES)]
    sources = [{"source_id": name, "stem": "vocals", "group_id": name} for name in names]
    windows = {name: [[0, 2 * EXCERPT_FRAMES, -20.0, 1]] for name in names}
    splits = write_recipes(output, _catalogs(sources, windows), _recipes(shards), seed=0, shard_rows=1)
    files = [{**row, "split": "train", "frames": 2 * EXCERPT_FRAMES, "files": []} for row in sources]
    output.write("sources.parquet", parquet_bytes(pa.Table.from_pylist(files, schema.SOURCES)))
    row = _click_row()
    with output.open(RECIPES) as file, ThreadPoolExecutor(_THREADS) as pool:
        plan = parquet.open_file(file)
        for first in range(0, shards, 64):
            recipes = read_recipes(plan, first, 64, shard_rows=1)
            list(pool.map(partial(_commit, output, row), range(first, first + len(recipes)), recipes))
    plain = {"sources": _SOURCES, "left_out": 0, "rejects": [], "remarks": [], "ignored_files": 0}
    output.write(PLAN, json.dumps({"shard_rows": 1, "splits": splits, **plain}).encode())


def _catalogs(sources: list[dict[str, Any]], windows: dict[str, Any]) -> dict[str, Catalog]:
    empty = Catalog.of([], {})
    return {"train": Catalog.of(sources, windows), "valid": empty, "test": empty}


def _recipes(train: int) -> RecipesConfig:
    return RecipesConfig(train=train, valid=0, test_per_category=0)


def _click_row() -> dict[str, Any]:
    clicks = np.zeros((EXCERPT_FRAMES, schema.CHANNELS), np.int16)
    clicks[:: SAMPLE_RATE // 10] = 8_000
    row: dict[str, Any] = {"stems": ["vocals"], "mix_gain_db": 0.0, "sample_rate": SAMPLE_RATE}
    row |= {"frames": len(clicks), "clean": to_flac(clicks)}
    for name, mp3 in Encoder(_CODEC).encode(clicks).items():
        row |= {name: mp3.stream, f"{name}_gain": mp3.gain, f"{name}_bitrate_bps": mp3.bitrate_bps}
    return row


def _commit(output: Folder, row: dict[str, Any], shard: int, recipe: dict[str, Any]) -> None:
    content = encode_shard([row | recipe], _CODEC.columns, 1)
    bitrates = {name: [row[f"{name}_bitrate_bps"]] for name in _CODEC.columns}
    digest = sha256_hex(content)
    commit = ShardCommit(
        split="train", shard=shard, rows=1, bytes=len(content), sha256=digest, bitrates_bps=bitrates
    )
    commit_shard(output, content, commit)


class IdleActor:
    """An actor that does nothing and returns what a renderer returns."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row of a rendered shard."""
        return {"split": row["split"], "shard": row["shard"], "rows": 1, "rejected": 0}


def _tasks(location: str) -> list[dict[str, Any]]:
    return planned_shards(json.loads(Folder(location).read(PLAN)))


def _schedule(location: str) -> bool:
    from pipelines.cluster.actor_pool import run_actors
    from pipelines.cluster.connection import connect

    tasks = _tasks(location)
    done = sum(1 for _ in run_actors(tasks, IdleActor, (), actors=_ACTORS, cluster=connect()))
    return done == len(tasks)


def _resume(location: str) -> bool:
    commits = read_commits(Folder(location))
    damaged = find_damaged_shards(Folder(location), commits.values(), content=True)
    return len(commits) == len(_tasks(location)) and not damaged


def _status(location: str) -> bool:
    return bool(audit.status(Folder(location)))


def _close(location: str) -> bool:
    output = Folder(location)
    report = audit.finalize(output, json.loads(output.read(PLAN)), {}, {}, _CODEC)
    return bool(report["committed"] == report["planned"] == len(_tasks(location)))


def _train(location: str) -> bool:
    """Open the shards, read the first examples, and draw the order of two epochs."""
    source = ShardSource(location, epoch_examples=10**6)
    read = len(list(source.read(0, range(_EXAMPLES))))
    order = ShuffledOrder([1] * source.num_rows, seed=0, window_shards=8)
    rows = sum(len(window) for window in order.windows(range(2 * source.num_rows)))
    return read == _EXAMPLES and rows == 2 * source.num_rows


def _evaluate(location: str) -> bool:
    return len(ShardItems(location, "train", (), None).items) == len(_tasks(location))


STEPS: dict[str, Callable[[str], bool]] = {
    "schedule": _schedule,
    "resume": _resume,
    "status": _status,
    "close": _close,
    "train": _train,
    "evaluate": _evaluate,
}


def run_step(location: str, step: str) -> None:
    """Run a step over an output; raise RuntimeError if it does less than all of its work."""
    if not STEPS[step](location):
        raise RuntimeError(f"{step}: the step is incomplete")


def measure_step(location: str, step: str) -> Cost:
    """Measure a step over an output of `make_output`."""
    return measure(partial, run_step, location, step)


def measure_recipes(songs: int, recipes: int, location: str) -> Cost:
    """Measure drawing recipes and writing recipes.parquet."""
    return measure(_prepare_recipes, songs, recipes, location)


def _prepare_recipes(songs: int, recipes: int, location: str) -> Callable[[], object]:
    draw = np.random.default_rng(0)
    sources = [
        {"source_id": f"moisesdb/{song:036d}/{stem}", "stem": stem, "group_id": str(song)}
        for song in range(songs)
        for stem in (*schema.STEMS, schema.MIXTURE)
        if stem == schema.MIXTURE or draw.random() < 0.6
    ]
    windows = {
        row["source_id"]: [
            [EXCERPT_FRAMES * k, 2 * EXCERPT_FRAMES, -20.0, int(draw.integers(1, 2**31))] for k in range(80)
        ]
        for row in sources
    }

    def write() -> None:  # catalogs are part of the work
        catalogs = _catalogs(sources, windows)
        write_recipes(Folder(location), catalogs, _recipes(recipes), seed=0, shard_rows=64)

    return write


def measure_songs(location: str, songs: int) -> Cost:
    """Write generated scans, then measure reading them and planning."""
    output = Folder(location)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda number: output.write(scan_name(_song(number)), _scan(number)), range(songs)))
    return measure(_prepare_songs, location, songs)


def _prepare_songs(location: str, songs: int) -> Callable[[], object]:
    listed, output = [_song(number) for number in range(songs)], Folder(location)
    recipes = RecipesConfig(train=1_000, valid=10, test_per_category=10)

    def plan() -> None:
        scans = read_scans(output)
        sources = collect_sources(listed, scans, SourcesConfig(), SplitsConfig(), recipes.wanted)
        write_plan(output, sources, DiscoveryResult(listed), recipes, seed=0, shard_rows=64)

    return plan


def _song(number: int) -> Song:
    artist, title = f"Artist {number}", f"Song {number}"
    folder = f"/data/musdb18hq/train/{artist} - {title}"
    return Song(
        dataset="musdb18hq",
        song_id=f"musdb18hq/{artist} - {title}",
        artist=artist,
        title=title,
        sources={stem: (SourceFile(f"{folder}/{stem}.wav", 42_336_044, 1),) for stem in _STEMS},
        split="train",
    )


def _scan(number: int) -> bytes:
    """Return a scan as large as a real one: a window every 3 s, and words whose bits change rarely."""
    draw, song = np.random.default_rng(number), _song(number)
    starts = range(0, _SONG_FRAMES - 2 * EXCERPT_FRAMES, EXCERPT_FRAMES)
    sources = []
    for stem, (entry,) in sorted(song.sources.items()):
        file = {"path": entry.name, "readable": entry.name, "scale": 1.0, "channels": 2}
        file |= {"frames": _SONG_FRAMES, "size": entry.size, "mtime_ns": entry.mtime_ns}
        masks = draw.integers(1, 2**31, len(starts)).tolist()
        segments = [[start, 2 * EXCERPT_FRAMES, -20.5, mask] for start, mask in zip(starts, masks)]
        row = {"source_id": f"{song.song_id}/{stem}", "stem": stem, "files": [file], "frames": _SONG_FRAMES}
        row |= {"lossy": False, "bandwidth_hz": 20_000, "segments": segments, "left_out": None}
        sources.append(row)
    changed = draw.random((_SONG_FRAMES // HOP, 32)) > _KEPT_BITS
    words = np.packbits(changed, axis=1).view(">u4").ravel().astype("<u4")
    words[0] = draw.integers(1, 2**32)
    fingerprint = base64.b64encode(np.bitwise_xor.accumulate(words).tobytes()).decode()
    scan = {"song_id": song.song_id, "sources": sources, "rejects": [], "print": fingerprint}
    return json.dumps(scan).encode()


if __name__ == "__main__":
    main()
