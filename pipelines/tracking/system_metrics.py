"""CPU and memory use of this machine, under the names of MLflow's system metrics.

MLflow's own monitor stops at the first failed request, and waits for the server when it is closed; these
values go through the log on disk as all others do.
"""

import sys
from contextlib import suppress

import psutil


class SystemMetrics:
    """Reads CPU use since the last call in this thread, and memory use."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        psutil.cpu_percent()  # starts the first interval

    def read(self) -> dict[str, float]:
        """Return the metrics by name.

        Raises:
            psutil.Error, OSError: the system does not provide them.
        """
        memory = psutil.virtual_memory()
        metrics = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": round((memory.total - memory.available) / 1e6, 1),
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_memory_usage_megabytes": round(self._process.memory_info().rss / 1e6, 1),
        }
        with suppress(Exception):  # whatever a driver raises
            _read_gpus(metrics)
        return metrics


def _read_gpus(metrics: dict[str, float]) -> None:
    """Read what torch has reserved on the GPUs of this process; querying others would initialize them."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for number in range(torch.cuda.device_count()):
        if reserved := torch.cuda.memory_reserved(number):
            metrics[f"system/gpu_{number}_reserved_megabytes"] = round(reserved / 1e6, 1)
