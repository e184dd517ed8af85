"""The spool of a run: what was logged, on a disk, before it goes anywhere else.

    tracking/metrics.jsonl   a line per logging call, in their order
    tracking/artifacts/      copies of the files that lines name
    tracking/cursor.json     how much of it has arrived, and where

A line is one write, so a process that dies leaves it whole or torn at the end; a torn one is cut off when the
spool is opened for writing again. Nothing is ever taken out: a run that is gone can be made again from here.
"""

import fcntl
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.storage.folder import write_locally

LINES, ARTIFACTS, _CURSOR, _LOCK = "metrics.jsonl", "artifacts", "cursor.json", ".lock"
_UNSAFE_CHARACTERS = re.compile(r"[^\w.\-]+")


@dataclass(frozen=True)
class LogEntry:
    """One logging call.

    Args:
        kind: What logged it; steps of one kind only rise.
        step: Of training.
        timestamp_ms: When, in milliseconds since 1970.
        metrics: Values by name; none where a file was logged.
        artifact: Path below `artifacts` of the file that was logged, or None.
        end: Byte in the spool at which its line has ended.
    """

    kind: str
    step: int
    timestamp_ms: int
    metrics: dict[str, float]
    artifact: str | None
    end: int


@dataclass(frozen=True)
class Cursor:
    """How much has arrived.

    Args:
        run_id: The MLflow run it arrived in.
        metrics: Bytes of the spool whose metrics have arrived.
        artifacts: Bytes of the spool whose files have arrived.
    """

    run_id: str
    metrics: int = 0
    artifacts: int = 0


class Spool:
    """A spool to read and to send from.

    Args:
        folder: OUTPUT/tracking.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.lines = self.folder / LINES
        self.artifacts = self.folder / ARTIFACTS

    def entries(self, offset: int = 0) -> Iterator[LogEntry]:
        """Give the calls from a byte on; a line that is being written is not there yet."""
        try:
            stream = self.lines.open("rb")
        except FileNotFoundError:
            return
        with stream:
            stream.seek(offset)
            for line in stream:
                offset += len(line)
                if not line.endswith(b"\n"):
                    return
                with suppress(ValueError, KeyError):  # what a power cut left of a line is no line
                    found = json.loads(line)
                    yield LogEntry(
                        found["kind"],
                        found["step"],
                        found["timestamp_ms"],
                        found.get("metrics", {}),
                        found.get("artifact"),
                        offset,
                    )

    def sync(self) -> None:
        """Make what was logged last through a power cut."""
        if self.lines.exists():
            with self.lines.open("rb") as stream:
                os.fsync(stream.fileno())

    def read_cursor(self, run_id: str) -> Cursor:
        """Give how much has arrived in a run: nothing in one that the spool does not know."""
        with suppress(OSError, ValueError, TypeError):
            found = Cursor(**json.loads((self.folder / _CURSOR).read_bytes()))
            if found.run_id == run_id:
                return found
        return Cursor(run_id)

    def write_cursor(self, cursor: Cursor) -> None:
        """Write how much has arrived."""
        write_locally(str(self.folder / _CURSOR), json.dumps(asdict(cursor)).encode())

    @contextmanager
    def lock_for_sending(self) -> Iterator[None]:
        """Send from this process and thread alone.

        Raises:
            BlockingIOError: another one sends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


class SpoolWriter:
    """The one who appends to a spool; safe for several threads.

    Args:
        spool: Where.
    """

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        spool.folder.mkdir(parents=True, exist_ok=True)
        self._cut_torn_line()
        self._last_steps: dict[str, int] = {}
        self._last_ms = 0
        for entry in spool.entries():
            self._last_steps[entry.kind] = max(entry.step, self._last_steps.get(entry.kind, entry.step))
            self._last_ms = max(self._last_ms, entry.timestamp_ms)
        self._lock = threading.Lock()
        self._waiting = b""
        self._file = os.open(spool.lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._end = os.fstat(self._file).st_size

    def _cut_torn_line(self) -> None:
        if not self.spool.lines.exists():
            return
        with self.spool.lines.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            whole = end
            while whole:
                start = max(whole - 65_536, 0)
                stream.seek(start)
                found = stream.read(whole - start).rfind(b"\n")
                if found >= 0:
                    whole = start + found + 1
                    break
                whole = start
            if whole < end:
                stream.truncate(whole)

    def last_step(self, kind: str) -> int:
        """Give the last step of a kind, -1 before the first."""
        with self._lock:
            return self._last_steps.get(kind, -1)

    def append(self, kind: str, step: int, metrics: Mapping[str, float]) -> bool:
        """Append a call, unless its kind has come to this step before; tell whether it is new.

        Raises:
            OSError: it cannot be written now; it will be, with the next one that can.
        """
        return self._append(kind, step, {"metrics": dict(metrics)})

    def append_file(self, kind: str, step: int, name: str, path: str) -> bool:
        """Copy a file into the spool, as `append` does.

        Args:
            kind: Folder of files of this kind.
            step: Of training.
            name: What the file shows; the suffix is the file's own.
            path: The file.

        Raises:
            OSError: it cannot be read or copied.
        """
        plain = _UNSAFE_CHARACTERS.sub("_", name).strip(".") or "unnamed"
        if step <= self.last_step(f"{kind}/{plain}"):
            return False
        artifact = f"{kind}/step-{step:08d}/{plain}{Path(path).suffix}"
        target = self.spool.artifacts / artifact
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            shutil.copyfile(path, scratch)
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
        return self._append(f"{kind}/{plain}", step, {"artifact": artifact})

    def _append(self, kind: str, step: int, content: dict[str, Any]) -> bool:
        with self._lock:
            if step <= self._last_steps.get(kind, -1):
                return False
            self._last_steps[kind] = step
            # a clock that is set back must not change the order in which points are shown
            self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms)
            line = {"kind": kind, "step": step, "timestamp_ms": self._last_ms, **content}
            self._waiting += json.dumps(line, separators=(",", ":")).encode() + b"\n"
            self._write()
            return True

    def _write(self) -> None:
        try:
            written = os.write(self._file, self._waiting)
            if written < len(self._waiting):
                raise OSError(f"only {written} of {len(self._waiting)} bytes could be written")
        except OSError:
            with suppress(OSError):  # half a line would swallow the next one
                os.ftruncate(self._file, self._end)
            raise
        self._end += len(self._waiting)
        self._waiting = b""

    def close(self) -> None:
        """Close the file; what could not be written is tried once more.

        Raises:
            OSError: it still cannot be written.
        """
        with self._lock:
            try:
                if self._waiting:
                    self._write()
            finally:
                os.close(self._file)
