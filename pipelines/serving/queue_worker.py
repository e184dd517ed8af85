"""Sends the jobs of the queue to replicas; the `Worker` of the application in an ingress replica.

Every job of the queue has one owner: the ingress replica that has locked its file there. If that dies,
another one, or the one that is started in its place, finds the file unlocked and owns it from then on. So a
job that was accepted is done, whichever process dies.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from apollo.audio.rejects import RejectKind
from apollo.web.child_process import RenderProcess
from apollo.web.settings import ModelOptions
from apollo.web.song_folder import SongFolder, SongGoneError, SongStore
from apollo.web.worker import ClosingError, inspect_in_process, write_failure
from pipelines.errors import root_cause
from pipelines.serving.service_folder import CLOSING_FILE, lock_existing

logger = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0


class Replicas(Protocol):
    """What restores; all functions may be called from any thread."""

    async def run(self, song_path: str, job: str) -> bool:
        """Do a job; return False if the replica died."""

    def count_ready(self) -> int:
        """Return the number of replicas that work."""


class QueueWorker:
    """Owns jobs, and sends them to replicas. It is created in a running event loop, and started there.

    Args:
        songs: The store; its folder is the service's.
        replicas: What restores.
        model: What `describe` returns.
        max_seconds: Length at which a song is given up.
    """

    def __init__(
        self, songs: SongStore, replicas: Replicas, model: dict[str, Any], max_seconds: float
    ) -> None:
        self._songs, self._replicas, self._model = songs, replicas, model
        self._closing = songs.root / CLOSING_FILE
        self._inspector = RenderProcess(ModelOptions(), max_seconds)
        self._num_ready = 0
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the inspecting process, count the replicas, and look for jobs from then on."""
        await asyncio.to_thread(self.inspect, os.devnull)
        await self._count_replicas()
        self._watching = self._loop.create_task(self._watch())

    def describe(self) -> dict[str, Any]:
        """Return the model."""
        return self._model

    def inspect(self, path: str) -> dict[str, Any]:
        """Return what a file is; one that kills the process is a file with a problem."""
        return inspect_in_process(self._inspector, path)

    def submit(self, song: SongFolder, job: str) -> None:
        """Enqueue a job and return at once."""
        if self._closing.exists():
            raise ClosingError
        ticket = self._songs.enqueue(song, job)
        self._loop.call_soon_threadsafe(self._own, ticket)

    def problem(self) -> str | None:
        """Return why nothing is restored now; None if all is well."""
        if self._closing.exists():
            return "the server is shutting down"
        return None if self._num_ready else "no replica is ready"

    def check_health(self) -> None:
        """Raise if jobs of dead owners are not looked for any more."""
        if self._watching is not None and self._watching.done():
            self._watching.result()

    def close(self) -> None:
        """End; jobs that are not done stay in the queue for the next start."""
        if self._watching is not None:
            self._watching.cancel()
        self._inspector.close()

    async def _watch(self) -> None:
        """Own jobs that nobody owns, and count the replicas, again and again."""
        while True:
            for ticket in self._songs.tickets():
                self._own(ticket)
            await asyncio.sleep(_WATCH_SECONDS)
            await self._count_replicas()

    async def _count_replicas(self) -> None:
        try:
            self._num_ready = await asyncio.to_thread(self._replicas.count_ready)
        except Exception as error:  # Ray Serve's controller is being restarted
            logger.warning(f"the replicas could not be counted: {root_cause(error)}")

    def _own(self, ticket: Path) -> None:
        """Own a job unless somebody does."""
        file = lock_existing(ticket)
        if file is not None:
            task = self._loop.create_task(self._do(ticket, file))
            self._jobs.add(task)  # the loop itself keeps weak references only
            task.add_done_callback(self._jobs.discard)

    async def _do(self, ticket: Path, file: BinaryIO) -> None:
        """Have a job done by a replica, or by another one if that dies."""
        _, song_id, job = ticket.name.split(".", 2)
        with file:
            try:
                song = self._songs.open(song_id)
                while song.exists and not await self._replicas.run(str(song.path), job):
                    logger.warning("a replica died: its job is sent to another one")
                    await asyncio.sleep(_WATCH_SECONDS)
            except SongGoneError:
                pass
            except Exception as error:
                logger.exception("a job failed")
                write_failure(song, job, root_cause(error), RejectKind.OTHER)
            self._songs.dequeue(song_id, job)
