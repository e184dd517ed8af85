"""How a run ends: exit codes, and result.json, which outlives the process."""

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
    """How a run ended.

    Args:
        code: Exit code.
        message: In words.
        facts: What result.json says beside.
    """

    code: Exit
    message: str
    facts: dict[str, Any] = field(default_factory=dict)


def write_result(output: Folder, code: Exit | None, message: str, **facts: Any) -> None:
    """Say how the run ended, or with no code that it goes on, for whoever cannot trust an exit code."""
    status = "running" if code is None else code.name.lower()
    result = {"status": status, "exit_code": None if code is None else int(code), "message": message, **facts}
    output.write(RESULT, json.dumps(result, indent=1).encode())
