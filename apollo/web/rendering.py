"""Do the jobs of a song: its parts to listen to, and its results to download.

Knows no server: whichever process can open the song's folder may call it.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apollo.audio.ffmpeg import FfmpegError, FfmpegMissingError
from apollo.audio.formats import FORMATS, SongsConfig
from apollo.audio.inspection import inspect_files
from apollo.audio.reading import AudioReader
from apollo.audio.rejects import AudioError, RejectKind
from apollo.audio.songs import SongJob, SongResult, restore_songs
from apollo.audio.tags import describe_checkpoint
from apollo.audio.writing import WriteError
from apollo.checkpoints.checkpoint import CheckpointError, load
from apollo.inference.chunks import ChunkLength, restore_chunks
from apollo.inference.streaming import StreamRestorer
from apollo.model.config import GeneratorConfig
from apollo.model.device import choose_device, choose_precision
from apollo.model.generator import Generator
from apollo.model.noise import NoiseOptions
from apollo.web.jobs import PARTS, ResultJob
from apollo.web.listening_parts import ListeningParts
from apollo.web.settings import ModelOptions
from apollo.web.song_folder import FAILED, READY, WORKING, SongFolder, SongGoneError

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.25


class Renderer:
    """Inspect songs and do their jobs with one model.

    Args:
        model: What restores; it is loaded when it is first needed.
        max_seconds: Length at which a song is given up, whatever it declares.
    """

    def __init__(self, model: ModelOptions, max_seconds: float) -> None:
        self._model, self._max_seconds = model, max_seconds

    @cached_property
    def generator(self) -> Generator:
        """The model, on its device."""
        device = choose_device(self._model.device)
        precision = choose_precision(self._model.precision, device)
        try:
            return load(self._model.checkpoint).with_precision(precision).to(device)
        except CheckpointError as error:  # the server does not import torch, and so not this class
            raise ValueError(str(error)) from error

    def describe(self) -> dict[str, Any]:
        """Return the description of the model that users see.

        Raises:
            ValueError: it cannot be loaded, or there is no such device or precision.
        """
        return describe_model(self._model, self.generator.config)

    def inspect(self, path: str) -> dict[str, Any]:
        """Return what a file is, as `apollo inspect --json`; `problem` says why it cannot be read."""
        (found,) = inspect_files([path])
        return asdict(found)

    def run(self, song_path: str, job: str) -> None:
        """Do a job of a song; its state tells how it went. One that was cancelled leaves nothing behind."""
        song = SongFolder(Path(song_path))
        try:
            song.write_job(job, WORKING, progress=0.0)
            with _reasons(song, job):
                facts = self._render_parts(song) if job == PARTS else self._render_result(song, job)
                song.write_job(job, READY, progress=1.0, **facts)
        except SongGoneError:
            song.remove()

    @torch.inference_mode()
    def _render_parts(self, song: SongFolder) -> dict[str, Any]:
        report = _Progress(song, PARTS, self._max_seconds)
        config = self.generator.config
        strength = self.describe()["strength"]
        with AudioReader(str(song.upload), config.sample_rate) as audio:
            noise = NoiseOptions(channels=audio.channels, separate=strength is not None)
            restorer = StreamRestorer(self.generator, noise)
            parts = ListeningParts(song, audio.estimated_frames, config.sample_rate, strength)
            total = audio.estimated_frames
            seconds = 0.0
            chunks = restore_chunks(
                restorer, audio.blocks(config.sample_rate), audio.channels, ChunkLength(self.generator)
            )
            for before, restored in chunks:
                parts.add(before, *_split(restored, audio.channels))
                seconds += before.shape[1] / config.sample_rate
                report(seconds, None if total is None else total / config.sample_rate)
            return parts.finish() | {"warnings": audio.warnings}

    def _render_result(self, song: SongFolder, name: str) -> dict[str, Any]:
        """Restore the upload as `apollo restore` does."""
        job = ResultJob.parse(name)
        report = _Progress(song, name, self._max_seconds)
        target = song.result(name, FORMATS[job.format].extension)
        config = SongsConfig(
            output=str(target.parent), format=job.format, strength=job.strength, overwrite=True
        )
        results: list[SongResult] = list(
            restore_songs(
                self.generator,
                [SongJob(song.upload, target)],
                config,
                progress=lambda _, done, total: report(done, total),
                model=_name(self._model),
            )
        )
        (result,) = results
        if result.status != "restored":
            raise AudioError(result.reason or result.status, RejectKind(result.kind or RejectKind.OTHER))
        return {"bytes": target.stat().st_size, "warnings": result.warnings}


def describe_model(model: ModelOptions, config: GeneratorConfig) -> dict[str, Any]:
    """Return a model's name, whether it adds noise, and at which strength by default."""
    has_noise = config.output == "mask_and_noise"
    strength = config.noise_strength if has_noise else None
    return {"name": _name(model), "has_noise": has_noise, "strength": strength}


def _name(model: ModelOptions) -> str:
    return model.name or describe_checkpoint(model.checkpoint)


def _split(restored: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Return the output without noise and the noise, which a model without noise does not have."""
    return restored[:channels], restored[channels:] if len(restored) > channels else None


class _Progress:
    """Write the progress of a job now and then; stop the job if its song was removed or is too long."""

    def __init__(self, song: SongFolder, job: str, max_seconds: float) -> None:
        self._song, self._job, self._max_seconds = song, job, max_seconds
        self._written = 0.0

    def __call__(self, done: float, total: float | None) -> None:
        if not self._song.exists:
            raise SongGoneError
        if done > self._max_seconds:
            raise AudioError(f"longer than {self._max_seconds:g} s", RejectKind.TOO_LONG)
        if time.monotonic() - self._written > _PROGRESS_SECONDS:
            self._written = time.monotonic()
            progress = min(done / total, 1.0) if total else None
            self._song.write_job(self._job, WORKING, progress=progress, seconds=done)


@contextmanager
def _reasons(song: SongFolder, job: str) -> Iterator[None]:
    """Make a failed job of an exception that a song may cause."""

    def fail(reason: str, kind: str) -> None:
        song.write_job(job, FAILED, reason=reason, kind=kind)

    try:
        yield
    except (AudioError, FfmpegError, FfmpegMissingError, WriteError) as error:
        fail(str(error), getattr(error, "kind", RejectKind.OTHER))
    except torch.AcceleratorError:  # the device is unusable: not the song's fault
        raise
    except (OSError, RuntimeError, MemoryError) as error:
        if not song.exists:
            raise SongGoneError from error
        logger.exception("a song could not be rendered")
        fail(getattr(error, "strerror", None) or str(error) or type(error).__name__, RejectKind.OTHER)
