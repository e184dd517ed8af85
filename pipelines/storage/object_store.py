"""S3 and GCS access: connections, retries, errors.

Arrow's client retries a request that is refused temporarily (503, 500, 429), cut off or not answered, with
growing pauses, AWS_MAX_ATTEMPTS times in all. A request that still fails is a StoreError: it says nothing
about the stored data, so no song and no recipe is rejected for it.
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

from apollo.audio.rejects import RejectKind
from pipelines.errors import UsageError
from pipelines.redaction import has_secret

ATTEMPTS = "AWS_MAX_ATTEMPTS"
_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of the machine"
_MOST_ATTEMPTS = 8
_CONNECT_SECONDS, _SILENT_SECONDS = 5.0, 10.0  # Arrow's 1 and 3 are short for a store that is busy
_RANGE_BYTES = 1 << 20  # an excerpt of 3 s, at 44.1 kHz, 24 bits, stereo, is 0.76 MiB


class StoreError(OSError):
    """A request to a store failed after all retries; the text names the operation, the URI and the cause."""

    kind = RejectKind.UNOPENED  # if it is why audio is rejected


def refuse_credentials(location: str) -> None:
    """Refuse a URI that contains a password or a key: it would be in plans, records, logs and reports.

    Raises:
        UsageError: the text does not contain the secret.
    """
    scheme, _, address = location.partition("://")
    named = scheme in ("s3", "gs") and "@" in address.partition("/")[0]  # in Azure's, a container
    if named or has_secret(location):
        bucket = address.partition("?")[0].rpartition("@")[2].partition("/")[0]
        raise UsageError(
            f"the URI of {bucket!r} contains credentials, which would be in logs and fingerprints: set them "
            f"in the environment ({_CREDENTIALS})"
        )


def connect(location: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a URI, and the path inside it.

    Raises:
        UsageError: the URI contains credentials.
        ValueError: its scheme or an option is unknown.
        OSError: there is nothing to connect to.
    """
    refuse_credentials(location)
    # unencoded blanks and non-ASCII letters are encoded here; a % begins an encoded character
    uri = quote(location, safe="/:?=&%@+,;~#[]!$'()*")
    parts = urlsplit(uri)
    if parts.scheme != "s3":
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    store = _connect_s3(parts.netloc, parts.query, endpoint, _attempts())
    return store, unquote(parts.netloc + parts.path).rstrip("/")


def _attempts() -> int:
    value = os.environ.get(ATTEMPTS) or str(_MOST_ATTEMPTS)
    if not value.isdecimal() or not int(value):
        raise UsageError(
            f"{ATTEMPTS} is {value!r}: give the maximum number of attempts for a request, 1 or more"
        )
    return int(value)


@lru_cache(maxsize=64)
def _connect_s3(bucket: str, query: str, endpoint: str, attempts: int) -> pafs.S3FileSystem:
    """Connect to the store of a bucket, once per process, to reuse its connections.

    Arrow also makes a new client wait until no request of another one is in flight, which may take minutes.
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
def translate_store_errors(operation: str, location: str) -> Iterator[None]:
    """Raise errors of a store as StoreError.

    Args:
        operation: Verb for the text, such as "write".
        location: URI.

    Raises:
        StoreError: for every error of the store but FileNotFoundError.
    """
    try:
        yield
    except (FileNotFoundError, StoreError):
        raise
    except OSError as error:
        raise StoreError(f"cannot {operation} {location}: {error}") from None


class _Ranges(io.RawIOBase):
    """An object as a raw stream; every read is a range request."""

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
    """Return a stream that requests a megabyte at a time: readers of audio ask for kilobytes."""
    return io.BufferedReader(_Ranges(stream, location), _RANGE_BYTES)
