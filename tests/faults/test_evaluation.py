"""Evaluations that are killed: finished scores are kept, the rest is resumed, and the tables are the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.evaluation.run import evaluate
from pipelines.runtime.outcome import Exit
from tests.support import evaluation_jobs
from tests.support.in_process_actors import replace_actors
from tests.support.processes import descendants

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)
TRIALS, ITEMS = 6, 4
REPORT_FILES = (
    "scores.parquet",
    "table2.csv",
    "table2.md",
    "figure2.csv",
    "differences.csv",
    "others.csv",
    "counts.csv",
)
Process = subprocess.Popen[bytes]


def start(address: str, data: Path, model: Path, output: Path) -> Process:
    """Start the job as users do, on a cluster that is there."""
    command = [
        *(sys.executable, "jobs/evaluate.py", "--data", str(data), "--output", str(output)),
        *("--models", f"noisy={model}", f"second={model.parent / 'second'}"),
        *("--limit", str(ITEMS), "--rtf_runs", "0", "--scorers", "2", "--bootstrap_resamples", "200"),
        *("--listening_items", "1"),
        *("--tracking.uri", f"sqlite:///{output.parent}/mlflow.db"),
    ]
    with (output.parent / "log").open("wb") as log:
        environment = os.environ | {"RAY_ADDRESS": address}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def done(output: Path) -> dict[str, int]:
    """Name the trials that are finished, with the files that they are."""
    return {str(path.relative_to(output)): path.stat().st_ino for path in (output / "scores").rglob("*.json")}


def wait_for(condition: Callable[[], object], process: Process, output: Path, seconds: float = 300) -> None:
    """Wait for something to be true of a run that is going on."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (output.parent / "log").read_text()
        assert time.monotonic() < end, (output.parent / "log").read_text()
        time.sleep(0.01)


def quiet() -> None:
    """Wait until the processes of the driver before have ended with it."""
    end = time.monotonic() + 60
    while descendants("ray::Scorer") or descendants("ray::ImplicitFunc"):
        assert time.monotonic() < end
        time.sleep(0.1)


def scoring(output: Path) -> bool:
    """Return whether a run has started its trials."""
    return "scoring" in (output.parent / "log").read_text()


def status(output: Path) -> str:
    return str(json.loads((output / "result.json").read_text())["status"])


def test_24_interrupted_evaluation_gives_the_same_report(
    ray_address: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = evaluation_jobs.write_model(tmp_path / "noisy")
    evaluation_jobs.write_model(tmp_path / "second", seed=1)
    output = tmp_path / "disturbed"
    output.mkdir()

    process = start(ray_address, undisturbed, model, output)  # the driver dies
    wait_for(lambda: len(done(output)) >= 1, process, output)
    process.kill()
    process.wait()
    assert status(output) == "running"
    before = done(output)
    assert 1 <= len(before) < TRIALS

    quiet()

    process = start(ray_address, undisturbed, model, output)  # it is stopped
    wait_for(lambda: scoring(output), process, output)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == Exit.INTERRUPTED, (tmp_path / "log").read_text()
    assert status(output) == "interrupted"
    quiet()

    process = start(ray_address, undisturbed, model, output)  # a trial's process dies
    wait_for(lambda: descendants("ray::ImplicitFunc.train"), process, output)
    for trial in descendants("ray::ImplicitFunc"):
        trial.kill()
    assert process.wait(300) == Exit.FAILED, (tmp_path / "log").read_text()
    assert "run the same command again" in json.loads((output / "result.json").read_text())["message"]
    quiet()

    process = start(ray_address, undisturbed, model, output)  # a scoring actor dies, and is started again
    wait_for(lambda: descendants("ray::Scorer.score"), process, output)
    descendants("ray::Scorer.score")[0].kill()
    assert process.wait(300) == Exit.DONE, (tmp_path / "log").read_text()
    assert {name: inode for name, inode in done(output).items() if name in before} == before
    assert len(done(output)) == TRIALS

    calm = tmp_path / "calm"
    models = (f"noisy={model}", f"second={tmp_path / 'second'}")
    replace_actors(monkeypatch)
    assert evaluate(evaluation_jobs.config(undisturbed, calm, models=models, limit=ITEMS)).code == Exit.DONE
    for name in REPORT_FILES:
        assert (output / name).read_bytes() == (calm / name).read_bytes(), name


def test_24_damaged_score_file_is_replaced(
    in_process_actors: None, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    config = evaluation_jobs.config(undisturbed, output, degradations=("mp3_24000",), limit=4)
    assert evaluate(config).code == Exit.DONE
    before = (output / "table2.csv").read_bytes()
    scores = output / "scores" / "untouched" / "mp3_24000.parquet"
    content = scores.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1])):
        scores.write_bytes(damaged)
        assert evaluate(config).code == Exit.DONE
        assert scores.read_bytes() == content
        assert (output / "table2.csv").read_bytes() == before
