"""Choosing where and how precisely to compute, and watching it."""

import sys

import torch

from apollo.model.config import PRECISIONS


def choose_device(name: str) -> torch.device:
    """Turn a name into a device; `auto` takes a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_there in there.items() if is_there)
    kind = name.partition(":")[0]
    if not there.get(kind, False):
        found = ", ".join(device for device, is_there in there.items() if is_there)
        raise ValueError(f"device {name!r} is not here; torch {torch.__version__} finds: {found}")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn a name into the dtype of the linear layers; `auto` is bfloat16 where hardware multiplies in it.

    Raises:
        ValueError: it is no precision.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}: it must be one of {', '.join(PRECISIONS)}")
    if name == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def has_native_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16, which are at least twice as fast as float32's."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """Give the most memory used: allocated on a GPU, resident in this process since its start on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # there is none on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
