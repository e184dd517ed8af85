"""Load and memory of this machine, read from Linux's /proc, under the names of MLflow's system metrics.

MLflow's own monitor ends at the first request that fails, and needs a package that not every node has.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


class SystemMetrics:
    """Measures load between calls, and memory at a call."""

    def __init__(self) -> None:
        self._before = self._cpu_ticks()

    def read(self) -> dict[str, float]:
        """Give what can be read here; nothing where there is no /proc."""
        metrics: dict[str, float] = {}
        with suppress(OSError, ValueError, KeyError, IndexError):
            self._read_cpu(metrics)
            _read_memory(metrics)
        with suppress(Exception):  # a driver that answers with an error must not end what only watches
            _read_gpus(metrics)
        return metrics

    def _read_cpu(self, metrics: dict[str, float]) -> None:
        ticks = self._cpu_ticks()
        busy, total = (now - before for now, before in zip(ticks, self._before))
        self._before = ticks
        if total > 0:
            metrics["system/cpu_utilization_percentage"] = round(100 * busy / total, 1)

    def _cpu_ticks(self) -> tuple[int, int]:
        with suppress(OSError, ValueError, IndexError):
            ticks = [int(word) for word in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
            return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # minus idle and waiting for disks
        return 0, 0


def _read_memory(metrics: dict[str, float]) -> None:
    lines = (line.split() for line in (_PROC / "meminfo").read_text().splitlines())
    kibibytes = {words[0]: int(words[1]) for words in lines}
    total, used = kibibytes["MemTotal:"], kibibytes["MemTotal:"] - kibibytes["MemAvailable:"]
    metrics["system/system_memory_usage_megabytes"] = round(used * 1024 / 1e6, 1)
    metrics["system/system_memory_usage_percentage"] = round(100 * used / total, 1)
    pages = int((_PROC / "self" / "statm").read_text().split()[1])
    metrics["system/process_memory_usage_megabytes"] = round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _read_gpus(metrics: dict[str, float]) -> None:
    """Read what torch holds on each GPU that this process uses; asking others would begin to use them."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for number in range(torch.cuda.device_count()):
        if reserved := torch.cuda.memory_reserved(number):
            metrics[f"system/gpu_{number}_reserved_megabytes"] = round(reserved / 1e6, 1)
