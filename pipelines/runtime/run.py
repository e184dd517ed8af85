"""One run over one output: the lock, the fingerprint, and the frame that every job works in.

A local output is locked with flock, which ends with the process however it dies. Object stores have no such
thing: two runs on one of their folders would write the same bytes under the same names.
"""

import fcntl
import json
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.errors import NonRetryableError, UsageError, root_cause
from pipelines.runtime.outcome import Exit, Outcome, write_result
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
    """Hold an output while its work is done, and leave result.json, however it ends.

    Args:
        output: Where. One that another run holds, or that `prepare` refuses, is left as it is.
        prepare: Checks what can be checked and claims the output, before anything is begun. What it gives, if
            anything, is how the run ends at once: it was finished before. Its errors are the user's.
        work: What there is to do.
        activity: Message of result.json while the work runs.
        resume_hint: What is kept after an interruption or a failure, and how to resume.
    """
    try:
        with lock_output(output), sigterm_as_interrupt():
            try:
                finished = prepare()
            except (ValueError, RuntimeError) as error:  # nothing is begun, and what is there stays as it is
                return Outcome(Exit.USAGE, str(error))
            except OSError as error:
                return Outcome(Exit.FAILED, f"nothing was begun: {error}")
            except KeyboardInterrupt:
                return Outcome(Exit.INTERRUPTED, "interrupted before anything was begun")
            return finished or _work_held(output, work, activity, resume_hint)
    except UsageError as error:
        return Outcome(Exit.USAGE, str(error))
    except OSError as error:
        return Outcome(Exit.FAILED, f"cannot write to {output.location}: {error}")


def _work_held(output: Folder, work: Callable[[], Outcome], activity: str, resume_hint: str) -> Outcome:
    write_result(output, None, activity)
    try:
        outcome = work()
    except UsageError as error:
        outcome = Outcome(Exit.USAGE, str(error))
    except NonRetryableError as error:
        outcome = Outcome(Exit.FAILED, str(error))
    except KeyboardInterrupt:
        outcome = Outcome(Exit.INTERRUPTED, f"interrupted; {resume_hint}")
    except Exception as error:
        if not isinstance(error, OSError | RuntimeError):
            traceback.print_exc()  # not of the kinds that runs meet; whoever mends it needs the place
        outcome = Outcome(Exit.FAILED, f"{root_cause(error)}; {resume_hint}")
    write_result(output, outcome.code, outcome.message, **outcome.facts)
    return outcome


def in_submitted_job() -> bool:
    """Tell whether this process was started by `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def absolute_location(location: str, option: str) -> str:
    """Make a path absolute; URIs stay.

    Raises:
        UsageError: the path is relative and this is a submitted job, whose working directory is scratch; or
            the URI holds credentials.
    """
    if is_uri(location):
        refuse_credentials(location)
        return location.rstrip("/")
    if not os.path.isabs(location) and in_submitted_job():
        raise UsageError(
            f"{option} {location!r} is relative: inside a submitted job it would be in the job's scratch "
            "folder. "
            "Give an absolute path that every node sees, or a URI such as s3://bucket/path"
        )
    return os.path.abspath(location)


@contextmanager
def lock_output(output: Folder) -> Iterator[None]:
    """Hold an output for this process alone.

    Raises:
        UsageError: another run holds it.
    """
    if not output.is_local:
        yield
        return
    os.makedirs(output.path(), exist_ok=True)
    with open(output.path(".lock"), "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another run is writing to {output.location}. Wait for it, or name another --output"
            ) from error
        output.delete_temporary()
        yield


def check_fingerprint(
    output: Folder,
    fingerprint: dict[str, Any],
    *,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Write the fingerprint of a new output, or compare it with the one there.

    Args:
        output: Of the run.
        fingerprint: What decides the result.
        upgrade: Converts a fingerprint that an earlier release wrote.

    Raises:
        UsageError: the output belongs to another configuration; the text says what differs.
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
        raise UsageError(
            f"{output.location} was begun with something else: {'; '.join(found[:_SHOWN])}{more}. "
            "Name another --output, or give what it was begun with"
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
