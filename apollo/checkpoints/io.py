"""File operations of checkpoints: SHA-256, atomic writes, safetensors."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from apollo.checkpoints.container import CheckpointError


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; what is made there takes its name when the block ends.

    All of it is flushed to disk before it is renamed. A block that raises leaves nothing behind.

    Args:
        target: A file, which may exist; or a folder, which must not.
    """
    temporary = target.with_name(f".{target.name[:40]}-{secrets.token_hex(4)}.part")
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            fsync(path)
        temporary.replace(target)
        fsync(target.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as a safetensors file.

    Raises:
        CheckpointError: the package is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(f"{path}: writing needs safetensors: pip install safetensors") from error
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
        raise CheckpointError(f"{path}: reading needs safetensors: pip install safetensors") from error
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is damaged: {error}") from error
