"""From the body of a request to a song that may be restored: limits, inspection, room on the disk."""

import threading
from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from apollo.audio.rejects import RejectKind
from apollo.web.settings import WebSettings
from apollo.web.song_folder import SongFolder, SongStore, clean_name
from apollo.web.uploads import check_length, receive
from apollo.web.worker import Worker

_PARTS_SAMPLE_BYTES = 3 * 3  # three parts, 24 bit
_RESULT_SAMPLE_BYTES = 4 + 4  # `--clip rescale` writes the file twice
_UNPROCESSABLE = (
    RejectKind.EMPTY,
    RejectKind.NOT_FINITE,
    RejectKind.TOO_LONG,
    RejectKind.DAMAGED,
    RejectKind.KILLED,
)


class SongUploads:
    """Receive songs.

    Args:
        songs: Where they are kept.
        worker: What inspects them.
        settings: Limits.
    """

    def __init__(self, songs: SongStore, worker: Worker, settings: WebSettings) -> None:
        self._songs, self._worker, self._settings = songs, worker, settings
        self._num_uploads = 0
        self._room = threading.Lock()  # room that is seen is reserved before another request looks

    async def take(self, request: Request, name: str) -> SongFolder:
        """Receive a song and inspect it.

        Raises:
            HTTPException: it is too large, too slow, too long or no audio, or there is no room for it.
        """
        length = check_length(request, self._settings)
        await run_in_threadpool(self.check_queue)
        if self._num_uploads >= self._settings.max_uploads:
            raise self._busy("too many uploads at a time")
        self._num_uploads += 1
        name = clean_name(name)
        song, path = self._songs.create(request.state.session, name)
        try:
            await run_in_threadpool(self._make_room, song, length)
            size = await receive(request, path, self._settings)
            found = await run_in_threadpool(self._inspect, song, name)
            await run_in_threadpool(self._make_room, song, _estimate_bytes(found, _PARTS_SAMPLE_BYTES))
            await run_in_threadpool(self.check_queue)
            song.complete(name=name, bytes=size, inspection=found)
        except BaseException:
            song.remove()
            raise
        finally:
            self._num_uploads -= 1
        return song

    def check_queue(self) -> None:
        """Refuse more jobs than may wait.

        Raises:
            HTTPException: 429 with Retry-After.
        """
        if len(self._songs.queue()) >= self._settings.max_queue:
            raise self._busy("the queue is full")

    def make_room_for(self, song: SongFolder) -> None:
        """Make room for another result of a song.

        Raises:
            HTTPException: 503, the disk is full.
            SongGoneError: the song was removed.
        """
        song.renew()
        self._make_room(song, _estimate_bytes(song.describe()["inspection"], _RESULT_SAMPLE_BYTES))

    def _inspect(self, song: SongFolder, name: str) -> dict[str, Any]:
        found = self._worker.inspect(str(song.upload)) | {"input": name}
        if found["problem"] is not None:
            status = 422 if found["kind"] in _UNPROCESSABLE else 415
            raise HTTPException(status, f"{name}: {found['problem']}")
        seconds = found["seconds"]
        if seconds is not None and seconds > self._settings.max_seconds:
            limit = self._settings.max_seconds
            raise HTTPException(422, f"{name}: {seconds:.0f} s long, longer than the limit of {limit:g} s")
        return found

    def _make_room(self, song: SongFolder, num_bytes: int) -> None:
        with self._room:
            try:
                has_room = self._songs.make_room(song, num_bytes, self._settings.disk_bytes)
            except OSError as error:
                raise self.unavailable(f"no room can be made: {error.strerror}") from error
        if not has_room:
            raise self.unavailable("the disk is full")

    def unavailable(self, reason: str) -> HTTPException:
        """Return the answer 503 with Retry-After."""
        return HTTPException(503, reason, {"Retry-After": str(self._settings.retry_seconds)})

    def _busy(self, reason: str) -> HTTPException:
        retry = {"Retry-After": str(self._settings.retry_seconds)}
        return HTTPException(429, f"{reason}: try again later", retry)


def _estimate_bytes(inspection: dict[str, Any], sample_bytes: int) -> int:
    """Return what a song takes at most, at a number of bytes for each of its samples."""
    return int((inspection["seconds"] or 0.0) * 44_100 * inspection["channels"] * sample_bytes)
