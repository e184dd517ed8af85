"""What the loader costs and whether it keeps up: `python -m benchmarks.loader`.

Shards of the design's sizes (64 rows, 8 a row group, six bitrates) are rendered from the built-in album. The
rate is that of one core that does nothing else; the waits are those of processes that pretend to compute by
sleeping, as a process does whose GPU computes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.demo.album import album_folders
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.run import preprocess

_RECIPES = 384  # six shards
_ROUNDS = 5
_EXAMPLES = 300  # a round
_STEPS_MS = (25, 50)
_NODE_GPUS, _NODE_CORES = 8, 64
_WAIT_STEPS = 480  # more than a pass, so that a new window of shards is met
_WARM_STEPS = 40


def main() -> None:
    """Run all benchmarks and print one line a number."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        shards = sys.argv[1] if len(sys.argv) > 1 else _render(Path(scratch))
        _rate(shards)
        for step_ms in _STEPS_MS:
            _waits(shards, step_ms)


def _say(name: str, value: str, target: str) -> None:
    print(f"{name:64s} {value:>30s}   {target}", flush=True)


def _render(scratch: Path) -> str:
    config = PreprocessConfig(
        data=album_folders(scratch / "album"),
        output=str(scratch / "shards"),
        recipes=RecipesConfig(train=_RECIPES, valid=0, test_per_category=0),
    )
    preprocess(config)
    return config.output


_RATE = """
import os, sys, time
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
from pipelines.loading.shard_source import LoaderConfig, ShardSource
shards, examples, rounds, rank, workers = sys.argv[1], *map(int, sys.argv[2:])
source = ShardSource(shards, LoaderConfig(decode_threads=1, fetch_threads=1), epoch_examples=10**6)
stream = source.read(0, range(rank, 10**6, workers))
for _ in range(32):
    next(stream)
for _ in range(rounds):
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(examples):
        next(stream)
    print(time.perf_counter() - wall, time.process_time() - cpu)
stream.close()
"""


def _rate(shards: str) -> None:
    """Read as a lone worker, and as one of eight, who fetches a row group for every row of it."""
    for workers in (1, _NODE_GPUS):
        asked = [sys.executable, "-c", _RATE, shards]
        numbers = (_EXAMPLES, _ROUNDS, 0, workers)
        said = subprocess.run([*asked, *map(str, numbers)], check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell
        rounds = [tuple(map(float, line.split())) for line in said.splitlines()]
        for place, clock in enumerate(("wall", "CPU")):
            rates = [_EXAMPLES / seconds[place] for seconds in rounds]
            spread = f"{statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"
            _say(f"examples a second and core, {clock} time, 1 of {workers} workers", spread, "target >= 100")


_WAIT = """
import sys, time
from pipelines.loading.shard_source import LoaderConfig, ShardSource
shards, step_ms, steps, warm, rank, workers = sys.argv[1], *map(int, sys.argv[2:])
source = ShardSource(shards, epoch_examples=10**6)
stream = source.read(0, range(rank, 10**6, workers))
waited = 0.0
for step in range(warm + steps):
    before = time.perf_counter()
    next(stream)
    waited += (time.perf_counter() - before) * (step >= warm)
    if step == warm:
        began = before
    time.sleep(step_ms / 1000)
print(waited / (time.perf_counter() - began))
stream.close()
"""


def _waits(shards: str, step_ms: int) -> None:
    """Let as many processes read as an 8-GPU node of 64 cores has for the cores here, one example a step."""
    cores = len(os.sched_getaffinity(0))
    consumers = max(1, round(_NODE_GPUS * cores / _NODE_CORES))
    shares = []
    for _ in range(3):
        numbers = (step_ms, _WAIT_STEPS, _WARM_STEPS)
        asked = [
            [sys.executable, "-c", _WAIT, shards, *map(str, (*numbers, rank, consumers))]
            for rank in range(consumers)
        ]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in asked]  # noqa: S603 - no shell
        shares += [float(process.communicate()[0]) for process in running]
    name = f"share of time waited behind steps of {step_ms} ms, {consumers} consumers, {cores} cores"
    spread = f"{statistics.median(shares):.2%} ({min(shares):.2%}-{max(shares):.2%})"
    _say(name, spread, "target <= 3 %")


if __name__ == "__main__":
    main()
