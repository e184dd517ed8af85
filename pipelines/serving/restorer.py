"""A replica: does one job of a song at a time.

A job whose replica dies is done again by another one. Attempts are counted on disk, so a song that kills its
replica fails after three, whoever sends it. A job that two replicas are sent is done once: the second waits
for the first, and finds the result.
"""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch

from apollo.audio.rejects import RejectKind
from apollo.web.rendering import Renderer
from apollo.web.settings import ModelOptions
from apollo.web.song_folder import FAILED, READY, SongFolder, SongGoneError
from pipelines.runtime import logs
from pipelines.serving.service_folder import check_folder, wait_for_lock

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3


class Restorer:
    """Restores songs; the class of the replicas' deployment.

    Args:
        folder: The service's folder.
        run: Content of its RUN_FILE.
        model: What restores, on a path inside the folder.
        max_seconds: Length at which a song is given up.
        threads: Threads of the computation on a CPU.
    """

    def __init__(self, folder: str, run: str, model: ModelOptions, max_seconds: float, threads: int) -> None:
        logs.configure()
        check_folder(folder, run)
        torch.set_num_threads(threads)
        self._renderer = Renderer(model, max_seconds)
        self._device = self._renderer.generator.device

    async def run(self, song_path: str, job: str) -> None:
        """Do a job of a song; its state tells how it went."""
        await asyncio.to_thread(self._run, SongFolder(Path(song_path)), job)

    async def check_health(self) -> None:
        """Raise if the device computes no more: Ray Serve then starts another replica."""
        await asyncio.to_thread(lambda: torch.ones(1, device=self._device).sum().item())

    def _run(self, song: SongFolder, job: str) -> None:
        with suppress(SongGoneError), _hold(song, job) as attempts:
            if song.read_job(job).get("status") == READY:
                return
            if os.fstat(attempts.fileno()).st_size >= MAX_ATTEMPTS:
                reason = f"killed its process {MAX_ATTEMPTS} times"
                song.write_job(job, FAILED, reason=reason, kind=RejectKind.KILLED)
            else:
                attempts.write(b".")
                attempts.flush()
                try:
                    self._renderer.run(str(song.path), job)
                except torch.AcceleratorError:
                    logger.exception("the device is unusable, this replica ends")
                    os._exit(1)
            attempts.truncate(0)  # its user may ask for it again


def _hold(song: SongFolder, job: str) -> BinaryIO:
    """Wait until no other process does a job, and return the file that counts its attempts.

    Raises:
        SongGoneError: the song was removed.
    """
    try:
        return wait_for_lock(song.path / "jobs" / f".{job}.attempts")
    except FileNotFoundError as error:
        raise SongGoneError from error
