"""Prometheus gets what runs say of themselves: their own reports are what scraped numbers must equal."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from apollo.audio.ffmpeg import find_ffmpeg
from pipelines.runtime.outcome import Exit
from tests.support import datasets, evaluation_jobs, mlflow_runs, restoration_jobs, training_jobs

ROOT = Path(__file__).parents[3]
Numbers = dict[tuple[str, str], float]

# Fails for about a quarter of the excerpts, always the same ones: by a digit of their digest.
FFMPEG = f"""#!/usr/bin/env bash
case "$*" in *-version*) exec "{find_ffmpeg()}" "$@";; esac
excerpt=$(mktemp); trap 'rm -f "$excerpt"' EXIT; cat > "$excerpt"
case $(sha256sum < "$excerpt") in [0-3]*) exit 7;; esac
"{find_ffmpeg()}" "$@" < "$excerpt"
"""
# Jobs in one process, since each would take seconds to import the same; with the only training worker, for
# Ray Train alone would take a minute to start it.
DRIVER = """
import dataclasses, json, runpy, sys, torch
from pipelines.cluster import torch_trainer
from pipelines.loading import shard_source
from pipelines.training import worker

def fit(function, settings, config, scratch, outcome):
    outcome["result"] = function(settings)

def poisoned(self, epoch, positions, read=shard_source.ShardSource.read):
    for place, example in enumerate(read(self, epoch, positions)):
        nothing = example.degraded * torch.nan
        yield dataclasses.replace(example, degraded=nothing) if (epoch, place) == (0, 4) else example

torch_trainer._fit, worker.worker_device = fit, lambda: torch.device("cpu")
shard_source.ShardSource.read = poisoned
for job, code, arguments in json.loads(sys.argv[1]):
    sys.argv = [job, *arguments]
    try:
        runpy.run_path(f"jobs/{job}.py", run_name="__main__")
    except SystemExit as ending:
        assert ending.code == code, (job, ending.code)
"""


class Endpoint:
    """Ray's page for Prometheus, on the session's node."""

    def __init__(self) -> None:
        import ray

        (node,) = ray.nodes()
        self.address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
        self.known = {ray.get_runtime_context().get_worker_id()} | {worker for worker, *_ in self._read()}

    def _read(self) -> Iterator[tuple[str, str, str, float]]:
        with urllib.request.urlopen(self.address, timeout=10) as answer:  # noqa: S310 -- http, of this machine
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                if name.startswith("ray_apollo_"):
                    tags = {"reason", "split", "stage", "status"} & labels.keys()
                    yield labels["WorkerId"], name, "".join(labels[tag] for tag in tags), value

    def numbers(self) -> Numbers:
        """Add up what processes have sent that came after this object."""
        found: Counter[tuple[str, str]] = Counter()
        for worker, name, tag, value in self._read():
            if worker not in self.known:
                found[name.removeprefix("ray_apollo_"), tag] += value
        return dict(found)


def run(address: str, *command: str) -> None:
    here = {"RAY_ADDRESS": address, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env=os.environ | here, timeout=280)


def tagged(numbers: Numbers, name: str) -> dict[str, float]:
    return {tag: value for (found, tag), value in numbers.items() if found == name}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("observed")


@pytest.fixture(scope="module")
def numbers(ray_address: str, data: Path, undisturbed: Path, folder: Path) -> Numbers:
    """What Prometheus gets of three runs, all of which meet bad input."""
    songs = shutil.copytree(data, folder / "data")
    drums = sorted(songs.rglob("drums.wav"))[0]
    drums.write_bytes(drums.read_bytes()[:900_000])
    ffmpeg = folder / "ffmpeg"
    ffmpeg.write_text(FFMPEG)
    ffmpeg.chmod(0o755)
    shards = shutil.copytree(undisturbed, folder / "damaged")
    (shards / "train/shard-00001.parquet").write_bytes(b"PAR1")
    weights = restoration_jobs.save_generator(folder / "tiny")
    album = restoration_jobs.write_album(folder / "album")

    endpoint = Endpoint()
    prepare = datasets.arguments(songs, folder / "shards", "--codec.ffmpeg", str(ffmpeg))
    alone = ("--workers.count", "1", "--listening_examples", "0", "--registry.register", "false")
    short = ("--fit.max_steps", "4", "--fit.validation_examples", "1", "--gan.max_skipped_steps", "2")
    train = training_jobs.training(shards, mlflow_runs.ready_output(folder / "run"), *alone, *short)
    skip = ("--loader.corrupt", "skip", "--loader.max_corrupt_share", "0.9")
    restore = ["--data", str(album), "--output", str(folder / "restored"), "--checkpoint", str(weights)]
    jobs = [
        ("preprocess", Exit.REJECTS, prepare),
        ("train", Exit.DONE, [*train, *skip]),
        ("restore", Exit.REJECTS, [*restore, "--actors", "1"]),
    ]
    run(ray_address, "-c", DRIVER, json.dumps(jobs))
    return endpoint.numbers()


def test_preprocess_is_counted_as_its_report_counts(numbers: Numbers, folder: Path) -> None:
    report = json.loads((folder / "shards/report.json").read_text())
    rejects = pq.read_table(folder / "shards/rejects.parquet").to_pylist()
    made = {split: part["committed"] for split, part in report["splits"].items()}
    assert tagged(numbers, "recipes_committed_total") == made
    assert sum(made.values()) == report["committed"] > 0
    kinds = {
        stage: Counter(one["kind"] for one in rejects if one["stage"] == stage)
        for stage in ("scan", "render")
    }
    assert kinds == {"scan": {"damaged": 1}, "render": {"encoder": report["rejected"]}}
    assert tagged(numbers, "sources_rejected_total") == kinds["scan"]
    assert tagged(numbers, "recipes_rejected_total") == kinds["render"]
    assert numbers["songs_scanned_total", ""] == 4
    assert sum(tagged(numbers, "shards_committed_total").values()) == report["shards"]
    assert numbers["shard_bytes_total", ""] == report["bytes"]
    assert numbers["render_cpu_seconds_total", ""] == pytest.approx(report["cpu_seconds_render"], abs=0.1)
    # the encoder is asked twice before it is given up
    assert numbers["encode_seconds_count", ""] == report["committed"] + 2 * report["rejected"]


def test_training_is_counted_as_its_history_counts(numbers: Numbers, folder: Path) -> None:
    result = json.loads((folder / "run/result.json").read_text())
    lines = (folder / "run/history-0.jsonl").read_text().splitlines()
    examples = [name for line in lines for name in json.loads(line)["examples"]]
    lost = (folder / "run/rejects-0.jsonl").read_text().splitlines()
    assert numbers["training_steps_total", ""] == result["step"] == len(lines) == 4
    assert numbers["training_skipped_steps_total", ""] == result["skipped"] == 1
    assert numbers["training_examples_total", ""] == len(examples) == 8
    assert tagged(numbers, "training_rows_rejected_total") == {"damaged": len(lost)} == {"damaged": 1}
    assert numbers["training_starts_total", ""] == 1
    saved = list((folder / "run/checkpoints").glob("step-*"))
    assert numbers["training_checkpoints_total", ""] >= len(saved) > 0
    with sqlite3.connect(folder / "run/mlflow.db") as database:  # means over two steps
        sums = "SELECT 2 * SUM(value) FROM metrics WHERE key = ?"
        waited, worked = (database.execute(sums, [f"time/{key}"]).fetchone()[0] for key in ("data", "step"))
    assert numbers["training_data_wait_seconds_total", ""] == pytest.approx(waited)
    assert numbers["training_seconds_total", ""] == pytest.approx(worked)
    assert 0 < waited < worked


def test_restoring_is_counted_as_its_outcomes_count(numbers: Numbers, folder: Path) -> None:
    lines = (folder / "restored/outcomes.jsonl").read_text().splitlines()
    songs = [json.loads(line) for line in lines]
    done = [song for song in songs if song["status"] == "restored"]
    assert numbers["songs_restored_total", ""] == numbers["restore_seconds_count", ""] == len(done) > 0
    assert numbers["restored_audio_seconds_total", ""] == pytest.approx(sum(song["seconds"] for song in done))
    failed = Counter(song["kind"] for song in songs if song["status"] == "failed")
    assert tagged(numbers, "songs_failed_total") == failed
    assert failed["empty"]


@pytest.mark.faults
def test_workers_of_ray_train_count_to_their_end(ray_address: str, undisturbed: Path, tmp_path: Path) -> None:
    """Ray Train kills its workers when they are done: what they counted last must have been sent."""
    endpoint = Endpoint()
    options = training_jobs.training(undisturbed, tmp_path / "run", "--registry.register", "false")
    run(ray_address, "jobs/train.py", *options)
    found = endpoint.numbers()
    assert found["training_starts_total", ""] == 1
    assert found["training_steps_total", ""] == 16
    assert found["training_examples_total", ""] == 32


@pytest.mark.faults
def test_evaluations_are_counted_as_their_results_count(
    ray_address: str, undisturbed: Path, tmp_path: Path
) -> None:
    model, endpoint = evaluation_jobs.write_model(tmp_path / "noisy"), Endpoint()
    data = ("--data", str(undisturbed), "--models", str(model), "--output", str(tmp_path / "scores"))
    run(ray_address, "jobs/evaluate.py", *data, "--limit", "4", "--rtf_runs", "0", "--scorers", "2")
    result = json.loads((tmp_path / "scores/result.json").read_text())
    items = {status: number for status, number in result["items"].items() if number}
    assert tagged(endpoint.numbers(), "items_scored_total") == items
    assert sum(items.values()) == 16  # 4 items at 2 bitrates, of the model and of the untouched MP3
