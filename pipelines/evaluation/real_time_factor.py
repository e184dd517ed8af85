"""The real-time factor as the paper has it: milliseconds for one second of mono at 44.1 kHz."""

import statistics
import time
from dataclasses import dataclass

from pipelines.registry.model_bundle import ModelBundle, unpack

_WARM_UP_RUNS = 3


@dataclass(frozen=True)
class RealTimeFactor:
    """Speed of a model.

    Args:
        milliseconds: For one second of mono audio, mean over the runs.
        runs: Number of runs.
        device: Name of the hardware.
        threads: CPU threads.
    """

    milliseconds: float
    runs: int
    device: str
    threads: int


def measure_rtf(
    bundle: ModelBundle, precision: str, device: str, runs: int, seconds: float
) -> RealTimeFactor:
    """Measure the real-time factor of a model; the caller keeps the machine otherwise idle.

    Args:
        bundle: The model.
        precision: Of the linear layers.
        device: `cpu` or `cuda`.
        runs: Maximum number of runs.
        seconds: Maximum duration without warm-up; at least one run is made.
    """
    import torch

    from apollo.model import device as devices

    torch.backends.cudnn.allow_tf32 = False  # as scores are made
    place = devices.choose_device(device)
    dtype = devices.choose_precision(precision, place)
    generator = unpack(bundle).with_precision(dtype).to(place)
    rate = generator.config.sample_rate
    samples = 0.1 * torch.randn(1, rate, generator=torch.Generator().manual_seed(0)).to(place)
    times: list[float] = []

    def run() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            generator(samples)
        devices.synchronize(place)
        return time.perf_counter() - began

    for _ in range(_WARM_UP_RUNS):
        run()
    end = time.monotonic() + seconds
    while len(times) < runs and (not times or time.monotonic() < end):
        times.append(run())
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else _processor_name()
    return RealTimeFactor(1000 * statistics.fmean(times), len(times), name, torch.get_num_threads())


def _processor_name() -> str:
    import platform

    try:
        with open("/proc/cpuinfo") as stream:
            return next(line.partition(":")[2].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
