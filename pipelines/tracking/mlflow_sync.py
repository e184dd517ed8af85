"""Synchronization of a log on disk with an MLflow run, however often that takes.

A point keeps the timestamp of its first logging, and MLflow's databases store a point once (their key is run,
name, timestamp, step and value), so sending again what may have arrived is safe. A run is found by its id, or
by a tag with a unique key; one that was deleted is created again and gets everything.
"""

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.errors import root_cause
from pipelines.redaction import redact
from pipelines.storage.atomic import write_atomic
from pipelines.tracking.client import (
    KEY_TAG,
    find_run,
    log_metrics,
    log_params,
    make_client,
    open_experiment,
    short_timeouts,
)
from pipelines.tracking.spool import Spool

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
_MAX_REASON_LENGTH = 200
_LINES_PER_CURSOR = 100


@dataclass(frozen=True)
class Target:
    """The MLflow run of an output; the same for the whole life of the output.

    Args:
        folder: OUTPUT/tracking.
        uri: Tracking server or database.
        key: Value of the tag by which the run is found when its id is not known.
        experiment: Name of the experiment.
        run_name: Name of the run; unset lets MLflow choose one.
        artifact_location: Where files go if the experiment is new; unset lets the server decide.
        request_seconds: Timeout of a request.
        params: Values by name, within MLflow's limits.
        tags: Values by name, within MLflow's limits.
    """

    folder: str
    uri: str
    key: str
    experiment: str
    run_name: str | None
    artifact_location: str | None
    request_seconds: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def read_run_file(folder: str) -> dict[str, Any]:
    """Read `target`, `run_id` and `status` of an output's run; empty if there is none."""
    with suppress(OSError, ValueError):
        found = json.loads((Path(folder) / RUN_FILE).read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def write_run_file(target: Target, run_id: str | None, status: str) -> None:
    """Write what `read_run_file` reads, without passwords."""
    content = {"run_id": run_id, "status": status, "target": {**asdict(target), "uri": redact(target.uri)}}
    write_atomic(str(Path(target.folder) / RUN_FILE), json.dumps(content, indent=1).encode())


class MlflowSync:
    """Sends what is in a log to its MLflow run.

    Args:
        target: The run.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.spool = Spool(target.folder)
        self._run_id: str | None = None
        self._client: Any = None
        self._status = "RUNNING"
        self._failing = False

    def sync(self, status: str = "RUNNING") -> bool:
        """Send everything that is in the log, and return whether the server has it now. Never raises.

        Args:
            status: Status of the run once everything has arrived.
        """
        place = redact(self.target.uri)
        try:
            with self.spool.lock_for_sending(), short_timeouts(self.target.request_seconds):
                run_id = self._run_id = self._run_id or self._open()
                self._send_metrics(run_id)
                self._send_files(run_id)  # last: a store that refuses files must not delay metrics
                self._set_status(run_id, status)
        except BlockingIOError:  # another process of the run is sending
            return False
        except Exception as error:  # whatever a server, a database or a disk raises only delays
            self._run_id = None  # the next call checks whether the run still exists
            if not self._failing:
                reason = root_cause(error).replace(self.target.uri, place)[:_MAX_REASON_LENGTH]
                logger.warning(
                    f"MLflow server {place} unreachable ({reason}): metrics are buffered in "
                    f"{self.spool.lines} and sent later"
                )
            self._failing = True
            return False
        if self._failing:
            logger.info(f"MLflow server {place} reachable again: all buffered metrics were sent")
        self._failing = False
        return True

    def _open(self) -> str:
        """Find or create the run, and log its missing params."""
        if self._client is None:
            self._client = make_client(self.target.uri)
        known = read_run_file(self.target.folder)
        run = self._find_by_id(known.get("run_id")) or self._find_by_key_or_create()
        run_id = str(run.info.run_id)
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        self._status = "RUNNING"
        log_params(self._client, run_id, self.target.params, logged=run.data.params)
        write_run_file(self.target, run_id, known.get("status", "RUNNING"))
        return run_id

    def _find_by_id(self, run_id: str | None) -> Any:
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _find_by_key_or_create(self) -> Any:
        """Return the run with the key, whose creation the server may not have answered, or a new one."""
        target, key = self.target, {KEY_TAG: self.target.key}
        experiment_id = open_experiment(self._client, target.experiment, target.artifact_location)
        return find_run(self._client, experiment_id, key) or self._client.create_run(
            experiment_id, tags={**target.tags, **key}, run_name=target.run_name
        )

    def _send_metrics(self, run_id: str) -> None:
        cursor = self.spool.read_cursor(run_id)
        entries = self.spool.entries(cursor.metrics)
        while chunk := list(islice(entries, _LINES_PER_CURSOR)):
            self.spool.flush_to_disk()  # a line that a power cut takes here would be logged and sent twice
            points = [
                (name, value, entry.timestamp_ms, entry.step)
                for entry in chunk
                for name, value in entry.metrics.items()
            ]
            log_metrics(self._client, run_id, points)
            cursor = replace(cursor, metrics=chunk[-1].end)
            self.spool.write_cursor(cursor)

    def _send_files(self, run_id: str) -> None:
        sent = cursor = self.spool.read_cursor(run_id)
        for entry in self.spool.entries(cursor.artifacts):
            cursor = replace(cursor, artifacts=entry.end)
            if entry.artifact is None:
                continue
            path = self.spool.artifacts / entry.artifact
            if path.exists():  # else it was deleted locally
                self._client.log_artifact(run_id, str(path), str(Path(entry.artifact).parent))
            self.spool.write_cursor(cursor)
            sent = cursor
        if cursor != sent:
            self.spool.write_cursor(cursor)

    def _set_status(self, run_id: str, status: str) -> None:
        if status == self._status:
            return
        if status == "RUNNING":
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status)
        self._status = status
