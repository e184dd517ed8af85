"""Clients of the service: many that restore songs, one that is slow, some that hang up."""

import asyncio
import hashlib
import io
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import soundfile

_TRY_AGAIN = (429, 503)
_SLOW_BYTE_SECONDS = 0.2
_HANG_UP_EVERY = 20


@dataclass(frozen=True)
class Song:
    """A song to upload.

    Args:
        data: The file.
        digest: Of the samples of its restoration.
    """

    data: bytes
    digest: str


@dataclass
class Load:
    """What clients saw.

    Args:
        ends: Requests by how they ended: `right`, `wrong`, or a status of 429 or 503 that lasted.
        refusals: Answers by status after which a client tried again.
        broken: Requests that the death of an ingress replica ended, after which a client tried again.
        seconds: Of the requests that ended right, waits after refusals included.
        slow_status: HTTP status that the slow client received.
    """

    ends: Counter[str] = field(default_factory=Counter)
    refusals: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    seconds: list[float] = field(default_factory=list)
    slow_status: int = 0

    @property
    def done(self) -> int:
        """Requests that ended."""
        return sum(self.ends.values())


async def restore_all(
    load: Load, port: int, songs: list[Song], *, clients: int, requests: int, limit_seconds: float
) -> None:
    """Send requests from a number of clients; some requests are preceded by one that hangs up.

    Args:
        load: Where it is counted.
        port: Of the service.
        songs: Which are sent in turn.
        clients: Requests at a time.
        requests: In all.
        limit_seconds: After which a client that is refused gives up.
    """
    numbers = iter(range(requests))
    timeout = aiohttp.ClientTimeout(total=limit_seconds)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as session:

        async def work() -> None:
            for number in numbers:
                song = songs[number % len(songs)]
                if number % _HANG_UP_EVERY == 0:
                    await hang_up(port, song, half=number % (2 * _HANG_UP_EVERY) == 0)
                began = time.monotonic()
                end = await _restore(load, session, song, began + limit_seconds)
                load.ends[end] += 1
                if end == "right":
                    load.seconds.append(time.monotonic() - began)

        await asyncio.gather(*(work() for _ in range(clients)))


async def _restore(load: Load, session: aiohttp.ClientSession, song: Song, end: float) -> str:
    """Restore a song; return how it ended."""
    while True:
        try:
            async with session.post("/api/restore?format=flac24&name=song.wav", data=song.data) as answer:
                status, body = answer.status, await answer.read()
                wait = float(answer.headers.get("Retry-After", 1))
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError):
            status, body, wait = 500, b"", 1.0
        if status == 200:
            return "right" if digest(body) == song.digest else "wrong"
        if status == 500 and not body.startswith(b"{"):  # of Ray Serve: the application answers in JSON
            load.broken += 1
        elif status in _TRY_AGAIN:
            load.refusals[status] += 1
        else:
            return f"{status} {body[:200]!r}"
        if time.monotonic() + wait > end:
            return str(status)
        await asyncio.sleep(wait)


def digest(flac: bytes) -> str:
    """Return a digest of a file's samples."""
    samples, _ = soundfile.read(io.BytesIO(flac), dtype="int32", always_2d=True)
    return hashlib.sha256(samples.tobytes()).hexdigest()


async def hang_up(port: int, song: Song, *, half: bool) -> None:
    """Send a request, or half of it, and close the connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_head(len(song.data)) + song.data[: len(song.data) // 2 if half else None])
    with suppress(OSError):
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        await writer.wait_closed()


async def upload_slowly(load: Load, port: int, song: Song) -> None:
    """Send a request a byte at a time until it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_head(len(song.data)))
    answer = asyncio.create_task(reader.readline())
    for byte in song.data:
        writer.write(bytes([byte]))
        await asyncio.wait([answer], timeout=_SLOW_BYTE_SECONDS)
        if answer.done():
            break
    load.slow_status = int((await answer).split()[1])
    writer.close()


def _head(length: int) -> bytes:
    path = "/api/restore?format=flac24&name=song.wav"
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode()
