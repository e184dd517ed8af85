"""Check the packages, ffmpeg, device and speed of this machine: `apollo doctor`."""

import importlib.util
import platform
import time
from collections.abc import Iterator

import torch

from apollo.audio.ffmpeg import FfmpegError, FfmpegMissingError, ffmpeg_version, find_ffmpeg
from apollo.checkpoints.checkpoint import load
from apollo.model.config import COMPACT
from apollo.model.device import choose_device, choose_precision

_PACKAGES = {
    "soundfile": "reads and writes audio files",
    "soxr": "resamples outputs",
    "mutagen": "tags",
    "matplotlib": "--picture",
    "tqdm": "the progress bar",
    "huggingface_hub": "downloads checkpoints",
    "fastapi": "serves apollo web",
    "safetensors": "reads .safetensors",
}
_REQUIRED = ("soundfile", "soxr", "mutagen")
_EXTRAS = {
    "huggingface_hub": "'apollo-restoration[hub]'",
    "fastapi": "'apollo-restoration[web]'",
}  # by package; the others are installed by their names


def check_environment(device_name: str, precision_name: str) -> Iterator[tuple[str, str, bool]]:
    """Check everything that restoring needs.

    Yields:
        A name, what was found, and whether it is sufficient.
    """
    yield "python", platform.python_version(), True
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads", True
    for package, purpose in _PACKAGES.items():
        installed = importlib.util.find_spec(package) is not None
        state = "installed" if installed else f"not installed: pip install {_EXTRAS.get(package, package)}"
        yield package, f"{state} ({purpose})", installed or package not in _REQUIRED
    try:
        yield "ffmpeg", ffmpeg_version(find_ffmpeg()), True
    except (ImportError, FfmpegError, FfmpegMissingError) as error:
        yield "ffmpeg", f"{error}: only WAV, AIFF and FLAC at 44.1 kHz can be restored", False
    device = choose_device(device_name)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    yield "device", f"{device} ({name})", True
    precision = choose_precision(precision_name, device)
    yield "precision", str(precision).removeprefix("torch."), True
    seconds = measure_real_time_factor(device, precision)
    speed = f"{1 / seconds:.1f} x real time in stereo with the model {COMPACT}"
    yield "speed", speed, True


@torch.inference_mode()
def measure_real_time_factor(device: torch.device, precision: torch.dtype) -> float:
    """Return the real-time factor in stereo of the model in the package, after a warm-up."""
    generator = load().with_precision(precision).to(device)
    audio = torch.randn(2, generator.config.sample_rate, device=device) * 0.1
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        generator(audio)[0, 0].item()  # synchronizes with the device
        seconds.append(time.perf_counter() - began)
    return seconds[-1]
