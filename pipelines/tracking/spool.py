"""Append-only log of a run on disk, from which an MLflow run is kept up to date.

    tracking/metrics.jsonl   one line per logging call, in order
    tracking/artifacts/      copies of the logged files
    tracking/cursor.json     how much of it the server has

A line is one write, so a killed process leaves at most a torn last line; it is truncated when the log is
opened for writing again. Nothing else is ever removed: a lost run can be created again from this log.
"""

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.storage.atomic import write_atomic

LINES, ARTIFACTS, _CURSOR, _LOCK = "metrics.jsonl", "artifacts", "cursor.json", ".lock"
_UNSAFE_CHARACTERS = re.compile(r"[^\w.\-]+")


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One line of the log.

    Args:
        kind: Series; the steps of one kind increase.
        step: Training step.
        timestamp_ms: Time of logging, in milliseconds since 1970.
        metrics: Values by name; empty for a file.
        artifact: Path below `artifacts` of a logged file, or None.
        end: Byte offset of the line's end.
    """

    kind: str
    step: int
    timestamp_ms: int
    metrics: dict[str, float] = field(default_factory=dict)
    artifact: str | None = None
    end: int


@dataclass(frozen=True)
class Cursor:
    """How much of the log a run has.

    Args:
        run_id: The MLflow run.
        metrics: Byte offset up to which it has the metrics.
        artifacts: Byte offset up to which it has the files.
    """

    run_id: str
    metrics: int = 0
    artifacts: int = 0


class Spool:
    """Read access to the log and its cursor.

    Args:
        folder: OUTPUT/tracking.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.lines = self.folder / LINES
        self.artifacts = self.folder / ARTIFACTS

    def entries(self, offset: int = 0) -> Iterator[LogEntry]:
        """Read the whole lines from a byte offset on; lines that a power cut damaged are skipped."""
        with suppress(FileNotFoundError), self.lines.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                offset += len(line)
                if not line.endswith(b"\n"):  # being written, or torn
                    return
                try:
                    entry = LogEntry(**json.loads(line), end=offset)
                except (ValueError, TypeError):
                    continue
                yield entry

    def flush_to_disk(self) -> None:
        """Make the lines survive a power cut."""
        if self.lines.exists():
            with self.lines.open("rb") as stream:
                os.fsync(stream.fileno())

    def read_cursor(self, run_id: str) -> Cursor:
        """Return how much a run has; nothing if the cursor belongs to another run."""
        with suppress(OSError, ValueError, TypeError):
            cursor = Cursor(**json.loads((self.folder / _CURSOR).read_bytes()))
            if cursor.run_id == run_id:
                return cursor
        return Cursor(run_id)

    def write_cursor(self, cursor: Cursor) -> None:
        """Write how much a run has, atomically."""
        write_atomic(str(self.folder / _CURSOR), json.dumps(asdict(cursor)).encode())

    @contextmanager
    def lock_for_sending(self) -> Iterator[None]:
        """Exclude other senders, in this process and in others.

        Raises:
            BlockingIOError: another one is sending.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


class SpoolWriter:
    """The one writer of a log; thread-safe.

    Args:
        spool: The log.
    """

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        spool.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._last_steps: dict[str, int] = {}
        self._last_ms = self._end = 0
        for entry in spool.entries():
            self._last_steps[entry.kind] = max(entry.step, self._last_steps.get(entry.kind, entry.step))
            self._last_ms = max(self._last_ms, entry.timestamp_ms)
            self._end = entry.end
        self._unwritten = b""
        self._file = os.open(spool.lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, self._end)

    def last_step(self, kind: str) -> int:
        """Return the last step of a kind, -1 before the first."""
        with self._lock:
            return self._last_steps.get(kind, -1)

    def append(self, kind: str, step: int, metrics: Mapping[str, float]) -> bool:
        """Append metrics, unless their kind has reached this step already; return whether they are new.

        Raises:
            OSError: the line cannot be written now; it is written before the next one that can.
        """
        return self._append(kind, step, {"metrics": dict(metrics)})

    def append_file(self, kind: str, step: int, name: str, path: str) -> bool:
        """Copy a file into the log's folder and append it as `append` does.

        Args:
            kind: Folder of files of this kind.
            step: Training step.
            name: Name of the series; the suffix is the file's own.
            path: The file.

        Raises:
            OSError: the file cannot be read or copied.
        """
        name = _UNSAFE_CHARACTERS.sub("_", name).strip(".") or "unnamed"
        if step <= self.last_step(f"{kind}/{name}"):
            return False
        artifact = f"{kind}/step-{step:08d}/{name}{Path(path).suffix}"
        with open(path, "rb") as stream:
            write_atomic(str(self.spool.artifacts / artifact), stream)
        return self._append(f"{kind}/{name}", step, {"artifact": artifact})

    def _append(self, kind: str, step: int, content: dict[str, Any]) -> bool:
        with self._lock:
            if step <= self._last_steps.get(kind, -1):
                return False
            self._last_steps[kind] = step
            # a clock that is set back must not change the order in which points are shown
            self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms)
            line = {"kind": kind, "step": step, "timestamp_ms": self._last_ms, **content}
            self._unwritten += json.dumps(line, separators=(",", ":")).encode() + b"\n"
            self._write()
            return True

    def _write(self) -> None:
        try:
            written = os.write(self._file, self._unwritten)
            if written < len(self._unwritten):
                raise OSError(f"only {written} of {len(self._unwritten)} bytes could be written")
        except OSError:
            with suppress(OSError):  # half a line would swallow the next one
                os.ftruncate(self._file, self._end)
            raise
        self._end += len(self._unwritten)
        self._unwritten = b""

    def close(self) -> None:
        """Close the file, after a last try to write what could not be written.

        Raises:
            OSError: it still cannot be written.
        """
        with self._lock:
            try:
                if self._unwritten:
                    self._write()
            finally:
                os.close(self._file)
