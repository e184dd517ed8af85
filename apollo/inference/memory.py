"""Free memory of a device, and errors that say that there is too little of it.

On a CPU, memory is free if neither the system nor a control group of this process (a container's limit) lacks
it. Systems without /proc report nothing.
"""

import errno
from collections.abc import Iterator
from pathlib import Path

import torch

_UNLIMITED_BYTES = 1 << 60  # groups without a limit report the largest number of pages
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, MPS
    "can't allocate memory",  # torch on POSIX systems
    "not enough memory",  # torch on Windows
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN, which does not say why
    "can't start new thread",  # no memory for its stack
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be allocated, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):  # of a process that cannot be started
        return error.errno == errno.ENOMEM
    return type(error) is RuntimeError and any(text in str(error) for text in _OUT_OF_MEMORY)


def free_memory_bytes(device: torch.device) -> int | None:
    """Return the memory that this process can still take on a device, None if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return free_system_memory_bytes() if device.type == "cpu" else None


def free_system_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the main memory that this process can still take, None if unknown.

    Args:
        root: Folder with `proc` and `sys`.
    """
    known = [free for free in (_available_bytes(root), *_free_in_groups(root)) if free is not None]
    return max(min(known), 0) if known else None


def _available_bytes(root: Path) -> int | None:
    """Return what the kernel estimates to be available without swapping."""
    return _read_field(root / "proc/meminfo", "MemAvailable:", unit=1024)


def _free_in_groups(root: Path) -> Iterator[int | None]:
    """Yield what is left in the control groups of this process and in the groups that contain them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2
            files = ("memory.max", "memory.current", "inactive_file")
            mount = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount):  # a container sees its own group as the mount itself
                yield _free_in_group(folder, *files)


def _free_in_group(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    limit, usage = _read_number(folder / limit_name), _read_number(folder / usage_name)
    if limit is None or usage is None or limit >= _UNLIMITED_BYTES:
        return None
    cache = _read_field(folder / "memory.stat", cache_name) or 0  # the kernel frees it before it kills
    return limit - usage + min(cache, usage)


def _read_number(path: Path) -> int | None:
    """Return the number in a file; None if there is none, as for `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _read_field(path: Path, name: str, *, unit: int = 1) -> int | None:
    """Return the number behind a name in a file of names and numbers."""
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == name:
                return int(words[1]) * unit
    except (OSError, ValueError):
        pass
    return None
