"""Loading rate of a core and waiting time of training processes: `python -m benchmarks.loader [SHARDS]`.

Shards of the default sizes (64 rows, 8 per row group, six bitrates) are rendered from the generated album.
The rate is that of one core that does nothing else; waiting is measured in processes that sleep for each
step, like a process whose GPU computes.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measurement import album_config, in_own_process, measure_rounds, median_and_range, print_row
from pipelines.preprocess.run import preprocess

_RECIPES = 384  # six shards
_ROUNDS, _EXAMPLES = 5, 300
_PIECE_SECONDS, _BATCH, _BATCHES = 1.5, 16, 18
_STEPS_MS = (25, 50)
_NODE_GPUS, _NODE_CORES = 8, 64
_WAIT_ROUNDS, _WAIT_STEPS, _WARM_STEPS = 3, 480, 40  # more than an epoch, so that a new window is read


def main() -> None:
    """Measure rates and waiting times and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", nargs="?", help="output of preprocess; made where not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apollo-bench-") as scratch:
        shards = options.shards
        if not shards:
            config = album_config(Path(scratch), train=_RECIPES, valid=0)
            preprocess(config)
            shards = config.output
        for workers in (1, _NODE_GPUS):
            _print_rates(shards, workers)
        _print_piece_rates(shards)
        for step_ms in _STEPS_MS:
            _print_waits(shards, step_ms)


def _print_rates(shards: str, workers: int) -> None:
    """Measure one worker of some: one of eight fetches a row group for every row of it."""
    for name, seconds in _on_one_core(read_rounds, shards, workers, _ROUNDS, _EXAMPLES):
        rates = median_and_range([_EXAMPLES / one for one in seconds], ".0f")
        print_row(
            f"examples per second and core, {name} time, 1 of {workers} workers", rates, "target >= 100"
        )


def _print_piece_rates(shards: str) -> None:
    """Measure a lone worker that reads batches of mono pieces."""
    for name, seconds in _on_one_core(read_piece_rounds, shards, _ROUNDS, _BATCHES):
        rates = [_BATCHES * _BATCH * _PIECE_SECONDS / one for one in seconds]
        title = f"audio seconds per second and core, {name} time, mono pieces of {_PIECE_SECONDS} s"
        print_row(title, median_and_range(rates, ".0f"), "target >= 100")


def _on_one_core(read: Callable[..., list[float]], *arguments: Any) -> Iterator[tuple[str, list[float]]]:
    """Yield the name of each clock and the seconds of the rounds, of a process of its own on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # inherited by the process
    try:
        for name, clock in (("wall", time.perf_counter), ("CPU", time.process_time)):
            yield name, in_own_process(read, *arguments, clock)
    finally:
        os.sched_setaffinity(0, cores)


def read_rounds(
    shards: str, workers: int, rounds: int, examples: int, clock: Callable[[], float]
) -> list[float]:
    """Return the seconds of each round of reading examples, as worker 0 of `workers`."""
    from pipelines.loading.config import LoaderConfig
    from pipelines.loading.shard_source import ShardSource

    source = ShardSource(shards, LoaderConfig(decode_threads=1, fetch_threads=1), epoch_examples=10**6)
    stream = source.read(0, range(0, 10**6, workers))
    (seconds,) = measure_rounds(lambda: [next(stream) for _ in range(examples)], rounds=rounds, clock=clock)
    return seconds


def read_piece_rounds(shards: str, rounds: int, batches: int, clock: Callable[[], float]) -> list[float]:
    """Return the seconds of each round of reading batches of mono pieces."""
    from apollo.training.augmentation import LevelsConfig
    from apollo.training.data import collate
    from pipelines.loading.config import LoaderConfig
    from pipelines.loading.shard_source import ShardSource

    config = LoaderConfig(
        decode_threads=1,
        fetch_threads=1,
        piece_seconds=_PIECE_SECONDS,
        levels=LevelsConfig(channels="mono"),
    )
    stream = ShardSource(shards, config, epoch_examples=10**6).read(0, range(10**6))

    def read() -> None:
        for _ in range(batches):
            collate(next(stream) for _ in range(_BATCH))

    (seconds,) = measure_rounds(read, rounds=rounds, clock=clock)
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
