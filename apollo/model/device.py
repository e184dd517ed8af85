"""Device and precision selection, synchronization, peak memory."""

import logging
import sys

import torch

from apollo.model.config import PRECISIONS

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """Return a device by name; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: the device is not available.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_there in there.items() if is_there)
    kind = name.partition(":")[0]
    if not there.get(kind, False):
        found = ", ".join(device for device, is_there in there.items() if is_there)
        raise ValueError(f"device {name!r} is not available; torch {torch.__version__} finds: {found}")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the linear layers; `auto` is bfloat16 if the hardware multiplies in it.

    Warns of bfloat16 where it is emulated.

    Raises:
        ValueError: the name is not in `PRECISIONS`.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}: it must be one of {', '.join(PRECISIONS)}")
    if name == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    if name == "bfloat16":
        warn_if_bfloat16_is_emulated(device)
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def warn_if_bfloat16_is_emulated(device: torch.device) -> None:
    """Log a warning if a device has no native bfloat16 arithmetic, as many CPUs."""
    if not has_native_bfloat16(device):
        logger.warning(
            f"precision is 'bfloat16', but {device.type} has no native bfloat16 arithmetic here: torch "
            "emulates it, up to a hundred times slower than float32. Use 'float32', or other hardware"
        )


def has_native_bfloat16(device: torch.device) -> bool:
    """Return whether a device has bfloat16 instructions, at least twice as fast as float32's."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def synchronize(device: torch.device) -> None:
    """Wait for all queued work of a device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Return peak memory in bytes: allocated on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # not available on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
