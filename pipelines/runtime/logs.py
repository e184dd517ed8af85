"""Logging of jobs: one handler on stderr, and the path of training workers' records to the driver.

Modules log with `logging.getLogger(__name__)`. Only records of this project are shown below WARNING; those of
libraries are shown from WARNING on, and warnings of Python's `warnings` are records too.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from pipelines.redaction import redact

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_PROJECT = ("apollo", "pipelines", "benchmarks")
_FORMAT = "%(asctime)s %(levelname)s %(rank)s%(message)s"
_DATE_FORMAT = "%Y-%m-%d %H:%M:%S"


class _Formatter(logging.Formatter):
    """Formats a record with its time, level and rank, and hides passwords in it and in its traceback."""

    def __init__(self) -> None:
        super().__init__(_FORMAT, _DATE_FORMAT, defaults={"rank": ""})

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _TerminalHandler(logging.Handler):
    """Writes records to the stderr of this moment, without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


class _ForwardingHandler(logging.Handler):
    """Passes records to a function as plain values; see `emit_forwarded`."""

    def __init__(self, send: Callable[[dict[str, Any]], object], rank: int) -> None:
        super().__init__()
        self._send, self._rank = send, rank

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
            self._send(
                {
                    "name": record.name,
                    "levelno": record.levelno,
                    "levelname": record.levelname,
                    "created": record.created,
                    "msg": redact(text),
                    "rank": f"[rank {self._rank}] ",
                }
            )
        except Exception:
            self.handleError(record)


def configure(level: str = "INFO") -> None:
    """Write this process's log records to stderr; may be called again to change the level.

    Args:
        level: Least level of this project's records, one of LEVELS; libraries' are shown from WARNING on.
    """
    handler = _TerminalHandler()
    handler.setFormatter(_Formatter())
    _install(handler, level)


def forward(send: Callable[[dict[str, Any]], object], *, rank: int, level: str) -> None:
    """Pass this process's log records to another one, in place of writing them.

    Args:
        send: Called with each record as a dictionary of plain values; must not wait.
        rank: Of this process; it is shown in the line.
        level: As for `configure`.
    """
    _install(_ForwardingHandler(send, rank), level)


def emit_forwarded(values: dict[str, Any]) -> None:
    """Handle a record that another process forwarded, with its own logger, level, time and rank."""
    logger = logging.getLogger(values["name"])
    if logger.isEnabledFor(values["levelno"]):
        logger.handle(logging.makeLogRecord(values))


def current_level() -> str:
    """Return the least level of this project's records that this process shows."""
    return logging.getLevelName(logging.getLogger(_PROJECT[1]).getEffectiveLevel())


def _install(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    for other in root.handlers[:]:
        if isinstance(other, _TerminalHandler | _ForwardingHandler):
            root.removeHandler(other)
    root.addHandler(handler)
    for name in _PROJECT:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
