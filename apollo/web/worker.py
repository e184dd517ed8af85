"""Who does the jobs: an interface of few functions, and the worker of one machine.

Another implementation may do the jobs anywhere that shares the store's folder: it calls
`apollo.web.rendering.Renderer.run` for a song and a job, and removes the job from the queue when it is done.
"""

import logging
import queue
import threading
from typing import Any, Protocol

from apollo.audio.rejects import RejectKind
from apollo.web.child_process import ProcessDiedError, RenderProcess
from apollo.web.settings import ModelOptions, WebSettings
from apollo.web.song_folder import FAILED, SongFolder, SongGoneError, SongStore

logger = logging.getLogger(__name__)

INSPECT_SECONDS = 60.0
CLOSING = "closing"  # kind of the failure of what the end of the server interrupts


class ClosingError(RuntimeError):
    """The server is shutting down."""


class Worker(Protocol):
    """What the application needs; all functions may be called from any thread."""

    def describe(self) -> dict[str, Any]:
        """Return the model: `name`, `has_noise`, default `strength`."""

    def inspect(self, path: str) -> dict[str, Any]:
        """Return what a file is, as `apollo inspect --json`; blocks for about a second."""

    def submit(self, song: SongFolder, job: str) -> None:
        """Enqueue a job and return at once.

        Raises:
            ClosingError: the server is shutting down.
        """

    def close(self) -> None:
        """End what is being done; what waits fails."""


class LocalWorker:
    """Do one job after the other in a process of its own, and inspect files in another.

    Args:
        songs: The store.
        model: What restores.
        settings: Limits.

    Raises:
        ValueError: the model cannot be loaded, or there is no such device or precision.
    """

    def __init__(self, songs: SongStore, model: ModelOptions, settings: WebSettings) -> None:
        self._songs = songs
        self._renderer = RenderProcess(model, settings.max_seconds)
        self._inspector = RenderProcess(model, settings.max_seconds)
        self._jobs: queue.SimpleQueue[tuple[SongFolder, str] | None] = queue.SimpleQueue()
        self._closing = False
        try:
            self._model: dict[str, Any] = self._renderer.call("describe")
        except BaseException:
            self._renderer.close()
            raise
        self._inspector.start()
        self._thread = threading.Thread(target=self._work, name="apollo-web-worker", daemon=True)
        self._thread.start()

    def describe(self) -> dict[str, Any]:
        """Return the model."""
        return self._model

    def inspect(self, path: str) -> dict[str, Any]:
        """Return what a file is; one that kills the process is a file with a problem."""
        found = inspect_in_process(self._inspector, path)
        if self._closing and found.get("kind") == RejectKind.KILLED:
            raise ClosingError
        return found

    def submit(self, song: SongFolder, job: str) -> None:
        """Enqueue a job."""
        if self._closing:
            raise ClosingError
        self._songs.enqueue(song, job)
        self._jobs.put((song, job))

    def stop(self) -> None:
        """Refuse new jobs, and have those fail that wait or are being done; return at once."""
        self._closing = True
        self._jobs.put(None)
        self._renderer.stop()
        self._inspector.stop()

    def close(self) -> None:
        """Stop, and wait for the end of both processes and the thread."""
        self.stop()
        self._renderer.close()
        self._inspector.close()
        self._thread.join()

    def _work(self) -> None:
        while (task := self._jobs.get()) is not None:
            try:
                self._do(*task)
            except Exception:  # a full disk, say: the thread must do the next job
                logger.exception("the end of a job could not be recorded")

    def _do(self, song: SongFolder, job: str) -> None:
        try:
            if song.exists:
                self._renderer.call("run", str(song.path), job)
        except Exception as error:
            self._fail(song, job, error)
        finally:
            self._songs.dequeue(song.id, job)

    def _fail(self, song: SongFolder, job: str, error: Exception) -> None:
        reason, kind = str(error), str(RejectKind.KILLED)
        if self._closing:
            reason, kind = "the server is shutting down", CLOSING
        elif not isinstance(error, ProcessDiedError):
            logger.exception("a job failed")
            reason = f"{type(error).__name__}: {error}"
        write_failure(song, job, reason, kind)
        song.remove_unfinished()


def inspect_in_process(process: RenderProcess, path: str) -> dict[str, Any]:
    """Return what a file is; one that kills the process, or takes too long, is a file with a problem."""
    try:
        found: dict[str, Any] = process.call("inspect", path, timeout=INSPECT_SECONDS)
    except ProcessDiedError as error:
        return {"input": path, "problem": str(error), "kind": RejectKind.KILLED}
    return found


def write_failure(song: SongFolder, job: str, reason: str, kind: str) -> None:
    """Write that a job has failed; remove the song where that cannot be written: nobody may wait for it."""
    try:
        song.write_job(job, FAILED, reason=reason, kind=kind)
    except SongGoneError:
        song.remove()
    except OSError:
        logger.exception("the failure of a job cannot be written: its song is removed")
        song.remove()
