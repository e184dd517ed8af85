"""Files of checkpoints: digests, durable writes, safetensors. The package safetensors is optional."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from apollo.checkpoints.published_format import CheckpointError


def digest(path: Path) -> str:
    """Give the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make what was written to a file or folder last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as a safetensors file.

    Raises:
        CheckpointError: the package is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(f"{path}: writing it needs safetensors: pip install safetensors") from error
    whole = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    safetensors.torch.save_file(whole, path)


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read a safetensors file.

    Raises:
        CheckpointError: the package is not installed, or the file is damaged.
    """
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it needs safetensors: pip install safetensors") from error
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or a damaged one: {error}") from error
