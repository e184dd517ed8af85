"""Outcome of a run: exit code, message, and result.json."""

import json
import traceback
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from pipelines.errors import NonRetryableError, UsageError, root_cause
from pipelines.redaction import redact
from pipelines.storage.folder import Folder

RESULT = "result.json"
_FINISHED = ("done", "rejects")
_OWN_PACKAGES = ("apollo", "pipelines", "jobs", "__main__")


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


def outcome_of_error(error: BaseException, hint: str, *, checking: bool = False) -> Outcome:
    """Return the outcome of a run that an error ended.

    Args:
        error: What was raised. KeyboardInterrupt is an interruption, and SystemExit too: Ray's own handler of
            SIGTERM raises it.
        hint: What is kept, and how to resume.
        checking: Whether the configuration was being checked: ValueErrors of this project are then usage.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return Outcome(Exit.INTERRUPTED, f"interrupted; {hint}")
    if isinstance(error, UsageError) or (checking and _is_usage(error)):
        return Outcome(Exit.USAGE, redact(str(error)))
    if isinstance(error, NonRetryableError):
        return Outcome(Exit.FAILED, str(error))
    if not isinstance(error, OSError | RuntimeError):
        traceback.print_exception(error)  # an unexpected kind: a bug, whose place is needed
    return Outcome(Exit.FAILED, f"{root_cause(error)}; {hint}")


def _is_usage(error: BaseException) -> bool:
    """Return whether the user must change something.

    This project raises ValueError for that. Libraries raise it too, for damaged files, and an OSError is a
    disk, a store or a server that does not work.
    """
    if not isinstance(error, ValueError) or isinstance(error, OSError | UnicodeError):
        return False
    own = type(error).__module__.partition(".")[0] in _OWN_PACKAGES
    return own or (type(error) is ValueError and _raised_in(error).partition(".")[0] in _OWN_PACKAGES)


def _raised_in(error: BaseException) -> str:
    """Return the name of the module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")) if trace else ""


def write_result(output: Folder, code: Exit | None, message: str, **facts: Any) -> None:
    """Write result.json: how the run ended, or that it is running if `code` is None."""
    output.write(RESULT, result_json(code, message, **facts))


def result_json(code: Exit | None, message: str, **facts: Any) -> bytes:
    """Return the content of result.json."""
    status = "running" if code is None else code.name.lower()
    result = {"status": status, "exit_code": None if code is None else int(code), "message": message, **facts}
    return json.dumps(result, indent=1).encode()


def write_refusal(output: Folder, outcome: Outcome) -> None:
    """Write result.json of a run that ended before its work began.

    The result of a finished run is kept as `previous`, which `read_finished` returns.
    """
    finished = read_finished(output)
    kept = {"previous": finished} if finished else {}
    write_result(output, outcome.code, outcome.message, **outcome.facts, **kept)


def read_finished(output: Folder) -> dict[str, Any] | None:
    """Return the result of the last run of an output if it finished, or of the one before its refusals."""
    result = _read_result(output)
    result = result.get("previous", result)
    return result if isinstance(result, dict) and result.get("status") in _FINISHED else None


def read_exit_code(output: Folder) -> int | None:
    """Return the exit code in result.json; None if the run has not ended or the file cannot be read."""
    code = _read_result(output).get("exit_code")
    return code if isinstance(code, int) else None


def _read_result(output: Folder) -> dict[str, Any]:
    try:
        result = json.loads(output.read(RESULT))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}
