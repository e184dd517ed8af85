"""Restore several songs at a time on a CPU, each in a process of its own: `apollo restore --jobs`.

A song that kills its process is a result with a reason; another process goes on with the others. Weights are
sent as tensors alone. The parent ends its processes however it ends itself; they end when it is gone.
"""

import io
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import nn

from apollo.audio import writing
from apollo.audio.child_processes import interrupts_blocked
from apollo.audio.formats import SongsConfig
from apollo.audio.rejects import RejectKind
from apollo.audio.songs import SongJob, SongResult, is_pending, restore_songs
from apollo.inference.memory import free_system_memory_bytes
from apollo.model.config import GeneratorConfig
from apollo.model.generator import Generator
from apollo.onnx.onnx_generator import OnnxGenerator

PROCESS_BYTES = 1 << 30  # of a process with libraries, weights and a chunk: measured: 0.3 to 0.5 GB
_END_SECONDS = 10.0


def choose_num_processes(num_songs: int) -> int:
    """Return how many songs are restored at a time: one a core, as far as memory allows."""
    free = free_system_memory_bytes()
    most = num_songs if free is None else free // PROCESS_BYTES
    return max(min(num_songs, torch.get_num_threads(), most), 1)


@dataclass(frozen=True)
class _Task:
    """What a process needs: plain values, and weights: of `torch.save` or, without a precision, in ONNX."""

    generator: GeneratorConfig
    precision: torch.dtype | None
    weights: bytes
    songs: SongsConfig
    num_threads: int
    model: str
    skip: Callable[[str], str | None] | None


@dataclass
class _Worker:
    """A process, the song that it restores, and the beginning of the names of its unfinished files."""

    process: BaseProcess
    connection: Connection
    job: SongJob | None = None
    prefix: str | None = None


def restore_songs_in_processes(
    generator: Generator | OnnxGenerator,
    jobs: Sequence[SongJob],
    config: SongsConfig,
    *,
    num_processes: int,
    progress: Callable[[SongJob, float, float | None], None] | None = None,
    model: str = "",
    skip: Callable[[str], str | None] | None = None,
) -> Iterator[SongResult]:
    """Restore files in processes that share the threads of this one.

    Args:
        generator: On the CPU, at its precision.
        jobs: From `find_songs`.
        config: Options.
        num_processes: How many songs at a time.
        progress: As for `restore_songs`.
        model: As for `restore_songs`.
        skip: As for `restore_songs`; a function of a module.

    Yields:
        One result per job, in the order of completion.
    """
    yield from restore_songs(None, [job for job in jobs if not is_pending(job, config)], config)
    waiting = deque(job for job in jobs if is_pending(job, config))
    task = _Task(
        generator.config,
        *_save_weights(generator),
        config,
        max(torch.get_num_threads() // num_processes, 1),
        model,
        skip,
    )
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < num_processes:
                workers.append(_start(task))
                _send_next(workers[-1], waiting)
            ready = wait([worker.connection for worker in workers])
            for worker in [one for one in workers if one.connection in ready]:
                outcome = _receive(worker, progress)
                if outcome is None:
                    continue
                yield outcome
                if not waiting or not worker.process.is_alive():
                    workers.remove(worker)
                    _end([worker])
                else:
                    _send_next(worker, waiting)
    finally:
        _end(workers)


def _receive(
    worker: _Worker, progress: Callable[[SongJob, float, float | None], None] | None
) -> SongResult | None:
    """Read a message of a process; return the result of its song if it has one or the process ended."""
    job = worker.job
    assert job is not None  # noqa: S101 - our invariant
    try:
        kind, *content = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        _delete_unfinished(worker)
        return SongResult(
            input=str(job.source),
            output=str(job.target),
            status="failed",
            reason=_describe_end(worker.process.exitcode or 0),
            kind=RejectKind.KILLED,
        )
    if kind == "result":
        outcome: SongResult = content[0]
        return outcome
    if kind == "prefix":
        worker.prefix = content[0]
    elif progress is not None:
        progress(job, *content)
    return None


def _describe_end(code: int) -> str:
    """Return why a process ended, and what to do."""
    if code == -signal.SIGTERM:
        return "its process was ended (SIGTERM)"
    if code < 0:
        name = signal.Signals(-code).name
        if name == "SIGKILL":
            return "its process was killed (SIGKILL), as systems do that run out of memory: lower --jobs"
        return f"its process crashed ({name}): the file may be damaged"
    return f"its process ended (exit code {code}), before the song was restored"


def _start(task: _Task) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, task), daemon=True)
    with interrupts_blocked():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _send_next(worker: _Worker, waiting: "deque[SongJob]") -> None:
    worker.job = waiting.popleft()
    with suppress(OSError):  # a process that ended is noticed when it is read from
        worker.connection.send(worker.job)


def _end(workers: Sequence[_Worker]) -> None:
    """End processes: those that wait for a song by themselves, the others by a signal."""
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        if worker.process.is_alive() and worker.process.exitcode is None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(_END_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        _delete_unfinished(worker)


def _delete_unfinished(worker: _Worker) -> None:
    if worker.job is not None and worker.prefix:
        for path in worker.job.target.parent.glob(f"{worker.prefix}*"):
            path.unlink(missing_ok=True)


def _save_weights(generator: Generator | OnnxGenerator) -> tuple[torch.dtype | None, bytes]:
    """Return precision and weights of a task."""
    if isinstance(generator, OnnxGenerator):
        return None, generator.content
    stream = io.BytesIO()
    torch.save(generator.state_dict(), stream)
    precision = next(module.weight.dtype for module in generator.modules() if type(module) is nn.Linear)
    return precision, stream.getvalue()


def _load_weights(task: _Task) -> Generator | OnnxGenerator:
    if task.precision is None:
        return OnnxGenerator(task.weights, task.model)
    generator = Generator(task.generator).with_precision(task.precision)
    generator.load_state_dict(torch.load(io.BytesIO(task.weights), weights_only=True))
    return generator


def _work(connection: Connection, task: _Task) -> None:
    """Restore the songs that come through a connection, until it is closed."""
    signal.signal(signal.SIGTERM, _interrupt)
    torch.set_num_threads(task.num_threads)
    with suppress(KeyboardInterrupt, EOFError, OSError):  # ended by the parent, or the parent is gone
        connection.send(("prefix", writing.PART_PREFIX))
        generator = _load_weights(task)

        def progress(_: SongJob, done: float, total: float | None) -> None:
            connection.send(("progress", done, total))

        while True:
            job = connection.recv()
            (outcome,) = restore_songs(
                generator, [job], task.songs, progress=progress, model=task.model, skip=task.skip
            )
            connection.send(("result", outcome))
    sys.stderr.flush()
    os._exit(0)  # the connection may be half written


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
