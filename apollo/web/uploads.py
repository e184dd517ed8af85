"""Write the body of a request to a file as it comes, within limits of size and time."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from apollo.web.settings import WebSettings

_WRITE_BYTES = 1 << 20


def check_length(request: Request, settings: WebSettings) -> int:
    """Return the declared length of the body, the greatest allowed one if it declares none.

    Raises:
        HTTPException: it exceeds the limit.
    """
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdecimal() else settings.max_bytes
    if length > settings.max_bytes:
        raise _too_large(settings)
    return length


async def receive(request: Request, path: Path, settings: WebSettings) -> int:
    """Write the body to a file, and return its size.

    A client may take the time that its bytes take at the least rate, and the grace beside it.

    Raises:
        HTTPException: it is too large, too slow, or the disk is full.
    """
    began, received = time.monotonic(), 0
    pending = bytearray()
    body = aiter(request.stream())
    try:
        with path.open("xb") as file:
            while True:
                allowed = settings.upload_grace_seconds + received / settings.min_upload_rate
                block = await _next(body, began + allowed - time.monotonic())
                received += len(block or b"")
                if received > settings.max_bytes:
                    raise _too_large(settings)
                pending += block or b""
                if block is None or len(pending) >= _WRITE_BYTES:
                    await run_in_threadpool(file.write, bytes(pending))
                    pending.clear()
                if block is None:
                    return received
    except TimeoutError as error:
        raise HTTPException(408, "the upload is too slow") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the upload was interrupted") from error
    except OSError as error:
        raise HTTPException(503, f"the upload cannot be stored: {error.strerror}") from error


async def _next(body: AsyncIterator[bytes], seconds: float) -> bytes | None:
    """Return the next block of a body, None at its end."""
    try:
        return await asyncio.wait_for(anext(body), max(seconds, 0.001))
    except StopAsyncIteration:
        return None


def _too_large(settings: WebSettings) -> HTTPException:
    return HTTPException(413, f"the file is larger than {settings.max_bytes / 1e6:g} MB")
