"""Shared by the benchmarks: printing, generated music, and CPU time, memory and requests of a process."""

import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar
from unittest import mock

if TYPE_CHECKING:
    from pipelines.preprocess.config import PreprocessConfig

T = TypeVar("T")
_POLL_SECONDS = 0.1


def print_row(name: str, value: str, target: str = "") -> None:
    """Print a measured value and its target."""
    print(f"{name:64s} {value:>30s}   {target}", flush=True)


def measure_rounds(
    *works: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Return the seconds of each work in each round: works alternate, after a round that is not counted."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds + 1):
        for work, taken in zip(works, seconds):
            start = clock()
            work()
            taken.append(clock() - start)
    return [taken[1:] for taken in seconds]


def median_and_range(values: Sequence[float], spec: str = ".2f") -> str:
    """Format values as `median (minimum-maximum)`."""
    return f"{statistics.median(values):{spec}} ({min(values):{spec}}-{max(values):{spec}})"


def album_config(scratch: Path, *, train: int, valid: int, rows: int = 64) -> "PreprocessConfig":
    """Return a configuration that renders this many recipes of the generated album to `scratch`/shards."""
    from pipelines.dataset.shards import ShardsConfig
    from pipelines.demo.album import album_folders
    from pipelines.preprocess.config import PreprocessConfig
    from pipelines.preprocess.recipes import RecipesConfig

    return PreprocessConfig(
        data=album_folders(scratch / "album"),
        output=str(scratch / "shards"),
        recipes=RecipesConfig(train=train, valid=valid, test_per_category=0),
        shards=ShardsConfig(rows=rows),
    )


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a new Python process and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_call, function, *arguments).result()


def _call(function: Callable[..., T], *arguments: Any) -> T:
    try:
        return function(*arguments)
    finally:
        if "ray" in sys.modules:  # a spawned process runs no exit handlers
            sys.modules["ray"].shutdown()


class Cost(NamedTuple):
    """Cost of a piece of work."""

    seconds: float  # wall time
    cpu_seconds: float  # of the process and its children
    start_bytes: int  # resident memory before it
    peak_bytes: int  # peak resident memory of the process
    requests: dict[str, int]  # calls of the storage by name


def measure(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> Cost:
    """Call `prepare` in a new process and measure the function that it returns."""
    return in_own_process(_measure, prepare, *arguments)


def _measure(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> Cost:
    import psutil

    from pipelines.preprocess.render import cpu_seconds

    work = prepare(*arguments)
    memory = psutil.Process().memory_info().rss
    with count_requests() as requests:
        wall, cpu = time.monotonic(), cpu_seconds()
        work()
        wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu
    # ru_maxrss would include the parent's memory at the fork
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return Cost(wall, cpu, memory, 1024 * peak, dict(requests))


@contextmanager
def count_requests() -> Iterator[Counter[str]]:
    """Count calls of `Folder` by name and, as `range`, reads of files that it opened."""
    from pipelines.storage.folder import Folder

    requests: Counter[str] = Counter()

    class CountedFile:
        def __init__(self, file: BinaryIO) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            requests["range"] += name in ("read", "read_buffer")
            return getattr(self._file, name)

        def __enter__(self) -> "CountedFile":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            requests[name] += 1
            result = method(*arguments, **options)
            return CountedFile(result) if name == "open" else result

        return call

    names = ("entries", "exists", "read", "write", "delete", "open")
    counting: dict[str, Any] = {name: counted(name, getattr(Folder, name)) for name in names}
    with mock.patch.multiple(Folder, **counting):
        yield requests


@contextmanager
def measure_actors(title: str = "ray::MapWorker") -> Iterator[dict[int, float]]:
    """Yield CPU seconds by process of Ray actors started meanwhile below this process, with their children.

    Up to the last tenth of a second of an actor that ends is missed.
    """
    seconds: dict[int, float] = {}
    before, ended = _actor_seconds(title).keys(), threading.Event()

    def poll() -> None:
        while not ended.wait(_POLL_SECONDS):
            seconds.update({pid: cpu for pid, cpu in _actor_seconds(title).items() if pid not in before})

    watcher = threading.Thread(target=poll)
    watcher.start()
    try:
        yield seconds
    finally:
        ended.set()
        watcher.join()


class StartedActor:
    """An actor that starts like one of preprocess and does nothing.

    It imports what these import, and its module no more: torch alone would double the time.
    """

    def __init__(self) -> None:
        from pipelines.preprocess import render, scan  # noqa: F401 - what the actors of preprocess import
        from pipelines.runtime.versions import software_versions

        software_versions(None)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row."""
        return row


def _actor_seconds(title: str) -> dict[int, float]:
    import psutil  # not at the top: other benchmarks run where torch and numpy alone are installed

    seconds: dict[int, float] = {}
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                times = process.cpu_times()
                seconds[process.pid] = times.user + times.system + times.children_user + times.children_system
        except (psutil.Error, IndexError):  # it has ended
            continue
    return seconds
