"""Bringing a spool to an MLflow run, however often that takes.

A point keeps the timestamp of its first logging, and MLflow's databases hold a point once (their key is run,
name, timestamp, step and value), so sending again what may have arrived is safe. A run is found again by its
id, or by a tag that only it has; one that is gone is made again and gets everything.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.redaction import shown
from pipelines.runtime.progress import say
from pipelines.runtime.run import root_cause
from pipelines.storage.folder import write_locally
from pipelines.tracking.client import (
    KEY_TAG,
    MAX_METRICS_PER_BATCH,
    log_metrics,
    log_params,
    make_client,
    short_timeouts,
)
from pipelines.tracking.spool import Cursor, LogEntry, Spool

RUN_FILE = "run.json"
_MAX_REASON_LENGTH = 200


@dataclass(frozen=True)
class Target:
    """The MLflow run that a spool belongs to; the same for the whole life of an output.

    Args:
        folder: OUTPUT/tracking.
        uri: Of the tracking server or database.
        key: Value of the tag by which the run is found when its id is not known.
        experiment: Name.
        run_name: Name; unset lets MLflow invent one.
        artifact_location: Where files go if the experiment is new; unset lets the server decide.
        request_seconds: Longest wait for one answer of the server.
        params: Values by name, within MLflow's limits.
        tags: The same.
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
    """Give what is known of an output's run: `target`, `run_id`, `status`; nothing if there is none."""
    with suppress(OSError, ValueError):
        found = json.loads((Path(folder) / RUN_FILE).read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def write_run_file(target: Target, run_id: str | None, status: str) -> None:
    """Keep what is known of an output's run."""
    content = {"run_id": run_id, "status": status, "target": {**asdict(target), "uri": shown(target.uri)}}
    write_locally(str(Path(target.folder) / RUN_FILE), json.dumps(content, indent=1).encode())


class MlflowSync:
    """Sends what is in a spool to its run.

    Args:
        target: Whose spool.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.spool = Spool(target.folder)
        self.run_id: str | None = None
        self._client: Any = None
        self._status = "RUNNING"
        self._failing = False

    def sync(self, status: str = "RUNNING") -> bool:
        """Send everything there is, and tell whether it has arrived. Never raises.

        Args:
            status: What the run is to have once everything is there.
        """
        try:
            with self.spool.lock_for_sending(), short_timeouts(self.target.request_seconds):
                self._connect()
                self._send_metrics()
                self._send_files()
                self._set_status(status)
        except BlockingIOError:  # another process of the run sends just now
            return False
        except Exception as error:  # whatever a server, a database or a disk throws only delays
            self.run_id = None  # so that the next attempt looks whether it is still there
            if not self._failing:
                place = shown(self.target.uri)
                reason = root_cause(error).replace(self.target.uri, place)[:_MAX_REASON_LENGTH]
                say(
                    f"tracking: nothing reaches {place} now ({reason}). The run goes on; what it logs is "
                    f"kept in {self.spool.lines} and sent later"
                )
            self._failing = True
            return False
        if self._failing:
            say(f"tracking: everything logged so far has reached {shown(self.target.uri)}")
        self._failing = False
        return True

    def _connect(self) -> None:
        if self.run_id is not None:
            return
        if self._client is None:
            self._client = make_client(self.target.uri)
        known = read_run_file(self.target.folder)
        run = self._find(known.get("run_id")) or self._make()
        run_id = run.info.run_id
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        self._log_params(run_id, there=run.data.params)
        write_run_file(self.target, run_id, known.get("status", "RUNNING"))
        self._status = "RUNNING"
        self.run_id = run_id

    def _find(self, run_id: str | None) -> Any:
        from mlflow.exceptions import MlflowException

        if run_id:
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if run.info.lifecycle_stage == "active":
                    return run
        experiment = self._client.get_experiment_by_name(self.target.experiment)
        if experiment is None:
            return None
        if experiment.lifecycle_stage != "active":
            raise RuntimeError(
                f"the experiment {self.target.experiment!r} was deleted: restore it, or name another one"
            )
        # a request to make the run may have been answered too late, and yet been done
        found = self._client.search_runs(
            [experiment.experiment_id],
            filter_string=f"tags.`{KEY_TAG}` = '{self.target.key}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return found[0] if found else None

    def _make(self) -> Any:
        experiment = self._client.get_experiment_by_name(self.target.experiment)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(
                self.target.experiment, artifact_location=self.target.artifact_location
            )
        )
        tags = {**self.target.tags, KEY_TAG: self.target.key}
        return self._client.create_run(experiment_id, tags=tags, run_name=self.target.run_name)

    def _log_params(self, run_id: str, *, there: dict[str, str]) -> None:
        """Log the params that are not there: MLflow refuses to change one."""
        log_params(self._client, run_id, self.target.params, logged=there)

    def _send_metrics(self) -> None:
        assert self.run_id is not None  # noqa: S101 - our invariant
        cursor = self.spool.read_cursor(self.run_id)
        waiting: list[LogEntry] = []
        count = 0
        for entry in self.spool.entries(cursor.metrics):
            if waiting and count + len(entry.metrics) > MAX_METRICS_PER_BATCH:
                cursor = self._send_batch(waiting, cursor)
                waiting, count = [], 0
            waiting.append(entry)
            count += len(entry.metrics)
        if waiting:
            self._send_batch(waiting, cursor)

    def _send_batch(self, entries: list[LogEntry], cursor: Cursor) -> Cursor:
        assert self.run_id is not None  # noqa: S101 - our invariant
        self.spool.sync()  # what a power cut took from the spool alone would be logged, and sent, once more
        points = [
            (name, value, entry.timestamp_ms, entry.step)
            for entry in entries
            for name, value in entry.metrics.items()
        ]
        log_metrics(self._client, self.run_id, points)
        cursor = replace(cursor, metrics=entries[-1].end)
        self.spool.write_cursor(cursor)
        return cursor

    def _send_files(self) -> None:
        """Send files after all metrics: a store that refuses files holds no number back."""
        assert self.run_id is not None  # noqa: S101 - our invariant
        kept = cursor = self.spool.read_cursor(self.run_id)
        for entry in self.spool.entries(cursor.artifacts):
            cursor = replace(cursor, artifacts=entry.end)
            if entry.artifact is None:
                continue
            path = self.spool.artifacts / entry.artifact
            if path.exists():  # who deleted it does not want it
                self._client.log_artifact(self.run_id, str(path), str(Path(entry.artifact).parent))
            self.spool.write_cursor(cursor)
            kept = cursor
        if cursor != kept:  # lines without files need not be read again
            self.spool.write_cursor(cursor)

    def _set_status(self, status: str) -> None:
        if status == self._status:
            return
        if status == "RUNNING":
            self._client.update_run(self.run_id, status=status)
        else:
            self._client.set_terminated(self.run_id, status)
        self._status = status
