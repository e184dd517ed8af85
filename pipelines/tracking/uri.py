"""Where a run is tracked: the URI of an MLflow server or database."""

import os
import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.errors import UsageError
from pipelines.runtime import run

_DATABASE, _ARTIFACTS = "mlflow.db", "mlflow-artifacts"
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(.+)")
_ADVICE = (
    "Start `mlflow server --app-name basic-auth` (docs/cluster.md) on one machine and set "
    "MLFLOW_TRACKING_URI=http://that-machine:5000"
)


def resolve_uri(uri: str | None, output: str) -> str:
    """Give the tracking URI of a run, the same for every process whatever its working directory.

    Args:
        uri: What was asked for; unset takes MLFLOW_TRACKING_URI, else a database in the output.
        output: Absolute path of the run's output.

    Raises:
        UsageError: it names a database by a relative path inside a submitted job.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"sqlite:///{posixpath.join(output, _DATABASE)}"
    database = _SQLITE.fullmatch(uri)
    if not database or database[1] == ":memory:":
        return uri
    path, question, query = database[1].partition("?")
    return f"{uri[: database.start(1)]}{run.resolve(path, 'the tracking URI')}{question}{query}"


def database_path(uri: str) -> str | None:
    """Give the file of a database, None for what is none."""
    database = _SQLITE.fullmatch(uri)
    return database[1].partition("?")[0] if database and database[1] != ":memory:" else None


def check_uri(uri: str, nodes: int) -> None:
    """Refuse a place that cannot keep a run's points.

    Args:
        uri: As `resolve_uri` gives it.
        nodes: Machines with workers of the run.

    Raises:
        UsageError: with the reason, and what to do.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file") and not uri.startswith("databricks"):
        raise UsageError(
            f"the tracking URI {uri!r} is a folder: MLflow no longer writes to folders, and they would keep "
            f"a point twice that is sent twice. Use sqlite:////absolute/path/mlflow.db. {_ADVICE}"
        )
    if uri in ("sqlite://", "sqlite:///:memory:"):
        raise UsageError(f"the tracking URI {uri!r} is a database in memory: nothing of it would be left")
    if scheme.startswith("sqlite") and nodes > 1:
        raise UsageError(
            f"the tracking URI {uri!r} is a file, and the run has workers on {nodes} machines: sqlite's "
            f"locks do not hold across machines, and it would be damaged. {_ADVICE}"
        )


def artifact_location(uri: str, output: str) -> str | None:
    """Choose where files go: a server knows; beside a database of one file; else in the output."""
    if urlsplit(uri).scheme in ("http", "https") or uri.startswith("databricks"):
        return None
    database = database_path(uri)
    folder = posixpath.dirname(database) if database else output
    return Path(folder, _ARTIFACTS).as_uri()
