"""Experiment tracking: one MLflow run for the whole life of an output, whatever is killed meanwhile.

The driver opens and closes the run; rank 0 logs. Logging appends to a file on disk (`tracking.spool`), and a
thread sends that to the server (`tracking.mlflow_sync`): a server that is down, slow or locked only delays,
and a run that was killed and resumed has each point once.
"""

import logging
import os
import posixpath
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import UsageError
from pipelines.redaction import redact
from pipelines.storage.folder import is_uri
from pipelines.tracking.client import MAX_TAG_LENGTH, flatten, sanitize_name
from pipelines.tracking.mlflow_sync import MlflowSync, Target, read_run_file, write_run_file
from pipelines.tracking.spool import Spool, SpoolWriter
from pipelines.tracking.system_metrics import SystemMetrics
from pipelines.tracking.uri import artifact_location, check_uri, resolve_uri

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
FOLDER = "tracking"
_RETRY_SECONDS, _MAX_RETRY_SECONDS = 1.0, 60.0


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow tracking.

    Args:
        experiment: Name of the MLflow experiment.
        run_name: Name of the run; unset lets MLflow choose one.
        uri: MLflow tracking server or database. Unset takes MLFLOW_TRACKING_URI, else OUTPUT/mlflow.db.
        flush_seconds: Interval of sending what was logged.
        close_seconds: Longest wait for the server at the end; what it lacks then stays in the output.
        request_seconds: Timeout of a request.
        system_metrics: Whether to log CPU and memory use of rank 0's machine.
        system_seconds: Interval of these.
    """

    experiment: str = "apollo"
    run_name: str | None = None
    uri: str | None = None
    flush_seconds: float = 5.0
    close_seconds: float = 30.0
    request_seconds: int = 10
    system_metrics: bool = True
    system_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ValueError("tracking.experiment is empty: name the experiment")
        for name in ("flush_seconds", "close_seconds", "request_seconds", "system_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"tracking.{name} is {getattr(self, name)}: it must be above 0")


def git_commit() -> str:
    """Return the commit of this package's checkout, with `-dirty` where files differ; else `unknown`.

    APOLLO_COMMIT takes precedence, for submitted jobs, which have no checkout.
    """
    if commit := os.environ.get("APOLLO_COMMIT"):
        return commit
    here = Path(__file__)
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 - no shell
            ["git", "-C", str(here.parent), *arguments],  # noqa: S607
            capture_output=True, text=True, check=True, timeout=10, env=environment,
        ).stdout.strip()  # fmt: skip

    try:
        git("ls-files", "--error-unmatch", here.name)  # an environment may lie in another project's checkout
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@dataclass(frozen=True)
class Run:
    """An open run; picklable, so that the driver can pass it to the `Tracker` of rank 0.

    Args:
        config: Configuration of the tracking.
        target: The MLflow run.
    """

    config: TrackingConfig
    target: Target

    def run_id(self) -> str | None:
        """Return the id of the MLflow run, None while no server has answered."""
        found = read_run_file(self.target.folder).get("run_id")
        return found if isinstance(found, str) else None

    def close(self, status: Status, timeout_seconds: float | None = None) -> bool:
        """Send what is still in the log, and set the status of the run.

        Args:
            status: Final status.
            timeout_seconds: Longest wait; unset takes the configuration's.

        Returns:
            Whether the server has everything. If not, `open_run` and `send_pending` send the rest.
        """
        write_run_file(self.target, self.run_id(), status)
        limit = self.config.close_seconds if timeout_seconds is None else timeout_seconds
        return _sync_until(MlflowSync(self.target), status, limit)


def _sync_until(remote: MlflowSync, status: str, timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not remote.sync(status):
        if time.monotonic() + _RETRY_SECONDS >= deadline:
            logger.warning(
                f"MLflow server {redact(remote.target.uri)} does not have all metrics: the rest is kept in "
                f"{remote.spool.folder} and sent when the run is resumed"
            )
            return False
        time.sleep(_RETRY_SECONDS)
    return True


def open_run(
    config: TrackingConfig, output: str, *, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Run:
    """Open the MLflow run of an output, or resume the one it has; a server that is down only delays that.

    Args:
        config: Configuration of the tracking.
        output: Absolute path of the output, on a disk that driver and rank 0 share.
        params: Configuration to log; nested names are joined by dots. Params that the run has are kept.
        tags: Tags of a new run.

    Raises:
        UsageError: the output is not on a disk, or the URI cannot be tracked to.
    """
    if is_uri(output):
        raise UsageError(f"{output} is not on a disk: metrics are written to disk before they are sent")
    uri = resolve_uri(config.uri, output)
    check_uri(uri, nodes=1)
    folder = posixpath.join(output, FOLDER)
    known = read_run_file(folder)
    same_place = known.get("target", {}).get("uri") == redact(uri)
    target = Target(
        folder=folder,
        uri=uri,
        key=known.get("target", {}).get("key") or uuid.uuid4().hex,
        experiment=config.experiment,
        run_name=config.run_name,
        artifact_location=artifact_location(uri, output),
        request_seconds=config.request_seconds,
        params=flatten(params),
        tags={sanitize_name(name): redact(str(value))[:MAX_TAG_LENGTH] for name, value in tags.items()},
    )
    write_run_file(target, known.get("run_id") if same_place else None, "RUNNING")
    MlflowSync(target).sync()
    return Run(config, target)


def send_pending(config: TrackingConfig, output: str) -> bool:
    """Send what the server of an ended run lacks, and return whether it has everything now.

    Args:
        config: Its URI and timeouts; the rest is as the run was opened.
        output: Absolute path of the output.

    Raises:
        UsageError: the output has no tracked run.
    """
    known = read_run_file(posixpath.join(output, FOLDER))
    if not known:
        raise UsageError(f"{output} has no {FOLDER} folder of a run: name the output of a training")
    uri = resolve_uri(config.uri, output)  # maybe another one than at first: artifacts go next to it
    target = Target(**known["target"] | {"uri": uri, "artifact_location": artifact_location(uri, output)})
    return _sync_until(MlflowSync(target), known["status"], config.close_seconds)


class Tracker:
    """Logs a run from rank 0. No call raises or waits for the server.

    Log a step before its checkpoint is written: a run that is killed between the two logs the step again,
    which is skipped, and no step is missing.

    Args:
        run: From `open_run`.
    """

    def __init__(self, run: Run) -> None:
        self._config = run.config
        self._remote = MlflowSync(run.target)
        self._warned: set[str] = set()
        self._writer: SpoolWriter | None = None
        try:
            self._writer = SpoolWriter(Spool(run.target.folder))
        except OSError as error:
            self._warn_once(f"cannot write {run.target.folder}, nothing is tracked: {error}")
        self._closing = threading.Event()
        self._deadline = 0.0
        self._synced = False
        self._thread = threading.Thread(target=self._run_thread, name="tracking", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float], *, kind: str = "step") -> None:
        """Log metrics of a step, once per step and kind; steps that a resumed run repeats are skipped.

        Args:
            step: Training step.
            metrics: Values by slash path; characters that MLflow refuses become `_`.
            kind: `step`, `validation`, or another series with steps of its own.
        """
        values: dict[str, float] = {}
        for name, value in metrics.items():
            try:
                values[sanitize_name(name)] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                self._warn_once(f"{name} is not a number and is not logged: {error}")
        try:
            if self._writer is not None and values:
                self._writer.append(kind, int(step), values)
        except Exception as error:  # a full disk must not end a training
            self._warn_once(f"cannot write {self._remote.spool.lines}, metrics are kept in memory: {error}")

    def log_file(self, kind: str, step: int, name: str, path: str | Path) -> None:
        """Log a file, which is copied at once; steps that a resumed run repeats are skipped.

        Args:
            kind: `pictures`, `audio`, or another folder of artifacts.
            step: Training step.
            name: Name of the series.
            path: The file.
        """
        try:
            if self._writer is not None:
                self._writer.append_file(kind, int(step), name, str(path))
        except Exception as error:
            self._warn_once(f"{path} is not logged: {error}")

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Stop logging, and wait until everything is sent.

        Args:
            timeout_seconds: Longest wait; unset takes the configuration's.

        Returns:
            Whether the server has everything; `Run.close` tries again.
        """
        limit = self._config.close_seconds if timeout_seconds is None else timeout_seconds
        self._deadline = time.monotonic() + limit
        self._closing.set()
        try:
            self._thread.join(limit)
            if self._writer is not None:
                self._writer.close()
        except Exception as error:
            self._warn_once(f"cannot close {self._remote.spool.lines}: {error}")
        return self._synced

    def _warn_once(self, text: str) -> None:
        kind = text.partition(":")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(f"tracking: {text}")

    def _run_thread(self) -> None:
        system_metrics = SystemMetrics() if self._config.system_metrics else None
        wait, sampled = self._config.flush_seconds, time.monotonic()
        while True:
            closing = self._closing.wait(wait)
            if system_metrics and not closing and time.monotonic() - sampled >= self._config.system_seconds:
                sampled = time.monotonic()
                self._log_system_metrics(system_metrics)
            self._synced = self._remote.sync()
            if closing and (self._synced or time.monotonic() + _RETRY_SECONDS >= self._deadline):
                return
            if closing:
                time.sleep(_RETRY_SECONDS)
            wait = self._config.flush_seconds if self._synced else min(2 * wait, _MAX_RETRY_SECONDS)

    def _log_system_metrics(self, system_metrics: SystemMetrics) -> None:
        if self._writer is None:
            return
        try:
            self.log(self._writer.last_step("system") + 1, system_metrics.read(), kind="system")
        except Exception as error:
            self._warn_once(f"system metrics cannot be read: {error}")
