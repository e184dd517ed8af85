"""Outcome of a run: exit code, message, and result.json."""

import json
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from pipelines.storage.folder import Folder

RESULT = "result.json"


class Exit(IntEnum):
    """Exit codes of every job."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REJECTS = 3
    INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run.

    Args:
        code: Exit code.
        message: One line for users.
        facts: Further fields of result.json.
    """

    code: Exit
    message: str
    facts: dict[str, Any] = field(default_factory=dict)


def write_result(output: Folder, code: Exit | None, message: str, **facts: Any) -> None:
    """Write result.json: how the run ended, or that it is running if `code` is None."""
    status = "running" if code is None else code.name.lower()
    result = {"status": status, "exit_code": None if code is None else int(code), "message": message, **facts}
    output.write(RESULT, json.dumps(result, indent=1).encode())
