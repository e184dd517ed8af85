"""Object stores: how they are connected to, how often they are asked again, and what is said in the end.

A request that is refused for the moment (503, 500, 429), cut off or not answered is made again by the client
of Arrow, with growing pauses, AWS_MAX_ATTEMPTS times in all. What fails then is a StoreError: it says nothing
about what lies in the store, so no song and no recipe is given up for it.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.errors import UsageError
from pipelines.redaction import has_secret

ATTEMPTS = "AWS_MAX_ATTEMPTS"
_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of the machine"
_MOST_ATTEMPTS = 8
_CONNECT_SECONDS, _SILENT_SECONDS = 5.0, 10.0  # Arrow's 1 and 3 are short for a store that is busy
_RANGE_BYTES = 1 << 20  # an excerpt of 3 s, at 44.1 kHz, 24 bits, stereo, is 0.76 MiB


class StoreError(OSError):
    """A store has not done what it was asked, as often as it was asked; the text names what and why."""


def refuse_credentials(location: str) -> None:
    """Refuse a URI with a password or a key: it would be in every plan, record, log and report.

    Raises:
        UsageError: which does not repeat it.
    """
    scheme, _, address = location.partition("://")
    named = scheme in ("s3", "gs") and "@" in address.partition("/")[0]  # of Azure's, a container is named so
    if named or has_secret(location):
        bucket = address.partition("?")[0].rpartition("@")[2].partition("/")[0]
        raise UsageError(
            f"the URI of {bucket!r} holds credentials, which would be in logs and fingerprints: give them by "
            f"the environment ({_CREDENTIALS})"
        )


def connect(location: str) -> tuple[pafs.FileSystem, str]:
    """Find the file system of a URI, and the path inside it.

    Raises:
        UsageError: the URI holds credentials.
        ValueError: its scheme or an option is unknown.
        OSError: nothing is there to connect to.
    """
    refuse_credentials(location)
    # a raw blank or letter beyond ASCII in what a user typed is fine; a raw % is not, it begins a code
    uri = quote(location, safe="/:?=&%@+,;~#[]!$'()*")
    parts = urlsplit(uri)
    if parts.scheme != "s3":
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    store = _connect_s3(parts.netloc, parts.query, endpoint, _attempts())
    return store, unquote(parts.netloc + parts.path).rstrip("/")


def _attempts() -> int:
    told = os.environ.get(ATTEMPTS) or str(_MOST_ATTEMPTS)
    if not told.isdecimal() or not int(told):
        raise UsageError(f"{ATTEMPTS} is {told!r}: give how often a request is made at most, 1 or more")
    return int(told)


@lru_cache(maxsize=64)
def _connect_s3(bucket: str, query: str, endpoint: str, attempts: int) -> pafs.S3FileSystem:
    """Connect to the store of a bucket; once a process, for its connections are worth keeping.

    And Arrow makes a new client wait until no request of another is under way, which may take minutes.
    """
    filesystem, _ = pafs.FileSystem.from_uri(f"s3://{bucket}?{query}")
    _, (settings,) = filesystem.__reduce__()
    settings |= {
        "allow_delayed_open": True,  # small objects in one put instead of three calls
        "connect_timeout": _CONNECT_SECONDS,
        "request_timeout": _SILENT_SECONDS,
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    }
    return pafs.S3FileSystem(**settings)


@contextmanager
def translate_store_errors(doing: str, location: str) -> Iterator[None]:
    """Raise what a store fails with as a StoreError.

    Args:
        doing: What is done, as in "write".
        location: With what; a URI.

    Raises:
        StoreError: for every error of the store, but for what is not there.
    """
    try:
        yield
    except (FileNotFoundError, StoreError):
        raise
    except OSError as error:
        raise StoreError(f"cannot {doing} {location}: {error}") from None


class _Ranges(io.RawIOBase):
    """An object as a raw stream: every read is a request for a range."""

    def __init__(self, stream: pa.NativeFile, location: str) -> None:
        self._stream, self._location = stream, location

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with translate_store_errors("read", self._location):
            return int(self._stream.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())


def read_ranges(stream: pa.NativeFile, location: str) -> io.BufferedReader:
    """Read an object in ranges of a megabyte: readers of audio ask for kilobytes."""
    return io.BufferedReader(_Ranges(stream, location), _RANGE_BYTES)
