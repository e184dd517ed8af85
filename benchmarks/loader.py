"""Loading rate of a core and waiting time of training processes: `python -m benchmarks.loader [SHARDS]`.

Shards of the default sizes (64 rows, 8 per row group, six bitrates) are rendered from the generated album.
The rate is that of one core that does nothing else; waiting is measured in processes that sleep for each
step, like a process whose GPU computes.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measurement import album_config, in_own_process, measure_rounds, median_and_range, print_row
from pipelines.preprocess.run import preprocess

_RECIPES = 384  # six shards
_ROUNDS, _EXAMPLES = 5, 300
_STEPS_MS = (25, 50)
_NODE_GPUS, _NODE_CORES = 8, 64
_WAIT_ROUNDS, _WAIT_STEPS, _WARM_STEPS = 3, 480, 40  # more than an epoch, so that a new window is read


def main() -> None:
    """Measure rates and waiting times and print one line each."""
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        if len(sys.argv) > 1:
            shards = sys.argv[1]
        else:
            config = album_config(Path(scratch), train=_RECIPES, valid=0)
            preprocess(config)
            shards = config.output
        for workers in (1, _NODE_GPUS):
            _print_rates(shards, workers)
        for step_ms in _STEPS_MS:
            _print_waits(shards, step_ms)


def _print_rates(shards: str, workers: int) -> None:
    """Measure one worker of some: one of eight fetches a row group for every row of it."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # inherited by the process
    try:
        for name, clock in (("wall", time.perf_counter), ("CPU", time.process_time)):
            seconds = in_own_process(read_rounds, shards, workers, _ROUNDS, _EXAMPLES, clock)
            rates = median_and_range([_EXAMPLES / one for one in seconds], ".0f")
            print_row(
                f"examples per second and core, {name} time, 1 of {workers} workers", rates, "target >= 100"
            )
    finally:
        os.sched_setaffinity(0, cores)


def read_rounds(
    shards: str, workers: int, rounds: int, examples: int, clock: Callable[[], float]
) -> list[float]:
    """Return the seconds of each round of reading examples, as worker 0 of `workers`."""
    from pipelines.loading.shard_source import LoaderConfig, ShardSource

    source = ShardSource(shards, LoaderConfig(decode_threads=1, fetch_threads=1), epoch_examples=10**6)
    stream = source.read(0, range(0, 10**6, workers))
    (seconds,) = measure_rounds(lambda: [next(stream) for _ in range(examples)], rounds=rounds, clock=clock)
    return seconds


def _print_waits(shards: str, step_ms: int) -> None:
    """Run as many processes on the cores here as an 8-GPU node runs on 64, one example per step."""
    cores = len(os.sched_getaffinity(0))
    consumers = max(1, round(_NODE_GPUS * cores / _NODE_CORES))
    shares: list[float] = []
    with ThreadPoolExecutor(consumers) as pool:
        for _ in range(_WAIT_ROUNDS):
            arguments = [(shards, rank, consumers, step_ms / 1000) for rank in range(consumers)]
            shares += pool.map(lambda values: in_own_process(measure_wait, *values, _WAIT_STEPS), arguments)
    name = f"share of time waiting with steps of {step_ms} ms, {consumers} consumers, {cores} cores"
    print_row(name, median_and_range(shares, ".2%"), "target <= 3 %")


def measure_wait(shards: str, rank: int, workers: int, step_seconds: float, steps: int) -> float:
    """Return the share of time that a process with steps of this duration waits for examples."""
    from pipelines.loading.shard_source import ShardSource

    stream = ShardSource(shards, epoch_examples=10**6).read(0, range(rank, 10**6, workers))
    waited = start = 0.0
    for step in range(_WARM_STEPS + steps):
        before = time.perf_counter()
        next(stream)
        waited += (time.perf_counter() - before) * (step >= _WARM_STEPS)
        start = before if step == _WARM_STEPS else start
        time.sleep(step_seconds)
    return waited / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
