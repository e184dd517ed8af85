"""Errors of all jobs, and what failed first behind an error."""

import re

from pipelines.redaction import redact

_NAMED_ERROR = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception)): (.+)$", re.MULTILINE)


class UsageError(ValueError):
    """What was asked for cannot be done as asked; the text says what, why, what to do, and no password."""

    def __init__(self, text: str) -> None:
        super().__init__(redact(text))


class NonRetryableError(RuntimeError):
    """What running the same again would meet again."""


def root_cause(error: BaseException) -> str:
    """Say in one line what failed first, without passwords.

    An error that crossed processes carries the other side's traceback as its text and nothing else, so the
    first error named in it is taken.
    """
    remote = _NAMED_ERROR.search(str(error)) if "ray::" in str(error) else None
    if remote:
        return redact(f"{remote[1]}: {remote[2]}")
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redact(f"{type(error).__name__}: {lines[0]}") if lines else type(error).__name__
