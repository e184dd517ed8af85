"""Memory of this process and work of the actors of a local Ray, as the kernel counts them; Linux."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAUSE_SECONDS = 0.1


def memory_bytes(name: str) -> int:
    """Give this process's memory: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


@contextmanager
def watch_actors(title: str = "ray::MapWorker") -> Iterator[dict[int, float]]:
    """Give the processor time of actors below this process, children included, by process; seconds.

    What an actor worked before it got its title counts, for so it starts; one that has its title already
    counts nothing. The last tenth of a second of one that ends may be missed.
    """
    worked: dict[int, float] = {}
    before = _look(title)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_PAUSE_SECONDS):
            now = _look(title)
            worked.update({process: now[process] for process in now.keys() - before.keys()})

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield worked
    finally:
        ended.set()
        watcher.join()


def _look(title: str) -> dict[int, float]:
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            if (entry / "cmdline").read_bytes().startswith(title.encode()):
                times[int(entry.name)] = sum(map(int, fields[11:15])) / _TICKS
        except OSError:  # it ended meanwhile
            continue
    return {process: seconds for process, seconds in times.items() if os.getpid() in _above(process, parents)}


def _above(process: int, parents: dict[int, int]) -> set[int]:
    found = set()
    while process in parents and process not in found:
        found.add(process)
        process = parents[process]
    return found
