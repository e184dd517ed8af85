"""How a run grows with its shards: `python -m benchmarks.shard_growth [SHARDS …]`, of 1,000 and 10,000.

Outputs of that many shards of one quiet row are made and read by the real code. Every step is measured in a
process of its own, so that its peak memory is its own. Requests are calls of `pipelines.storage.folder` and,
as `range`, reads of an opened file: on an object store each is a request or two, a listing one in 1,000
names.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

import pipelines.preprocess.report  # noqa: F401 - loaded here, not while a step is measured
from benchmarks.procfs import memory_bytes
from pipelines import schema
from pipelines.audio.codec import CodecConfig, Mp3Encoder
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
from pipelines.preprocess.plan_writer import write_recipes
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.render import cpu_seconds, to_flac
from pipelines.storage import parquet
from pipelines.storage.folder import Folder
from pipelines.storage.parquet import parquet_bytes

_SHARDS = (1_000, 10_000)
_CODEC = CodecConfig(bitrates_bps=(32_000,))
_SOURCES = 8
_COUNTED = ("entries", "exists", "read", "write", "delete")
_THREADS = 8
_ACTORS = 2
_EXAMPLES = 8


@dataclass(frozen=True)
class Growth:
    """What a step costs over an output.

    Args:
        seconds: By the clock.
        cpu_seconds: Processor time of this process and its children.
        peak_bytes: What it adds to this process's memory at its peak.
        requests: Calls of the storage, by name.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: float
    requests: dict[str, int]


def main() -> None:
    """Run the benchmark and print a line for every step and size."""
    sizes = [int(argument) for argument in sys.argv[1:]] or list(_SHARDS)
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        for size in sizes:
            make_output(str(Path(scratch, str(size))), size)
        for step in STEPS:
            grown = [measure(str(Path(scratch, str(size))), step) for size in sizes]
            for size, one in zip(sizes, grown):
                asked = ", ".join(f"{count:,} {name}" for name, count in sorted(one.requests.items()))
                numbers = (
                    f"{one.seconds:8.2f} s{one.cpu_seconds:8.2f} s of CPU{one.peak_bytes / 2**20:8.1f} MiB"
                )
                print(f"{step:9s}{size:8,d} shards{numbers}   {asked}", flush=True)
            print(f"{step:9s}{grown[-1].seconds / grown[0].seconds:8.1f} times", flush=True)


def make_output(location: str, shards: int) -> None:
    """Make an output of preprocess with a quiet row a shard, whole but for its report."""
    output = Folder(location)
    names = [f"bench/{number}/vocals" for number in range(_SOURCES)]
    sources = [{"source_id": name, "stem": "vocals", "group_id": name} for name in names]
    windows = {name: [[0, 2 * schema.EXCERPT_FRAMES, -20.0, 1]] for name in names}
    empty = Catalog.of([], {})
    splits = write_recipes(
        output,
        {"train": Catalog.of(sources, windows), "valid": empty, "test": empty},
        RecipesConfig(train=shards, valid=0, test_per_category=0),
        seed=0,
        shard_rows=1,
    )
    files = [{**row, "split": "train", "frames": 2 * schema.EXCERPT_FRAMES, "files": []} for row in sources]
    output.write("sources.parquet", parquet_bytes(pa.Table.from_pylist(files, schema.SOURCES)))
    row = _quiet_row()
    with output.open(RECIPES) as file, ThreadPoolExecutor(_THREADS) as pool:
        plan = parquet.open_file(file)
        for first in range(0, shards, 64):
            recipes = read_recipes(plan, first, 64, shard_rows=1)
            places = range(first, first + len(recipes))
            list(pool.map(lambda place, recipe: _publish(output, place, row | recipe), places, recipes))
    plain = {"sources": _SOURCES, "left_out": 0, "rejects": [], "remarks": [], "ignored_files": 0}
    output.write(PLAN, json.dumps({"shard_rows": 1, "splits": splits, **plain}).encode())


def _quiet_row() -> dict[str, Any]:
    """Make a row of clicks: real FLAC, a real MP3, few bytes."""
    clicks = np.zeros((schema.EXCERPT_FRAMES, schema.CHANNELS), np.int16)
    clicks[:: schema.SAMPLE_RATE // 10] = 8_000
    made = Mp3Encoder(_CODEC).encode(clicks)
    row: dict[str, Any] = {"stems": ["vocals"], "mix_gain_db": 0.0, "sample_rate": schema.SAMPLE_RATE}
    row |= {"frames": len(clicks), "clean": to_flac(clicks)}
    for name, one in made.items():
        row |= {name: one.stream, f"{name}_gain": one.gain, f"{name}_bitrate_bps": one.bitrate_bps}
    return row


def _publish(output: Folder, shard: int, row: dict[str, Any]) -> None:
    content = encode_shard([row], _CODEC.degradations, 1)
    made = {name: [row[f"{name}_bitrate_bps"]] for name in _CODEC.degradations}
    commit = ShardCommit(
        split="train", shard=shard, rows=1, bytes=len(content), sha256=sha256_hex(content), bitrates_bps=made
    )
    commit_shard(output, content, commit)


class Idle:
    """An actor that does nothing."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Give what a renderer gives."""
        return {"split": row["split"], "shard": row["shard"], "rows": 1, "rejected": 0}


def _tasks(location: str) -> list[dict[str, Any]]:
    return planned_shards(json.loads(Folder(location).read(PLAN)))


def _hand_out(location: str) -> None:
    from pipelines.cluster.actor_pool import run_actors
    from pipelines.cluster.connection import connect

    cluster = connect()
    done = sum(1 for _ in run_actors(_tasks(location), Idle, (), actors=_ACTORS, cluster=cluster))
    _must(done == len(_tasks(location)))


def _resume(location: str) -> None:
    output = Folder(location)
    commits = read_commits(output)
    _must(len(commits) == len(_tasks(location)))
    _must(not find_damaged_shards(output, commits.values(), content=True))


def _close(location: str) -> None:
    output = Folder(location)
    made = audit.finalize(output, json.loads(output.read(PLAN)), {}, {}, _CODEC)
    _must(made["committed"] == made["planned"] == len(_tasks(location)))


def _train(location: str) -> None:
    """Open the shards, read first examples, and look up the place of every example of two passes."""
    source = ShardSource(location, epoch_examples=10**6)
    stream = source.read(0, range(_EXAMPLES))
    _must(len(list(stream)) == _EXAMPLES)
    order = ShuffledOrder([1] * source.num_rows, seed=0, window_shards=8)
    _must(sum(len(places) for places in order.windows(range(2 * source.num_rows))) == 2 * source.num_rows)


def _evaluate(location: str) -> None:
    _must(len(ShardItems(location, "train", (), None).items) == len(_tasks(location)))


STEPS: dict[str, Callable[[str], None]] = {
    "hand out": _hand_out,
    "resume": _resume,
    "status": lambda location: print(audit.status(Folder(location)), file=sys.stderr),
    "close": _close,
    "train": _train,
    "evaluate": _evaluate,
}


def _must(held: bool) -> None:
    """Stop where a step has not done its work: its cost would be that of less."""
    if not held:
        raise RuntimeError("a step has not done all of its work")


def measure(location: str, step: str) -> Growth:
    """Take a step over an output in a process of its own."""
    code = "import sys; from benchmarks.shard_growth import take; take(*sys.argv[1:])"
    asked = [sys.executable, "-c", code, location, step]
    said = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
    return Growth(**json.loads(said.splitlines()[-1]))


def take(location: str, step: str) -> None:
    """Take a step in this process and print what it cost, as JSON."""
    before = memory_bytes("VmRSS")
    with count_requests() as requests:
        began, worked = time.monotonic(), cpu_seconds()
        STEPS[step](location)
        seconds, worked = time.monotonic() - began, cpu_seconds() - worked
    print(json.dumps(asdict(Growth(seconds, worked, memory_bytes("VmHWM") - before, dict(requests)))))


class _Ranges:
    """A file that counts what is read of it."""

    def __init__(self, file: BinaryIO, requests: Counter[str]) -> None:
        self._file, self._requests = file, requests

    def __getattr__(self, name: str) -> Any:
        self._requests["range"] += name in ("read", "read_buffer")
        return getattr(self._file, name)

    def __enter__(self) -> "_Ranges":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def count_requests() -> Iterator[Counter[str]]:
    """Count the calls of all folders meanwhile, and the reads of files that are opened."""
    requests: Counter[str] = Counter()
    plain = {name: getattr(Folder, name) for name in (*_COUNTED, "open")}

    def counted(name: str) -> Callable[..., Any]:
        def call(folder: Folder, *arguments: Any, **options: Any) -> Any:
            requests[name] += 1
            made = plain[name](folder, *arguments, **options)
            return _Ranges(made, requests) if name == "open" else made

        return call

    for name in plain:
        setattr(Folder, name, counted(name))
    try:
        yield requests
    finally:
        for name, method in plain.items():
            setattr(Folder, name, method)


if __name__ == "__main__":
    main()
