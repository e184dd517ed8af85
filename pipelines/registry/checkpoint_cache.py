"""Local copies of remote checkpoints: fetched into a temporary folder, verified, then renamed."""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from apollo.checkpoints.checkpoint import MANIFEST, verify
from apollo.checkpoints.container import CheckpointError


def cache_folder(name: str) -> Path:
    """Return a folder of this user's cache (`XDG_CACHE_HOME`, by default `~/.cache`) and create it."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apollo" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_intact(folder: Path, files: Sequence[str], manifest: bytes | None = None) -> bool:
    """Return whether a folder holds a checkpoint whose files match its manifest.

    Args:
        folder: Of the checkpoint.
        files: Names that it must have.
        manifest: Content that its manifest must have; None accepts any.
    """
    try:
        verify(folder, files)
        return manifest is None or (folder / MANIFEST).read_bytes() == manifest
    except CheckpointError:
        return False


def fetch(
    target: Path, files: Sequence[str], download: Callable[[Path], Path], *, manifest: bytes | None = None
) -> Path:
    """Return `target`, downloaded unless it is intact already; a damaged copy is replaced.

    Args:
        target: Folder of the local copy.
        files: Names that it must have beside the manifest.
        download: Called with an empty temporary folder; returns the checkpoint's folder in it, or itself.
        manifest: Content of the manifest, as far as it is known.

    Raises:
        CheckpointError: the downloaded files do not match their manifest.
    """
    if is_intact(target, files, manifest):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        empty = Path(scratch, "fetched")
        empty.mkdir()
        fresh = download(empty)
        verify(fresh, files)
        if is_intact(target, files, manifest):  # another process was faster
            return target
        with suppress(FileNotFoundError):
            target.rename(Path(scratch, "replaced"))
        try:
            fresh.rename(target)
        except OSError:
            if not is_intact(target, files, manifest):
                raise
    return target
