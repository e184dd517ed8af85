"""Restoring files: what `apollo restore` does, one song after the other, each as a stream.

Memory does not grow with length. The input is never touched; the output gets its name when it is whole. A
file that cannot be restored is an outcome with a reason, and the others go on.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from apollo.audio.decoding import EXTENSIONS, AudioError
from apollo.audio.ffmpeg import FfmpegError, FfmpegMissingError
from apollo.audio.formats import CHUNK_SECONDS, FORMATS, SongsConfig
from apollo.audio.reading import AudioReader
from apollo.audio.spectrogram import Spectrogram, save_comparison
from apollo.audio.writing import AudioWriter, WriteError
from apollo.inference.streaming import StreamRestorer
from apollo.model.generator import Generator

_PICTURE = ".spectrogram.png"


@dataclass(frozen=True)
class SongJob:
    """One file to restore.

    Args:
        source: The input.
        target: The result.
        problem: Why it cannot be done, known beforehand.
    """

    source: Path
    target: Path
    problem: str | None = None


@dataclass(kw_only=True)
class SongResult:
    """What became of one file.

    Args:
        input: Its path.
        output: The result's.
        status: `restored`, `skipped` (the result is there) or `failed`.
        reason: Why it failed.
        warnings: What is wrong with the input although it was restored.
        channels: How many.
        samples: Length of the result, per channel.
        seconds: The same in seconds.
        elapsed_seconds: How long it took.
        peak: Largest absolute sample before clipping.
        gain: What the result was multiplied with to fit full scale.
    """

    input: str
    output: str
    status: str
    reason: str | None = None
    warnings: list[str] = field(default_factory=list)
    channels: int = 0
    samples: int = 0
    seconds: float = 0.0
    elapsed_seconds: float = 0.0
    peak: float = 0.0
    gain: float = 1.0


def find_songs(inputs: Sequence[str], config: SongsConfig) -> list[SongJob]:
    """Find the audio files that are named, and those under the folders that are, and name their results.

    Under a folder, results lie as the files do. Files in the output folder are results, not songs.

    Raises:
        ValueError: an input does not exist, or is the output folder.
    """
    found, problems = list_songs(inputs, config)
    return name_results(found, config) + problems


def list_songs(inputs: Sequence[str], config: SongsConfig) -> tuple[dict[Path, Path], list[SongJob]]:
    """Find the audio files as `find_songs` does.

    Returns:
        By file, the folder that its result goes to; and what there is no result of, with the reasons.

    Raises:
        ValueError: an input does not exist, or is the output folder.
    """
    output = _absolute(config.output)
    found: dict[Path, Path] = {}
    problems: list[SongJob] = []
    for name in inputs:
        path = _absolute(name)
        if not os.path.lexists(path):
            raise ValueError(f"{name}: no such file or folder")
        if path == output:
            raise ValueError(f"{name}: the output folder is an input; its results would be taken for songs")
        if not path.is_dir():
            found[path] = output
            continue
        songs, unreadable = _walk(path, output)
        found |= {song: output / song.parent.relative_to(path) for song in songs}
        problems += [SongJob(folder, output, reason) for folder, reason in unreadable.items()]
        if not songs and not unreadable:
            problems.append(SongJob(path, output, "no audio files in this folder"))
    return found, problems


def is_song(name: str) -> bool:
    """Tell by its name whether a file under a folder is taken for a song."""
    return name.rpartition(".")[2].lower() in EXTENSIONS and not name.startswith(".")


def name_results(found: Mapping[Path, Path], config: SongsConfig) -> list[SongJob]:
    """Name the results of songs, each unlike the others and unlike every song.

    Args:
        found: By song, the folder that its result goes to: absolute, all of them.
        config: Format, template, and the output folder that no result may leave.
    """
    jobs = [SongJob(song, _target(song, folder, config)) for song, folder in found.items()]
    return _without_collisions(jobs, config)


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))


def _walk(folder: Path, output: Path) -> tuple[list[Path], dict[Path, str]]:
    """Give the audio files under a folder, and the folders that cannot be read with the reasons."""
    errors: list[OSError] = []
    songs = []
    for place, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if Path(place, name) != output)
        songs += [Path(place, name) for name in sorted(files) if is_song(name)]
    return songs, {Path(error.filename): error.strerror or str(error) for error in errors}


def _target(song: Path, folder: Path, config: SongsConfig) -> Path:
    name = config.filename.format(stem=song.stem, name=song.name, parent=song.parent.name)
    return Path(os.path.normpath(folder / f"{name}.{FORMATS[config.format][2]}"))


def _without_collisions(jobs: list[SongJob], config: SongsConfig) -> list[SongJob]:
    """Give songs whose results would share a name the whole names of their files; note what is wrong."""
    counts = Counter(job.target for job in jobs)
    extension = FORMATS[config.format][2]
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
    """Tell what a name stands for, whatever it is called: the file, or the name where none is here."""
    try:
        status = path.stat()
    except OSError:
        return path
    return status.st_dev, status.st_ino


def _problem(
    target: Path, counts: Counter[Path], inputs: set[tuple[int, int] | Path], output: Path
) -> str | None:
    if not target.is_relative_to(output):
        return f"the template leads outside the output folder: {target}"
    if counts[target] > 1:
        return "another input has the same result name; use {parent} in the template"
    if _identity(target) in inputs:
        return "the output would be an input; choose another folder or template"
    return None


def is_pending(job: SongJob, config: SongsConfig) -> bool:
    """Tell whether a job has work to do."""
    return job.problem is None and (config.overwrite or not job.target.exists())


def restore_songs(
    generator: Generator | None,
    jobs: Sequence[SongJob],
    config: SongsConfig,
    *,
    progress: Callable[[SongJob, float, float], None] | None = None,
) -> Iterable[SongResult]:
    """Restore files one after the other.

    Args:
        generator: On its device, at its precision; needed only when a job is open.
        jobs: What `find_songs` gave.
        config: How.
        progress: Called while a file is restored, with the seconds done and to do.

    Yields:
        One outcome a job.
    """
    for job in jobs:
        outcome = SongResult(
            input=str(job.source), output=str(job.target), status="failed", reason=job.problem
        )
        if job.problem is None and not is_pending(job, config):
            outcome.status = "skipped"
        elif job.problem is None:
            assert generator is not None  # noqa: S101 - our invariant
            began = time.monotonic()
            try:
                _restore(generator, job, config, outcome, progress)
                outcome.status = "restored"
            except (AudioError, FfmpegError, FfmpegMissingError, WriteError) as error:
                outcome.reason = str(error)
            except torch.OutOfMemoryError:
                outcome.reason = "the device has too little memory: lower --batch, or take --device cpu"
            outcome.elapsed_seconds = time.monotonic() - began
        yield outcome


def _restore(
    generator: Generator,
    job: SongJob,
    config: SongsConfig,
    outcome: SongResult,
    progress: Callable[[SongJob, float, float], None] | None,
) -> None:
    rate = generator.config.sample_rate
    device = next(generator.parameters()).device
    restorer = StreamRestorer(generator)
    with AudioReader(str(job.source), rate) as song:
        writer = AudioWriter(
            job.target,
            channels=song.channels,
            sample_rate=rate,
            format=config.format,
            clip=config.clip,
            frames=song.expected,
            tags=song.tags,
        )
        pictures = None
        if config.picture:
            pictures = (Spectrogram(song.expected, rate), Spectrogram(song.expected, rate))
        state = restorer.start(song.channels)
        with writer:
            for block in song.blocks(int(CHUNK_SECONDS * rate) * config.batch):
                restored, state = restorer.push(state, block.to(device))
                _take(writer, pictures, block, restored.float().cpu())
                if progress is not None:
                    progress(job, state.received / rate, song.expected / rate)
            rest = restorer.finish(state).float().cpu()
            _take(writer, pictures, rest[:, :0], rest)
            outcome.gain = writer.commit()
            outcome.peak = writer.peak
        outcome.warnings, outcome.channels = song.warnings, song.channels
        outcome.samples, outcome.seconds = state.received, state.received / rate
    if pictures is not None:
        try:
            save_comparison(*pictures, title=job.source.name, target=job.target.with_suffix(_PICTURE))
        except OSError as error:
            outcome.warnings.append(f"the picture cannot be written: {error.strerror or error}")


def _take(
    writer: AudioWriter,
    pictures: tuple[Spectrogram, Spectrogram] | None,
    before: torch.Tensor,
    after: torch.Tensor,
) -> None:
    """Write restored samples, and show both sides to the picture."""
    if not torch.isfinite(after).all():
        raise AudioError("the generator gave samples that are no numbers: its weights do not fit this audio")
    writer.write(after)
    if pictures is not None:
        pictures[0].add(before)
        pictures[1].add(after)
