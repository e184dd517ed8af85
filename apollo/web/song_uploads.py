"""From the body of a request to a song that may be restored: limits, inspection, room on the disk."""

from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from apollo.audio.rejects import RejectKind
from apollo.web.settings import WebSettings
from apollo.web.song_folder import SongFolder, SongStore, clean_name
from apollo.web.uploads import check_length, receive
from apollo.web.worker import Worker

_SAMPLE_BYTES = 3
_PARTS_AND_RESULT = 4
_AUDIO_IN_VAIN = (RejectKind.EMPTY, RejectKind.NOT_FINITE, RejectKind.TOO_LONG, RejectKind.DAMAGED, "killed")


def check_queue(songs: SongStore, settings: WebSettings) -> None:
    """Refuse more jobs than may wait.

    Raises:
        HTTPException: 429 with Retry-After.
    """
    if len(songs.queue()) >= settings.max_queue:
        raise _busy("the queue is full", settings)


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

    async def take(self, request: Request, name: str) -> SongFolder:
        """Receive a song and inspect it.

        Raises:
            HTTPException: it is too large, too slow, too long or no audio, or there is no room for it.
        """
        length = check_length(request, self._settings)
        await run_in_threadpool(check_queue, self._songs, self._settings)
        if self._num_uploads >= self._settings.max_uploads:
            raise _busy("too many uploads at a time", self._settings)
        self._num_uploads += 1
        name = clean_name(name)
        song, path = self._songs.create(request.state.session, name)
        try:
            await run_in_threadpool(self._make_room, length)
            size = await receive(request, path, self._settings)
            found = await run_in_threadpool(self._inspect, song, name)
            await run_in_threadpool(self._make_room, _estimate_bytes(found))
            await run_in_threadpool(check_queue, self._songs, self._settings)
            song.complete(name=name, bytes=size, inspection=found)
        except BaseException:
            song.remove()
            raise
        finally:
            self._num_uploads -= 1
        return song

    def _inspect(self, song: SongFolder, name: str) -> dict[str, Any]:
        found = self._worker.inspect(str(song.upload)) | {"input": name}
        if found["problem"] is not None:
            status = 422 if found["kind"] in _AUDIO_IN_VAIN else 415
            raise HTTPException(status, f"{name}: {found['problem']}")
        seconds = found["seconds"]
        if seconds is not None and seconds > self._settings.max_seconds:
            limit = self._settings.max_seconds
            raise HTTPException(422, f"{name}: {seconds:.0f} s long, longer than the limit of {limit:g} s")
        return found

    def _make_room(self, num_bytes: int) -> None:
        if not self._songs.make_room(num_bytes, self._settings.disk_bytes):
            raise HTTPException(503, "the disk is full", {"Retry-After": str(self._settings.retry_seconds)})


def _estimate_bytes(inspection: dict[str, Any]) -> int:
    """Return how much a song's parts and a result take, at most."""
    samples = (inspection["seconds"] or 0.0) * 44_100 * min(inspection["channels"], 2)
    return int(samples * _SAMPLE_BYTES * _PARTS_AND_RESULT)


def _busy(reason: str, settings: WebSettings) -> HTTPException:
    return HTTPException(429, f"{reason}: try again later", {"Retry-After": str(settings.retry_seconds)})
