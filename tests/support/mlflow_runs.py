"""MLflow runs for tests: a migrated database, and its points, read without MLflow."""

import math
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.tracking.run import Run, TrackingConfig, open_run

QUICK: dict[str, Any] = {
    "flush_seconds": 0.05, "close_seconds": 20.0, "request_seconds": 2, "system_metrics": False,
}  # fmt: skip
Points = dict[str, list[tuple[int, float]]]


@cache
def _migrated() -> Path:
    """Let MLflow create its tables once, which takes seconds."""
    from mlflow import MlflowClient

    path = Path(tempfile.mkdtemp()) / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


def ready_output(output: Path) -> Path:
    """Create an output whose database has its tables, where there is none yet."""
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "mlflow.db").exists():
        shutil.copyfile(_migrated(), output / "mlflow.db")
    return output


def open_quick(output: Path, **settings: Any) -> Run:
    """Open a run with short timeouts."""
    params, tags = settings.pop("params", {}), settings.pop("tags", {})
    return open_run(TrackingConfig(**{**QUICK, **settings}), str(output), params=params, tags=tags)


def points(database: Path, run_id: str | None = None) -> Points:
    """Return all points of a database (or of one run) by name, by time and step; duplicates are kept."""
    with sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=30) as connection:
        rows = connection.execute(
            "select key, step, value, is_nan from metrics where run_uuid = ? or ? is null "
            "order by timestamp, step",
            (run_id, run_id),
        ).fetchall()
    connection.close()
    found: Points = {}
    for key, step, value, is_nan in rows:
        found.setdefault(key, []).append((step, math.nan if is_nan else value))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still false after {seconds} s"
        time.sleep(0.05)
