"""Folders on local disks and on object stores, with writes that are whole or absent.

A name is everything below the folder, with forward slashes. Local writes go to a temporary name, are synced
and renamed; object stores show an object only when its upload is complete, so there one put is enough
(`pipelines.storage.object_store` tells what happens when they fail).
"""

import hashlib
import os
import posixpath
import shutil
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
    """Tell a location with a scheme (`s3://bucket/x`) from a path on this machine."""
    scheme, separator, _ = location.partition("://")
    return bool(separator) and scheme.isalnum()


def join(location: str, *names: str) -> str:
    """Append names, as a file system gives them, to a path or URI; in a URI they are percent-encoded."""
    if not is_uri(location):
        return posixpath.join(location, *names)
    address, question, query = location.partition("?")
    return posixpath.join(address, *(quote(name) for name in names)) + question + query


def open_filesystem(location: str) -> tuple[pafs.FileSystem, str]:
    """Find the pyarrow file system of a path or URI, and the path inside it.

    Raises:
        UsageError: the scheme is not one that pyarrow knows, or the URI holds credentials.
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
    """A folder named by a path or URI; cheap to make, safe to pickle.

    Args:
        location: Absolute path or URI.
    """

    location: str

    @cached_property
    def _target(self) -> tuple[pafs.FileSystem, str]:
        return open_filesystem(self.location)

    def __getstate__(self) -> dict[str, str]:  # a file system handle stays on the machine that opened it
        return {"location": self.location}

    @property
    def is_local(self) -> bool:
        """Whether the folder is a path on this machine (or on a disk that it mounts)."""
        return not is_uri(self.location) or self.location.startswith("file://")

    def path(self, name: str = "") -> str:
        """Give the path of a name inside the file system.

        Raises:
            ValueError: it would be outside of the folder.
        """
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise ValueError(f"{name!r} is no name below {self.location}")
        return posixpath.join(self._target[1], name) if name else self._target[1]

    def _translate_errors(self, doing: str, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.is_local else translate_store_errors(doing, join(self.location, name))

    def entries(self, name: str = "", *, recursive: bool = False) -> list[Entry]:
        """List the files below a name, sorted; nothing there is an empty list."""
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
        """Tell whether a file of that name is there."""
        with self._translate_errors("look for", name):
            return bool(self._target[0].get_file_info(self.path(name)).type == pafs.FileType.File)

    def read(self, name: str) -> bytes:
        """Read a whole file; of an object store in one request."""
        with self._translate_errors("read", name), self._target[0].open_input_file(self.path(name)) as file:
            return bytes(file.read())

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading at any position, in requests as large as what is asked for."""
        with self._translate_errors("open", name):
            return cast(BinaryIO, self._target[0].open_input_file(self.path(name)))

    def get(self, name: str, local: str) -> None:
        """Bring a file to a local path, without holding it in memory."""
        with self._translate_errors("read", name):
            file = self._target[0].open_input_file(self.path(name))
        with read_ranges(file, join(self.location, name)) as source, open(local, "wb") as copy:
            shutil.copyfileobj(source, copy, _COPY_BYTES)

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file: afterwards it is there with this content, or as it was before."""
        path = self.path(name)
        if self.is_local:
            write_atomic(path, content)
            return
        with self._translate_errors("write", name), self._target[0].open_output_stream(path) as stream:
            stream.write(content)

    def put(self, name: str, local: str) -> None:
        """Bring a local file here under a name, as `write` does, without holding it in memory."""
        path = self.path(name)
        if self.is_local:
            with open(local, "rb") as source:
                write_atomic(path, source)
            return
        # in one call: leaving a stream, by whatever error, ends the upload, and what it had so far would stay
        with (
            self._translate_errors("write", name),
            pa.memory_map(local) as source,
            self._target[0].open_output_stream(path) as stream,
        ):
            stream.write(source.read_buffer())

    def verify_upload(self, name: str, sha256: str) -> None:
        """Read back what was written to an object store; on a disk nothing is done, for there it was synced.

        Args:
            name: What was written.
            sha256: Of what it must hold, hexadecimal.

        Raises:
            StoreError: it is not there, or holds something else.
        """
        if self.is_local:
            return
        found = hashlib.sha256()
        with read_ranges(self.open(name), join(self.location, name)) as stream:
            while block := stream.read(_COPY_BYTES):
                found.update(block)
        if found.hexdigest() != sha256:
            raise StoreError(f"{join(self.location, name)} does not hold what was written to it")

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is fine."""
        with suppress(FileNotFoundError), self._translate_errors("delete", name):
            self._target[0].delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Delete a folder with all in it; one that is not there is fine."""
        with suppress(FileNotFoundError), self._translate_errors("delete", name):
            self._target[0].delete_dir(self.path(name))

    def delete_temporary(self) -> None:
        """Delete what a killed writer left under temporary names."""
        if not self.is_local or not os.path.isdir(self.path()):
            return
        for found in temporary_files(self.path()):
            with suppress(FileNotFoundError):
                os.unlink(found)
