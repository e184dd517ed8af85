"""Log an evaluation to MLflow: a parent run with tables and report, and a child run per trial.

All values come from finished files, so the next run of the same command logs what a server that was down has
missed. Runs are found by a tag, and nothing is logged twice.
"""

import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.storage.folder import Folder
from pipelines.tracking.client import (
    KEY_TAG,
    MAX_TAG_LENGTH,
    find_run,
    flatten,
    log_metrics,
    log_params,
    make_client,
    open_experiment,
    sanitize_name,
    short_timeouts,
)
from pipelines.tracking.run import TrackingConfig
from pipelines.tracking.uri import artifact_location

_KEY_FILE = "tracking.json"
_PARENT_TAG = "mlflow.parentRunId"
_DIGEST_TAG = "apollo.digest"


@dataclass(frozen=True)
class RunContent:
    """Content of an MLflow run.

    Args:
        name: Of the run.
        digest: Of the source of its content; a run with this tag is complete.
        params: Values by name.
        metrics: Numbers by name.
    """

    name: str
    digest: str
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def log_evaluation(
    config: TrackingConfig,
    uri: str,
    output: Folder,
    *,
    parent: RunContent,
    tags: Mapping[str, str],
    trials: Sequence[RunContent],
    files: Sequence[str],
) -> str:
    """Log an evaluation and return the id of the parent run.

    Args:
        config: Names and limits.
        uri: Of the tracking server or database.
        output: Of the evaluation.
        parent: Content of the parent run.
        tags: Of the parent run.
        trials: Content of the child runs.
        files: Names below the output that become the parent's artifacts.

    Raises:
        Exception: any error of MLflow; the next call continues where this one stopped.
    """
    with short_timeouts(config.request_seconds):
        client = make_client(uri)
        experiment = open_experiment(client, config.experiment, artifact_location(uri, output.location))
        key = _key(output)
        run = find_run(client, experiment, {KEY_TAG: key})
        if run is None:
            run = client.create_run(
                experiment,
                tags={
                    KEY_TAG: key,
                    **{sanitize_name(name): text[:MAX_TAG_LENGTH] for name, text in tags.items()},
                },
                run_name=config.run_name or parent.name,
            )
        run_id: str = run.info.run_id
        for trial in trials:
            _log_trial(client, experiment, run_id, trial)
        if run.data.tags.get(_DIGEST_TAG) != parent.digest:
            with tempfile.TemporaryDirectory() as scratch:
                for name in files:
                    copy = Path(scratch, name)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(output.read(name))
                client.log_artifacts(run_id, scratch)
            _log(client, run, parent)
        return run_id


def _key(output: Folder) -> str:
    """Return the value of the tag that only this output's run has."""
    if not output.exists(_KEY_FILE):
        output.write(_KEY_FILE, json.dumps({"key": uuid.uuid4().hex}).encode())
    return str(json.loads(output.read(_KEY_FILE))["key"])


def _log_trial(client: Any, experiment: str, parent: str, trial: RunContent) -> None:
    name = sanitize_name(trial.name)
    run = find_run(client, experiment, {_PARENT_TAG: parent, "apollo.trial": name})
    if run is None:
        run = client.create_run(experiment, tags={_PARENT_TAG: parent, "apollo.trial": name}, run_name=name)
    if run.data.tags.get(_DIGEST_TAG) != trial.digest:
        _log(client, run, trial)


def _log(client: Any, run: Any, content: RunContent) -> None:
    """Log params and metrics, then the tag that marks the run as complete."""
    run_id, began = run.info.run_id, run.info.start_time
    log_params(client, run_id, flatten(content.params), logged=run.data.params)
    # the run's start is their timestamp: MLflow stores the same point once
    points = [(sanitize_name(name), value, began, 0) for name, value in content.metrics.items()]
    log_metrics(client, run_id, points)
    client.set_tag(run_id, _DIGEST_TAG, content.digest)
    client.set_terminated(run_id, "FINISHED")
