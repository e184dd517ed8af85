"""Folders on local disks and on object stores, with atomic writes.

A name is a path relative to the folder, with forward slashes. Local writes are atomic by `storage.atomic`; in
an object store an object is visible only when its upload is complete, so one put is enough
(`storage.object_store` describes retries and errors).
"""

import hashlib
import os
import posixpath
import shutil
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, cast
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.errors import UsageError
from pipelines.storage.atomic import temporary_files, write_atomic
from pipelines.storage.object_store import StoreError, connect, read_ranges, translate_store_errors

_COPY_BYTES = 1 << 22


def is_uri(location: str) -> bool:
    """Return whether a location has a scheme (`s3://bucket/x`) and is not a path on this machine."""
    scheme, separator, _ = location.partition("://")
    return bool(separator) and scheme.isalnum()


def join(location: str, *names: str) -> str:
    """Append unencoded names to a path or URI; in a URI they are percent-encoded."""
    if not is_uri(location):
        return posixpath.join(location, *names)
    address, question, query = location.partition("?")
    return posixpath.join(address, *(quote(name) for name in names)) + question + query


def open_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """Return the pyarrow file system of a path or URI, and the path inside it.

    Raises:
        UsageError: pyarrow does not know the scheme, or the URI contains credentials.
    """
    if not is_uri(location):
        return pafs.LocalFileSystem(), os.path.abspath(location)
    try:
        return connect(location)
    except UsageError:
        raise
    except (ValueError, OSError) as error:
        raise UsageError(
            f"cannot open {location!r}: {error}. Use a local path, s3://bucket/path or gs://bucket/path"
        ) from error


@dataclass(frozen=True)
class Entry:
    """One file of a listing."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Folder:
    """A folder at a path or URI; cheap to create, safe to pickle.

    Args:
        location: Absolute path or URI.
    """

    location: str

    @cached_property
    def _target(self) -> tuple[pafs.FileSystem, str]:
        return open_filesystem(self.location)

    def __getstate__(self) -> dict[str, str]:  # without the file system handle, which is of one process
        return {"location": self.location}

    @property
    def is_local(self) -> bool:
        """Whether the folder is a path on this machine (or on a disk that it mounts)."""
        return not is_uri(self.location) or self.location.startswith("file://")

    def path(self, name: str = "") -> str:
        """Return the path of a name inside the file system.

        Raises:
            ValueError: it would be outside the folder.
        """
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise ValueError(f"{name!r} is not a path below {self.location}")
        return posixpath.join(self._target[1], name) if name else self._target[1]

    def _translate_errors(self, doing: str, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.is_local else translate_store_errors(doing, join(self.location, name))

    def entries(self, name: str = "", *, recursive: bool = False) -> list[Entry]:
        """Return the files below a name, sorted; an empty list if there are none."""
        filesystem, root = self._target
        selector = pafs.FileSelector(self.path(name), allow_not_found=True, recursive=recursive)
        with self._translate_errors("list", name):
            infos = filesystem.get_file_info(selector)
        found = [
            Entry(posixpath.relpath(info.path, root), info.size or 0, info.mtime_ns or 0)
            for info in infos
            if info.type == pafs.FileType.File
        ]
        return sorted(found, key=lambda entry: entry.name)

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        with self._translate_errors("look for", name):
            return bool(self._target[0].get_file_info(self.path(name)).type == pafs.FileType.File)

    def read(self, name: str) -> bytes:
        """Return the content of a file; one request to an object store."""
        with self._translate_errors("read", name), self._target[0].open_input_file(self.path(name)) as file:
            return bytes(file.read())

    def read_renamed(self, name: str, *, old_name: str) -> bytes:
        """Return the content of a file that older versions wrote under another name, with a warning then."""
        if self.exists(name) or not self.exists(old_name):
            return self.read(name)
        text = f"{join(self.location, old_name)} is now called {name}: rename it, the next release ignores it"
        warnings.warn(text, FutureWarning, stacklevel=1)  # Python shows the same text once
        return self.read(old_name)

    def open(self, name: str) -> BinaryIO:
        """Open a file for random access; each read is one request to an object store."""
        with self._translate_errors("open", name):
            return cast(BinaryIO, self._target[0].open_input_file(self.path(name)))

    def get(self, name: str, local: str) -> None:
        """Download a file to a local path, without holding it in memory."""
        with self._translate_errors("read", name):
            file = self._target[0].open_input_file(self.path(name))
        with read_ranges(file, join(self.location, name)) as source, open(local, "wb") as copy:
            shutil.copyfileobj(source, copy, _COPY_BYTES)

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically: it has this content afterwards, or is as before."""
        path = self.path(name)
        if self.is_local:
            write_atomic(path, content)
            return
        with self._translate_errors("write", name), self._target[0].open_output_stream(path) as stream:
            stream.write(content)

    def put(self, name: str, local: str) -> None:
        """Upload a local file, atomically as `write`, without holding it in memory."""
        path = self.path(name)
        if self.is_local:
            with open(local, "rb") as source:
                write_atomic(path, source)
            return
        # in one call: an error between two writes would complete the upload of what was written so far
        with (
            self._translate_errors("write", name),
            pa.memory_map(local) as source,
            self._target[0].open_output_stream(path) as stream,
        ):
            stream.write(source.read_buffer())

    def verify_upload(self, name: str, sha256: str) -> None:
        """Read an uploaded object back and compare its digest; does nothing on a disk.

        Args:
            name: The object.
            sha256: Digest of what was uploaded, hexadecimal.

        Raises:
            StoreError: the object is missing or differs.
        """
        if self.is_local:
            return
        found = hashlib.sha256()
        with read_ranges(self.open(name), join(self.location, name)) as stream:
            while block := stream.read(_COPY_BYTES):
                found.update(block)
        if found.hexdigest() != sha256:
            raise StoreError(f"{join(self.location, name)} differs from what was uploaded")

    def revision(self, name: str) -> str:
        """Return what changes with a file's content: a store's ETag, on a disk the time of modification.

        One request to an object store, of no content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not self.is_local:
            with self._translate_errors("look for", name):
                metadata = self._target[0].open_input_file(self.path(name)).metadata() or {}
            if etag := metadata.get(b"ETag") or metadata.get("ETag"):
                return etag.decode() if isinstance(etag, bytes) else str(etag)
        with self._translate_errors("look for", name):
            info = self._target[0].get_file_info(self.path(name))
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(join(self.location, name))
        return f"mtime_ns {info.mtime_ns}"

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        with suppress(FileNotFoundError), self._translate_errors("delete", name):
            self._target[0].delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Delete a folder and its content if it exists."""
        with suppress(FileNotFoundError), self._translate_errors("delete", name):
            self._target[0].delete_dir(self.path(name))

    def delete_temporary(self) -> None:
        """Delete temporary files of killed writers."""
        if not self.is_local or not os.path.isdir(self.path()):
            return
        for found in temporary_files(self.path()):
            with suppress(FileNotFoundError):
                os.unlink(found)
