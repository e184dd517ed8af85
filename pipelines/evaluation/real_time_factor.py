"""The real-time factor as the paper has it: milliseconds for one second of mono at 44.1 kHz."""

import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.evaluation.analysis.tables import ModelFacts
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.models import EvaluatedModel
from pipelines.registry.model_bundle import ModelBundle, unpack
from pipelines.storage.folder import Folder

logger = logging.getLogger(__name__)

_FOLDER = "rtf"
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
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else processor_name()
    return RealTimeFactor(1000 * statistics.fmean(times), len(times), name, torch.get_num_threads())


def read_rtf(output: Folder, model: EvaluatedModel) -> dict[str, Any]:
    """Return the measurements of a model by device; empty if there are none of these weights."""
    try:
        found: dict[str, Any] = json.loads(output.read(f"{_FOLDER}/{model.name}.json"))
    except (OSError, ValueError):
        return {}
    return found if found.pop("digest", None) == model.digest else {}


def measure_models(
    config: EvaluateConfig, output: Folder, models: Sequence[EvaluatedModel], *, use_gpus: bool
) -> None:
    """Measure what `read_rtf` has not, one model and device at a time on an idle node.

    Args:
        config: Of the evaluation.
        output: Of the evaluation.
        models: Those with weights are measured.
        use_gpus: Measure on a GPU too.
    """
    from pipelines.evaluation.tune_trials import run_on_idle_node

    for model in (model for model in models if model.bundle and config.rtf_runs):
        found = {"digest": model.digest, **read_rtf(output, model)}
        for device in (name for name in (("cpu", "cuda") if use_gpus else ("cpu",)) if name not in found):
            arguments = model.bundle, config.precision, device, config.rtf_runs, config.rtf_seconds
            measured = run_on_idle_node(measure_rtf, *arguments, gpu=device == "cuda")
            if measured is None:
                logger.warning(f"no node was idle to measure the real-time factor of {model.name} ({device})")
                continue
            found[device] = asdict(measured)
            logger.info(
                f"{model.name}: {measured.milliseconds:.1f} ms for a second of mono, {measured.device}"
            )
        if len(found) > 1:
            output.write(f"{_FOLDER}/{model.name}.json", json.dumps(found, indent=1).encode())


def collect_facts(output: Folder, models: Sequence[EvaluatedModel]) -> dict[str, ModelFacts]:
    """Return the size and speed of models by name."""
    measured = {model.name: read_rtf(output, model) for model in models}
    return {
        model.name: ModelFacts(
            parameters=model.parameters,
            rtf_ms={device: times["milliseconds"] for device, times in measured[model.name].items()},
            rtf_runs={device: times["runs"] for device, times in measured[model.name].items()},
        )
        for model in models
    }


def processor_name() -> str:
    """Return the name of this machine's CPU."""
    import platform

    try:
        with open("/proc/cpuinfo") as stream:
            return next(line.partition(":")[2].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
