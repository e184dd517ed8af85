"""Warnings and errors that processes of Ray print on any node, as log records of the driver.

Ray sends all output of its processes to the driver. Most of it is chatter, so only lines that look like a
warning, an error or a traceback are logged. Training workers send their log records themselves
(`cluster.coordinator`), so of their output only crashes are logged.
"""

import logging
import re
from typing import Any

logger = logging.getLogger(__name__)

_CHATTER = re.compile(
    r"has constructor arguments in the object store|State API may be temporarily unavailable"
    r"|Failed to kill actor"
)
_TIME = r"\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[,.\d]*\]?"
_LEVEL = re.compile(rf"{_TIME}\s+(?P<level>WARNING|ERROR|CRITICAL)\s+(?P<text>.*)")
_RAY_LEVEL = re.compile(rf"{_TIME}\s+(?P<level>[EF])\s+\d+")  # of Ray's own processes; W is chatter
_CRASH = re.compile(r"Fatal Python error|Segmentation fault|terminate called|\*\*\* SIG\w+ received")
_CLUSTER = "raylet"
_TRACEBACK = "Traceback (most recent call last)"
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b(?::|$)")
_WARNING = re.compile(r"\b\w*Warning: |\[FailurePolicy\]")


class WorkerOutput:
    """Logs the warnings and errors in batches of lines as Ray sends them."""

    def __init__(self) -> None:
        self._in_traceback = set[Any]()  # processes whose last line was in a traceback

    def __call__(self, batch: dict[str, Any]) -> None:
        """Log what is a warning or an error.

        Args:
            batch: `lines` of the process `pid` at `ip`, in the actor or task `actor_name` or `task_name`.
        """
        if batch.get("pid") == _CLUSTER and "ip" not in batch:  # a message of Ray about the cluster
            for text in batch.get("lines", []):
                logger.warning(f"Ray: {' '.join(text.split())}")
            return
        name = batch.get("actor_name") or batch.get("task_name") or ""
        here = batch.get("ip") == batch.get("localhost")
        process = f"{name} pid={batch.get('pid')}" if name else str(batch.get("pid"))  # such as "raylet"
        source = f"({process}" + ("" if here else f", ip={batch.get('ip')}") + ")"
        for line in batch.get("lines", []):
            found = self._level(batch.get("pid"), line, only_crashes=name == "RayTrainWorker")
            if found:
                logger.log(found[0], f"{source} {found[1]}")

    def _level(self, pid: Any, line: str, *, only_crashes: bool) -> tuple[int, str] | None:
        if _CRASH.search(line):
            return logging.ERROR, line
        if only_crashes or _CHATTER.search(line):
            return None
        if _TRACEBACK in line:
            self._in_traceback.add(pid)
            return logging.ERROR, line
        if pid in self._in_traceback:
            if not line.startswith((" ", "\t")):
                self._in_traceback.discard(pid)  # the line with the error
            return logging.ERROR, line
        if match := _LEVEL.match(line):
            return logging.getLevelNamesMapping()[match["level"]], match["text"]
        if _RAY_LEVEL.match(line) or _ERROR.match(line):
            return logging.ERROR, line
        return (logging.WARNING, line) if _WARNING.search(line) else None
