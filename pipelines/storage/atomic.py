"""Atomic writes of local files: under a temporary name, synced, renamed; whole or as before."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".part"
_COPY_BYTES = 1 << 22


@contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when the block ends without an error.

    Missing folders are made. After an error, or when the process is killed, `path` is as it was.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def write_atomic(path: str | Path, content: bytes | BinaryIO) -> None:
    """Write bytes, or what a stream still holds, as `open_atomic` does."""
    with open_atomic(path) as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            shutil.copyfileobj(content, stream, _COPY_BYTES)


def temporary_files(folder: str) -> Iterator[str]:
    """Return the paths of temporary files of ours below a folder; other programs' are not found."""
    for parent, _, names in os.walk(folder):
        yield from (os.path.join(parent, name) for name in names if _is_temporary(name))


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def _sync_folder(folder: str) -> None:
    """Make a rename in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
