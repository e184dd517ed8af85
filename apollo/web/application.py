"""The routes of `apollo web`, on a store of songs and whoever does their jobs. docs/web.md describes them."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

from apollo.audio.formats import FORMATS, MAX_STRENGTH
from apollo.listening.html import read_asset
from apollo.web.access import Access
from apollo.web.jobs import PARTS, ResultJob
from apollo.web.settings import WebSettings
from apollo.web.song_folder import FAILED, READY, SongFolder, SongGoneError, SongStore
from apollo.web.song_states import describe_song, describe_songs
from apollo.web.song_uploads import SongUploads
from apollo.web.worker import CLOSING, ClosingError, Worker

_CLEAN_SECONDS = 30.0
_POLL_SECONDS = 0.1
_SEND_BYTES = 1 << 16
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

Name = Annotated[str, Query(max_length=1_000)]


def create_application(songs: SongStore, worker: Worker, settings: WebSettings) -> FastAPI:
    """Return the application.

    Args:
        songs: The store.
        worker: What does the jobs; the caller closes it.
        settings: Limits and access.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        cleaning = asyncio.create_task(_clean(songs, settings))
        yield
        cleaning.cancel()

    application = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan
    )
    _add_error_handlers(application)
    uploads = SongUploads(songs, worker, settings)
    _add_song_routes(application, songs, worker, uploads)
    _add_result_routes(application, songs, worker, uploads)
    _add_page(application, worker, settings)
    application.add_middleware(Access, settings=settings)
    return application


async def _clean(songs: SongStore, settings: WebSettings) -> None:
    while True:
        await run_in_threadpool(songs.clean, settings.keep_seconds)
        await asyncio.sleep(_CLEAN_SECONDS)


def _add_error_handlers(application: FastAPI) -> None:
    """Answer every error as JSON with its reason."""

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)  # noqa: S101 - registered for it
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def refuse_values(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    async def gone(*_: object) -> Response:
        return JSONResponse({"error": "there is no such song; it may have been removed"}, 404)

    async def closing(*_: object) -> Response:
        return JSONResponse({"error": "the server is shutting down"}, 503)

    async def fail(*_: object) -> Response:
        return JSONResponse({"error": "internal error"}, 500)

    application.add_exception_handler(StarletteHTTPException, refuse)
    application.add_exception_handler(RequestValidationError, refuse_values)
    application.add_exception_handler(SongGoneError, gone)
    application.add_exception_handler(ClosingError, closing)
    application.add_exception_handler(Exception, fail)


def _add_song_routes(application: FastAPI, songs: SongStore, worker: Worker, uploads: SongUploads) -> None:
    """Add what uploads, lists, removes and plays songs."""

    def find(song_id: str) -> SongFolder:
        return songs.open(song_id)

    Song = Annotated[SongFolder, Depends(find)]

    @application.post("/api/songs", status_code=201)
    async def add_song(request: Request, name: Name = "song") -> Any:
        song = await uploads.take(request, name)
        try:
            await run_in_threadpool(worker.submit, song, PARTS)
        except BaseException:
            songs.remove(song)
            raise
        return describe_song(songs, song)

    @application.get("/api/songs")
    def list_songs(request: Request) -> list[dict[str, Any]]:
        return describe_songs(songs, songs.of_session(request.state.session))

    @application.get("/api/songs/{song_id}")
    def show_song(song: Song) -> dict[str, Any]:
        return describe_song(songs, song)

    @application.delete("/api/songs/{song_id}", status_code=204)
    def remove_song(song: Song) -> None:
        songs.remove(song)

    @application.get("/api/songs/{song_id}/parts/{part}/{number}")
    def send_piece(song: Song, part: str, number: int) -> Response:
        listen = song.read_job(PARTS)
        if part not in listen.get("parts", ()) or not 0 <= number < listen["pieces"]:
            raise HTTPException(404, "there is no such piece")
        return _file(song.piece(part, number), "audio/flac")

    @application.get("/api/songs/{song_id}/spectrograms/{part}")
    def send_spectrogram(song: Song, part: str) -> Response:
        if part not in ("before", "after"):
            raise HTTPException(404, "there is no such picture")
        return _file(song.spectrogram(part), "image/png")


def _add_result_routes(application: FastAPI, songs: SongStore, worker: Worker, uploads: SongUploads) -> None:
    """Add what makes files to download."""

    def choose(format: str = "flac24", strength: float | None = None) -> ResultJob:
        try:
            return ResultJob.choose(format, strength)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    Choice = Annotated[ResultJob, Depends(choose)]

    def submit(song: SongFolder, job: ResultJob) -> dict[str, Any]:
        if song.read_job(job.name).get("status", FAILED) == FAILED:
            uploads.check_queue()
            uploads.make_room_for(song)
            worker.submit(song, job.name)
        return describe_song(songs, song)

    @application.post("/api/songs/{song_id}/results", status_code=202)
    def make_result(song_id: str, job: Choice) -> dict[str, Any]:
        return submit(songs.open(song_id), job)

    @application.get("/api/songs/{song_id}/results")
    def send_result(song_id: str, job: Choice) -> Response:
        song = songs.open(song_id)
        if song.read_job(job.name).get("status") != READY:
            raise HTTPException(404, "this file has not been made")
        return _result_file(song, job)

    @application.post("/api/restore")
    async def restore(request: Request, job: Choice, name: Name = "song") -> Response:
        song = await uploads.take(request, name)
        remove = BackgroundTask(songs.remove, song)
        try:
            await run_in_threadpool(submit, song, job)
            await _wait(request, song, job)
            return await run_in_threadpool(_result_stream, song, job, remove)
        except BaseException as error:
            await remove()
            if isinstance(error, SongGoneError):  # made, but removed before it was opened
                raise uploads.unavailable("the song was removed to make room for others") from error
            raise


def _add_page(application: FastAPI, worker: Worker, settings: WebSettings) -> None:
    """Add the page and what it needs to know."""

    @application.get("/api/settings")
    def describe_settings() -> dict[str, Any]:
        return {
            "model": worker.describe(),
            "formats": list(FORMATS),
            "max_strength": MAX_STRENGTH,
            "max_bytes": settings.max_bytes,
            "max_seconds": settings.max_seconds,
            "keep_seconds": settings.keep_seconds,
        }

    assets = {path.name: path.read_bytes() for path in files(__package__).joinpath("page").iterdir()}
    assets["player.css"] = read_asset("player.css").encode()

    @application.get("/")
    @application.get("/{name}")
    def send_asset(name: str = "index.html") -> Response:
        if name not in assets:
            raise HTTPException(404, "there is no such page")
        return Response(assets[name], media_type=_MEDIA_TYPES[Path(name).suffix])


async def _wait(request: Request, song: SongFolder, job: ResultJob) -> None:
    """Wait for a result.

    Raises:
        HTTPException: it failed, or the client is gone.
        SongGoneError: the song was removed.
    """
    while True:
        state = song.read_job(job.name)
        if state.get("status") == READY:
            return
        if state.get("status") == FAILED:
            raise HTTPException(503 if state["kind"] == CLOSING else 422, state["reason"])
        if not song.exists:
            raise SongGoneError
        if await request.is_disconnected():
            raise HTTPException(400, "the client is gone")
        await asyncio.sleep(_POLL_SECONDS)


def _result_file(song: SongFolder, job: ResultJob, stat: os.stat_result | None = None) -> FileResponse:
    extension = FORMATS[job.format].extension
    name = f"{Path(song.describe()['name']).stem}.{extension}"
    return FileResponse(
        song.result(job.name, extension),
        filename=name,
        media_type="application/octet-stream",
        stat_result=stat,
    )


def _result_stream(song: SongFolder, job: ResultJob, background: BackgroundTask) -> Response:
    """Return a result whose file is open from now on: the song may be removed before it is sent.

    Raises:
        SongGoneError: the song was removed.
    """
    try:
        file = song.result(job.name, FORMATS[job.format].extension).open("rb")
    except FileNotFoundError as error:
        raise SongGoneError from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        headers = dict(_result_file(song, job, os.fstat(file.fileno())).headers)
        stack.pop_all()
    return StreamingResponse(_blocks(file), headers=headers, background=background)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while block := file.read(_SEND_BYTES):
            yield block


def _file(path: Path, media_type: str) -> Response:
    if not path.exists():
        raise SongGoneError
    return FileResponse(path, media_type=media_type, headers={"cache-control": "private, max-age=3600"})
