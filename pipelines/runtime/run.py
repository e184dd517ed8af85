"""The frame of every job: lock the output, check its fingerprint, run, write result.json.

A local output is locked with flock, which is released when the process ends, however it ends. Object stores
have no locks: two runs on the same folder there would write the same bytes under the same names.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.errors import OutputTakenError, UsageError
from pipelines.runtime.outcome import (
    Exit,
    Outcome,
    outcome_of_error,
    read_exit_code,
    write_refusal,
    write_result,
)
from pipelines.runtime.signals import sigterm_as_interrupt
from pipelines.storage.folder import Folder, is_uri
from pipelines.storage.object_store import refuse_credentials

FINGERPRINT = "fingerprint.json"
_SHOWN = 5


def run_exclusively(
    output: Folder,
    prepare: Callable[[], Outcome | None],
    work: Callable[[], Outcome],
    *,
    activity: str,
    resume_hint: str,
) -> Outcome:
    """Run a job with its output locked, and write result.json, however it ends.

    Args:
        output: Output folder; not changed if another run has locked it, or if `prepare` raises
            OutputTakenError: it was made with something else.
        prepare: Checks everything that can be checked, and the fingerprint. Its return value, if any, is the
            outcome of the run: it was finished before. What the user must change is a usage error; a server,
            a disk or a library that does not work is a failure.
        work: Does the work.
        activity: Message of result.json while the work runs.
        resume_hint: What is kept after an interruption or a failure, and how to resume.
    """
    try:
        with sigterm_as_interrupt(), lock_output(output):
            return _run_locked(output, prepare, work, activity, resume_hint)
    except UsageError as error:  # taken by another run, or no place to write to
        return Outcome(Exit.USAGE, str(error))
    except OSError as error:
        return Outcome(Exit.FAILED, f"cannot write to {output.location}: {error}")
    except KeyboardInterrupt as error:
        outcome = outcome_of_error(error, resume_hint)
        record_end(output.location, outcome)
        return outcome


def _run_locked(
    output: Folder,
    prepare: Callable[[], Outcome | None],
    work: Callable[[], Outcome],
    activity: str,
    resume_hint: str,
) -> Outcome:
    try:
        outcome = prepare()
        if outcome and outcome.code == read_exit_code(output):
            return outcome  # finished before: nothing is changed
    except OutputTakenError:
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        outcome = outcome_of_error(error, "nothing was started", checking=True)
        write_refusal(output, outcome)
        return outcome
    if outcome is None:
        try:
            write_result(output, None, activity)
            outcome = work()
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            outcome = outcome_of_error(error, resume_hint)
    try:
        write_result(output, outcome.code, outcome.message, **outcome.facts)
    except KeyboardInterrupt:  # too late: the run has ended
        write_result(output, outcome.code, outcome.message, **outcome.facts)
    return outcome


def record_end(location: str, outcome: Outcome) -> None:
    """Write result.json of a run that ended before its output was locked, such as by an invalid option.

    Does nothing if that is not possible, or if another run has locked the output.
    """
    with suppress(ValueError, OSError):
        output = Folder(absolute_location(location, "--output"))
        with lock_output(output):
            write_refusal(output, outcome)


def in_submitted_job() -> bool:
    """Return whether this process was started by `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def absolute_location(location: str, option: str) -> str:
    """Return an absolute path for a path, and a URI as it is.

    Raises:
        UsageError: the path is relative and this is a submitted job, whose working directory is temporary; or
            the URI contains credentials.
    """
    if is_uri(location):
        refuse_credentials(location)
        return location.rstrip("/")
    if not os.path.isabs(location) and in_submitted_job():
        raise UsageError(
            f"{option} {location!r} is relative: inside a submitted job it would be in the job's temporary "
            "folder. Give an absolute path that every node sees, or a URI such as s3://bucket/path"
        )
    return os.path.abspath(location)


@contextmanager
def lock_output(output: Folder) -> Iterator[None]:
    """Lock an output for this process until the block ends.

    Raises:
        OutputTakenError: another run has locked it.
    """
    if not output.is_local:
        yield
        return
    os.makedirs(output.path(), exist_ok=True)
    with open(output.path(".lock"), "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputTakenError(
                f"another run is writing to {output.location}. Wait for it, or give another --output"
            ) from error
        output.delete_temporary()
        yield


def check_fingerprint(
    output: Folder,
    fingerprint: dict[str, Any],
    *,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Write the fingerprint of a new output, or compare it with that of an existing one.

    Args:
        output: Output folder.
        fingerprint: All that determines the result.
        upgrade: Converts a fingerprint that an earlier release wrote.

    Raises:
        OutputTakenError: the output was created with another configuration; the text says what differs.
    """
    if not output.exists(FINGERPRINT):
        output.write(FINGERPRINT, json.dumps(fingerprint, indent=1, sort_keys=True).encode())
        return
    there = json.loads(output.read(FINGERPRINT))
    there = upgrade(there) if upgrade else there
    here = json.loads(json.dumps(fingerprint))
    if there != here:
        found = describe_differences(there, here)
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise OutputTakenError(
            f"{output.location} was created with a different configuration: "
            f"{'; '.join(found[:_SHOWN])}{more}. Give another --output, or the configuration of this one"
        )


def describe_differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Return a text for each value that differs between two nested dictionaries."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted({*there, *here})
        return [
            text
            for key in keys
            for text in describe_differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if there == here else [f"{name} was {there!r}, is {here!r}"]
