"""Faults 17 to 19 with Ray: workers and drivers killed, runs stopped and damaged, as users would see it."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LAST = 16
pytestmark = pytest.mark.timeout(900)


def arguments(shards: Path, output: Path, *more: str) -> list[str]:
    """Give the options of the smallest run: 16 steps of 2 examples on 2 workers."""
    return [
        *("--shards", str(shards), "--output", str(output), "--history", "true"),
        *("--generator.dim", "8", "--generator.layers", "1", "--generator.heads", "2"),
        *("--generator.output", "correction", "--discriminator.windows", "[128, 512]"),
        *("--gan.batch_size", "2", "--fit.epochs", "2", "--fit.epoch_examples", "16"),
        *("--fit.checkpoint_steps", "3", "--fit.log_steps", "2", "--fit.validation_examples", "3"),
        *("--workers.count", "2", "--workers.gpu", "false", "--workers.cpus", "1"),
        *("--heard_examples", "1", *more),
    ]


def start(address: str, shards: Path, output: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Start the job as users do, on a cluster that is there."""
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "jobs/train.py", *arguments(shards, output, *more)]
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": address}, stdout=log, stderr=log
        )


def log(output: Path) -> str:
    return (output.parent / f"{output.name}.log").read_text()


def wait_for(condition: Callable[[], bool], output: Path, seconds: float = 180.0) -> None:
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
    path = output / "history-0.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def workers() -> list[int]:
    """Find the processes of Ray Train's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def result(output: Path) -> dict[str, Any]:
    return json.loads((output / "result.json").read_text())


def logged(output: Path) -> list[tuple[str, int, float]]:
    """Read what MLflow has, but for times and memory, which differ from run to run."""
    with sqlite3.connect(output / "mlflow.db") as database:
        rows = database.execute("SELECT key, step, value FROM metrics ORDER BY key, step").fetchall()
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,), "more than one MLflow run"
    return [row for row in rows if not row[0].startswith(("system/", "time/", "memory/", "rate/"))]


@pytest.fixture(scope="module")
def trained(ray_address: str, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every disturbed run must equal."""
    output = tmp_path_factory.mktemp("trained") / "run"
    assert start(ray_address, undisturbed, output).wait(300) == 0, log(output)
    assert result(output)["step"] == LAST
    return output


def assert_same(output: Path, trained: Path) -> None:
    for rank in range(2):
        assert history(output, rank) == history(trained, rank)
    assert logged(output) == logged(trained)
    ours, theirs = (result(folder) for folder in (output, trained))
    assert {**ours, "message": ""} == {**theirs, "message": ""}


def test_17_18_19_kills_stops_and_damage_change_nothing(
    ray_address: str, undisturbed: Path, trained: Path, tmp_path: Path
) -> None:
    """One run: a worker killed, the driver stopped, the driver killed, its newest checkpoint emptied."""
    output, draw = tmp_path / "run", random.Random(7)

    driver = start(ray_address, undisturbed, output)
    first = draw.randrange(2, 5)
    wait_for(lambda: steps(output) >= first, output)
    os.kill(draw.choice(workers()), signal.SIGKILL)
    wait_for(lambda: "continuing from step" in log(output) or steps(output) > 6, output)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(120) == 130, log(output)
    stopped = result(output)
    assert (stopped["status"], stopped["exit_code"]) == ("interrupted", 130)
    assert 0 < stopped["step"] < LAST
    assert (output / f"checkpoints/step-{stopped['step']:08d}/MANIFEST.json").exists()

    before = steps(output)
    driver = start(ray_address, undisturbed, output)
    wait_for(lambda: steps(output) >= before + 3, output)
    driver.kill()
    driver.wait(30)
    wait_for(lambda: not workers(), output)  # they end with their driver
    newest = max((output / "checkpoints").glob("step-????????"))
    for path in newest.iterdir():
        path.unlink()
    for snapshot in (output / ".ray").rglob("checkpoint_manager_snapshot.json"):
        snapshot.write_bytes(snapshot.read_bytes()[:10])

    assert start(ray_address, undisturbed, output).wait(300) == 0, log(output)
    assert f"set aside as {newest.name}.damaged" in log(output)
    assert_same(output, trained)


def test_a_finished_run_starts_nothing_and_another_configuration_is_refused(
    ray_address: str, undisturbed: Path, trained: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    assert start(ray_address, undisturbed, trained).wait(60) == 0
    assert "is finished already" in log(trained)
    more = ("--gan.clip_norm", "7", "--fit.epochs", "3")
    assert start(ray_address, undisturbed, trained, *more).wait(60) == 2
    assert "gan.clip_norm was 5.0, is 7.0" in log(trained)
    after = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} <= {trained / ".lock"}


def test_the_best_checkpoint_restores(trained: Path) -> None:
    import torch

    import apollo

    generator = apollo.load(trained)
    samples = 0.1 * torch.randn(2, 5_000)
    assert apollo.restore(generator, samples).shape == samples.shape
