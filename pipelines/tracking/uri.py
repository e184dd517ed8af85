"""Tracking URIs: MLflow servers and databases."""

import os
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.errors import UsageError
from pipelines.runtime.run import absolute_location

_DATABASE, _ARTIFACTS = "mlflow.db", "mlflow-artifacts"
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(.+)", re.DOTALL)
_ADVICE = (
    "Start `mlflow server --app-name basic-auth` (docs/cluster.md) on one machine and set "
    "MLFLOW_TRACKING_URI=http://that-machine:5000"
)


def resolve_uri(uri: str | None, output: str) -> str:
    """Return the tracking URI of a run, independent of the working directory.

    Args:
        uri: Configured URI; unset takes MLFLOW_TRACKING_URI, else a database in the output.
        output: Absolute path of the output.

    Raises:
        UsageError: a submitted job names a database by a relative path.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return sqlite_uri(posixpath.join(output, _DATABASE))
    database = _SQLITE.fullmatch(uri)
    if not database or database[1] == ":memory:":
        return uri
    path, question, query = database[1].partition("?")
    absolute = absolute_location(unquote(path), "the tracking URI")
    return f"{uri[: database.start(1)]}{_quote(absolute)}{question}{query}"


def sqlite_uri(path: str) -> str:
    """Return the URI of a sqlite database, for any path: in a URI, % and ? have a meaning."""
    quoted = _quote(path)
    # without a driver, MLflow makes a folder of the quoted name
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"


def database_path(uri: str) -> str | None:
    """Return the file of a sqlite database, the inverse of `sqlite_uri`; None for other URIs."""
    database = _SQLITE.fullmatch(uri)
    return unquote(database[1].partition("?")[0]) if database and database[1] != ":memory:" else None


def _quote(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3F")


def check_uri(uri: str, nodes: int) -> None:
    """Refuse a URI that would lose or duplicate metrics.

    Args:
        uri: From `resolve_uri`.
        nodes: Number of machines with workers of the run.

    Raises:
        UsageError: with the reason, and what to do.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file") and not uri.startswith("databricks"):
        raise UsageError(
            f"the tracking URI {uri!r} is a folder: MLflow no longer writes to folders, and they do not "
            f"remove duplicates. Use sqlite:////absolute/path/mlflow.db. {_ADVICE}"
        )
    if uri in ("sqlite://", "sqlite:///:memory:"):
        raise UsageError(f"the tracking URI {uri!r} is a database in memory: it would be lost")
    if scheme.startswith("sqlite") and nodes > 1:
        raise UsageError(
            f"the tracking URI {uri!r} is a file, and the run has workers on {nodes} machines: sqlite's "
            f"locks do not work across machines. {_ADVICE}"
        )


def artifact_location(uri: str, output: str) -> str | None:
    """Return the artifact folder: None for a server, next to a sqlite database, else in the output."""
    if urlsplit(uri).scheme in ("http", "https") or uri.startswith("databricks"):
        return None
    database = database_path(uri)
    folder = posixpath.dirname(database) if database else output
    return Path(folder, _ARTIFACTS).as_uri()
