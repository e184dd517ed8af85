"""MLflow clients: connecting, names and batches that MLflow accepts, timeouts."""

import logging
import os
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.redaction import redact
from pipelines.runtime.environment import environment

KEY_TAG = "apollo.run_key"
_MAX_NAME_LENGTH, _MAX_PARAM_LENGTH = 250, 6_000  # MLflow's limits
MAX_TAG_LENGTH = 5_000  # of some servers
_MAX_METRICS_PER_BATCH, _MAX_PARAMS_PER_BATCH = 1_000, 100  # MLflow's limits
_INVALID_CHARACTERS = re.compile(r"[^/\w.\- :]")


def open_experiment(client: Any, name: str, artifact_location: str | None) -> str:
    """Return the id of an experiment, which is created if there is none.

    Args:
        client: An MlflowClient.
        name: Name of the experiment.
        artifact_location: Where files go if it is new; None lets the server decide.

    Raises:
        RuntimeError: it was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifact_location))
    if found.lifecycle_stage != "active":
        raise RuntimeError(f"the experiment {name!r} was deleted: restore it, or name another one")
    return str(found.experiment_id)


def find_run(client: Any, experiment_id: str, tags: Mapping[str, str]) -> Any:
    """Return the oldest run of an experiment with these tags, None if there is none."""
    condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = client.search_runs(
        [experiment_id],
        filter_string=condition,
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0] if found else None


def log_params(client: Any, run_id: str, params: Mapping[str, str], *, logged: Collection[str]) -> None:
    """Log the params that a run does not have yet, in batches that MLflow accepts.

    Args:
        client: An MlflowClient.
        run_id: The run.
        params: Values by name.
        logged: Names that the run has; MLflow refuses to change one.
    """
    from mlflow.entities import Param

    new = [Param(name, value) for name, value in params.items() if name not in logged]
    for start in range(0, len(new), _MAX_PARAMS_PER_BATCH):
        client.log_batch(run_id, params=new[start : start + _MAX_PARAMS_PER_BATCH], synchronous=True)


def log_metrics(client: Any, run_id: str, points: Iterable[tuple[str, float, int, int]]) -> None:
    """Log metrics in batches that MLflow accepts.

    Args:
        client: An MlflowClient.
        run_id: The run.
        points: Name, value, time in ms since 1970, step.
    """
    from mlflow.entities import Metric

    metrics = [Metric(*point) for point in points]
    for start in range(0, len(metrics), _MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS_PER_BATCH], synchronous=True)


def make_client(uri: str) -> Any:
    """Return a client of a tracking server or database."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent out of the cluster
    import mlflow

    for name in ("mlflow", "alembic"):  # one line for each of some forty migrations
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri)


@contextmanager
def short_timeouts(seconds: int) -> Iterator[None]:
    """Set short timeouts without retries for MLflow's requests, and hide progress bars."""
    settings = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    with environment(settings):
        yield


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested values to params by dotted name, within MLflow's limits and without passwords."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        dotted = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            flat |= flatten(value, dotted)
        else:
            flat[sanitize_name(dotted)] = redact(str(value))[:_MAX_PARAM_LENGTH]
    return flat


def sanitize_name(name: str) -> str:
    """Return a valid MLflow name; valid names are not changed."""
    plain = posixpath.normpath(_INVALID_CHARACTERS.sub("_", name).lstrip("/."))
    return "_" if plain == "." else plain[:_MAX_NAME_LENGTH].rstrip("/")
