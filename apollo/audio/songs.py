"""Restore files one after the other, each as a stream: `apollo restore`.

Memory does not grow with length. Inputs are never modified and outputs are written atomically. A file that
cannot be restored is a result with a reason, and the others continue.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from apollo.audio.ffmpeg import FfmpegError, FfmpegMissingError
from apollo.audio.folders import describe_left_out, walk
from apollo.audio.formats import CHUNK_SECONDS, FORMATS, SongsConfig
from apollo.audio.reading import AudioReader
from apollo.audio.rejects import AudioError, RejectKind
from apollo.audio.side_files import SideFiles
from apollo.audio.song_output import SongOutput
from apollo.audio.writing import WriteError
from apollo.inference.chunks import ChunkLength, restore_chunks
from apollo.inference.memory import is_out_of_memory
from apollo.model.generator import Generator
from apollo.model.noise import NoiseOptions
from apollo.onnx.onnx_generator import OnnxGenerator, make_restorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SongJob:
    """One file to restore.

    Args:
        source: Input path.
        target: Output path.
        problem: Why it cannot be restored, where that is known in advance.
        kind: Kind of the problem.
    """

    source: Path
    target: Path
    problem: str | None = None
    kind: str = RejectKind.OTHER


@dataclass(kw_only=True)
class SongResult:
    """The result of restoring one file.

    Args:
        input: Input path.
        output: Output path.
        status: `restored`, `skipped` (the output exists, or for the reason) or `failed`.
        reason: Why it failed, or need not be restored.
        kind: Kind of the reason, one of RejectKind.
        warnings: Damage of the input that did not prevent restoring it.
        channels: Number of channels.
        samples: Length of the output in samples per channel.
        sample_rate: Of the output in Hz.
        seconds: Length of the output in seconds.
        elapsed_seconds: Processing time.
        peak: Largest absolute sample before clipping.
        gain: Factor that scaled the output to fit full scale.
    """

    input: str
    output: str
    status: str
    reason: str | None = None
    kind: str | None = None
    warnings: list[str] = field(default_factory=list)
    channels: int = 0
    samples: int = 0
    sample_rate: int = 0
    seconds: float = 0.0
    elapsed_seconds: float = 0.0
    peak: float = 0.0
    gain: float = 1.0


def find_songs(inputs: Sequence[str], config: SongsConfig) -> list[SongJob]:
    """Find the audio files among the inputs and below input folders, and choose their output paths.

    Outputs keep the structure of an input folder. Files in the output folder are outputs, not songs.

    Raises:
        ValueError: an input does not exist, or is the output folder.
    """
    found, problems = list_songs(inputs, config)
    return name_results(found, config) + problems


def list_songs(inputs: Sequence[str], config: SongsConfig) -> tuple[dict[Path, Path], list[SongJob]]:
    """Find the audio files as `find_songs` does.

    Returns:
        The output folder of each file; and jobs that cannot be done, with the reasons.

    Raises:
        ValueError: an input does not exist, or is the output folder.
    """
    output = _absolute(config.output)
    found: dict[Path, Path] = {}
    problems: list[SongJob] = []
    for name in inputs:
        if not name:
            raise ValueError("an input is empty: name a file or a folder")
        path = _absolute(name)
        if not os.path.lexists(path):
            raise ValueError(f"{name}: no such file or folder")
        if path == output:
            raise ValueError(f"{name}: the output folder is an input; choose another --output")
        if not path.is_dir():
            found[path] = output
            continue
        songs, unreadable, others = walk(path, output)
        if others:
            logger.warning(describe_left_out(others))
        found |= {song: output / song.parent.relative_to(path) for song in songs}
        problems += [
            SongJob(folder, output, reason, RejectKind.UNOPENED) for folder, reason in unreadable.items()
        ]
        if not songs and not unreadable:
            problems.append(SongJob(path, output, "no audio files in this folder"))
    return found, problems


def name_results(found: Mapping[Path, Path], config: SongsConfig) -> list[SongJob]:
    """Choose output paths that are unique and not inputs.

    Args:
        found: The output folder of each file; absolute paths.
        config: Format, filename template, and the output folder that no path may leave.
    """
    jobs = [SongJob(song, _target(song, folder, config)) for song, folder in found.items()]
    return _without_collisions(jobs, config)


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))


def _target(song: Path, folder: Path, config: SongsConfig) -> Path:
    name = config.filename.format(stem=song.stem, name=song.name, parent=song.parent.name)
    return Path(os.path.normpath(folder / f"{name}.{FORMATS[config.format].extension}"))


def _without_collisions(jobs: list[SongJob], config: SongsConfig) -> list[SongJob]:
    """Name outputs that would collide after the input's name with its extension; note remaining problems."""
    counts = Counter(job.target for job in jobs)
    extension = FORMATS[config.format].extension
    jobs = [
        replace(job, target=job.target.with_name(f"{job.source.name}.{extension}"))
        if counts[job.target] > 1
        else job
        for job in jobs
    ]
    counts = Counter(job.target for job in jobs)
    inputs = {_identity(job.source) for job in jobs}
    output = _absolute(config.output)
    return [replace(job, problem=_problem(job.target, counts, inputs, output)) for job in jobs]


def _identity(path: Path) -> tuple[int, int] | Path:
    """Return an identity that all names of an existing file share; the path itself where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return path
    return status.st_dev, status.st_ino


def _problem(
    target: Path, counts: Counter[Path], inputs: set[tuple[int, int] | Path], output: Path
) -> str | None:
    if not target.is_relative_to(output):
        return f"the filename template leads outside the output folder: {target}"
    if counts[target] > 1:
        return "another input has the same output path; use {parent} in --filename"
    if _identity(target) in inputs:
        return "the output path is an input; choose another --output or --filename"
    return None


def is_pending(job: SongJob, config: SongsConfig) -> bool:
    """Return whether a job remains to be done."""
    return job.problem is None and (config.overwrite or not _exists(job.target))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False


def restore_songs(
    generator: Generator | OnnxGenerator | None,
    jobs: Sequence[SongJob],
    config: SongsConfig,
    *,
    progress: Callable[[SongJob, float, float | None], None] | None = None,
    model: str = "",
    skip: Callable[[str], str | None] | None = None,
) -> Iterable[SongResult]:
    """Restore files one after the other.

    Args:
        generator: On its device, at its precision; needed only when a job is pending.
        jobs: From `find_songs`.
        config: Options.
        progress: Called while a file is restored, with the seconds done and in total, if known.
        model: Name of the generator, for the outputs' tags.
        skip: Called with the path of a file before it is restored; returns why it need not be, or None.

    Yields:
        One result per job.
    """
    chunk_length: ChunkLength | None = None
    for job in jobs:
        outcome = SongResult(
            input=str(job.source), output=str(job.target), status="failed", reason=job.problem
        )
        if job.problem is not None:
            outcome.kind = job.kind
        if job.problem is None and not is_pending(job, config):
            outcome.status = "skipped"
        elif job.problem is None and skip is not None and (reason := skip(outcome.input)) is not None:
            outcome.status, outcome.reason = "skipped", reason
        elif job.problem is None:
            assert generator is not None  # noqa: S101 - our invariant
            seconds = None if config.batch is None else CHUNK_SECONDS * config.batch
            chunk_length = chunk_length or ChunkLength(generator, seconds)
            began = time.monotonic()
            try:
                _restore(generator, job, config, outcome, chunk_length, progress, model)
                outcome.status = "restored"
            except (AudioError, FfmpegError, FfmpegMissingError, WriteError) as error:
                outcome.reason, outcome.kind = str(error), getattr(error, "kind", RejectKind.OTHER)
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                outcome.reason, outcome.kind = chunk_length.describe_shortage(error), RejectKind.MEMORY
            outcome.elapsed_seconds = time.monotonic() - began
        yield outcome


def _restore(
    generator: Generator | OnnxGenerator,
    job: SongJob,
    config: SongsConfig,
    outcome: SongResult,
    chunk_length: ChunkLength,
    progress: Callable[[SongJob, float, float | None], None] | None,
    model: str,
) -> None:
    rate = generator.config.sample_rate
    with AudioReader(str(job.source), rate) as song:
        noise = NoiseOptions(strength=config.strength, seed=config.seed, channels=song.channels)
        restorer = make_restorer(generator, noise, keep_below_hz=config.keep_below)
        output = SongOutput(job.target, song, config, generator=generator, model=model)
        side_files = SideFiles(config, song.estimated_frames, rate)
        received = 0
        with output:
            for block, restored in restore_chunks(restorer, song.blocks(rate), song.channels, chunk_length):
                _write(output, side_files, block, restored)
                received += block.shape[1]
                if progress is not None:
                    total = None if song.estimated_frames is None else song.estimated_frames / rate
                    progress(job, received / rate, total)
            outcome.gain = output.commit()
            outcome.peak = output.peak
        outcome.warnings, outcome.channels = song.warnings + output.warnings, song.channels
        outcome.samples, outcome.sample_rate = output.samples, output.sample_rate
        outcome.seconds = received / rate
    outcome.warnings += side_files.write(job.source, job.target)


def _write(output: SongOutput, side_files: SideFiles, before: torch.Tensor, after: torch.Tensor) -> None:
    """Write restored samples, and add both signals to the files beside the result."""
    if not torch.isfinite(after).all():
        raise AudioError(
            "non-finite samples from the generator: its weights do not fit this audio", RejectKind.NOT_FINITE
        )
    output.write(after)
    side_files.add(before, after)
