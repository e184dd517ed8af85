"""Errors of all jobs, and the root cause of an error."""

import re

from pipelines.redaction import redact

_NAMED_ERROR = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception)): (.+)$", re.MULTILINE)


class UsageError(ValueError):
    """Invalid input or configuration; the text says what, why and what to do, without secrets."""

    def __init__(self, text: str) -> None:
        super().__init__(redact(text))


class OutputTakenError(UsageError):
    """An output that another run has locked, or that was made with something else: it is not changed."""


class NonRetryableError(RuntimeError):
    """An error that a retry would meet again."""


def root_cause(error: BaseException) -> str:
    """Return in one line what failed first, without secrets.

    An error from another process has only the traceback there as its text: the first error named in it is
    taken.
    """
    remote = _NAMED_ERROR.search(str(error)) if "ray::" in str(error) else None
    if remote:
        return redact(f"{remote[1]}: {remote[2]}")
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redact(f"{type(error).__name__}: {lines[0]}") if lines else type(error).__name__
