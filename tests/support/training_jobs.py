"""Training jobs on Ray, as small as they can be, and what they leave to read."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.mlflow_runs import ready_output

ROOT = Path(__file__).parents[2]
LAST = 16


def training(shards: Path | str, output: Path, *more: str) -> list[str]:
    """Give the options of the smallest run: 16 steps of 2 examples on 2 workers."""
    return [
        *("--shards", str(shards), "--output", str(output), "--history", "true"),
        *("--generator.dim", "8", "--generator.layers", "1", "--generator.heads", "2"),
        *("--generator.output", "correction", "--discriminator.windows", "[128, 512]"),
        *("--gan.batch_size", "2", "--fit.epochs", "2", "--fit.epoch_examples", "16"),
        *("--fit.checkpoint_steps", "3", "--fit.log_steps", "2", "--fit.validation_examples", "3"),
        *("--workers.count", "2", "--workers.gpu", "false", "--workers.cpus", "1"),
        *("--listening_examples", "1", *more),
    ]


def start(address: str, shards: Path | str, output: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Start the job as users do, on a cluster that is there."""
    ready_output(output)
    command = [sys.executable, "jobs/train.py", *training(shards, output, *more)]
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": address}, stdout=log, stderr=log
        )


def log(output: Path) -> str:
    """Read what the drivers said."""
    path = output.parent / f"{output.name}.log"
    return path.read_text() if path.exists() else ""


def wait_for(condition: Callable[[], bool], output: Path, seconds: float = 300.0) -> None:
    """Wait until something is true of a run."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, log(output)
        time.sleep(0.02)


def history(output: Path, rank: int) -> dict[int, dict[str, Any]]:
    """Read a rank's steps; those taken twice must be the same to the last bit."""
    found: dict[int, dict[str, Any]] = {}
    path = output / f"history-{rank}.jsonl"
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        step = line.pop("step")
        assert found.setdefault(step, line) == line, f"step {step} was taken twice, and differed"
    return found


def steps(output: Path) -> int:
    """Count the steps taken so far, those taken twice twice."""
    path = output / "history-0.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def result(output: Path) -> dict[str, Any]:
    """Read how the last run ended."""
    return json.loads((output / "result.json").read_text())


def logged(output: Path) -> list[tuple[str, int, float]]:
    """Read what MLflow has, but for times and memory, which differ from run to run."""
    with sqlite3.connect(output / "mlflow.db") as database:
        rows = database.execute("SELECT key, step, value FROM metrics ORDER BY key, step").fetchall()
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,), "more than one MLflow run"
    return [row for row in rows if not row[0].startswith(("system/", "time/", "memory/", "rate/"))]
