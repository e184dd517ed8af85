"""The README's cluster commands: `ray start --head`, both forms of `ray job submit`, 2 CPUs and a token."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from tests.support import invariants, ray_heads
from tests.support.datasets import arguments
from tests.support.mlflow_runs import ready_output
from tests.support.ray_heads import RAY, ROOT
from tests.support.training_jobs import training, wait_for

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head with 2 CPUs, its dashboard on loopback, guarded by a token of its own."""
    with ray_heads.head(tmp_path_factory.mktemp("home"), cpus=2) as environment:
        yield environment


def submit(environment: dict[str, str], *options: str, job: list[str]) -> "subprocess.CompletedProcess[str]":
    return ray_heads.submit(environment, *options, script="jobs/preprocess.py", job=job)


def test_a_submitted_job_makes_the_shards(
    cluster: dict[str, str], data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    done = submit(cluster, "--working-dir", ".", job=arguments(data, tmp_path / "shards"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "joined a Ray cluster: 1 nodes, 2 CPUs" in done.stdout + done.stderr
    invariants.check(tmp_path / "shards", undisturbed)


def test_a_job_without_a_working_directory_makes_shards(
    cluster: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """The literal form runs in the cluster's own folder, so the job is named where the head was started."""
    few = ("--recipes.train", "2", "--recipes.valid", "0", "--recipes.test_per_category", "0")
    done = submit(cluster, job=arguments(data, tmp_path / "shards", *few))
    assert done.returncode == 0, done.stdout + done.stderr
    invariants.check(tmp_path / "shards")


def test_a_relative_output_is_refused_inside_a_job(cluster: dict[str, str], data: Path) -> None:
    done = submit(cluster, "--working-dir", ".", job=arguments(data, Path("shards")))
    assert "'shards' is relative: inside a submitted job" in done.stdout + done.stderr
    assert done.returncode == 1  # Ray says FAILED; the job itself ended with 2


@pytest.mark.faults  # beside the stopped training below, and test_1 of tests/faults/test_kills.py
def test_stopped_job_is_interrupted_and_can_be_continued(
    cluster: dict[str, str], data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    command = [RAY, "job", "submit", "--no-wait", "--submission-id", "to-stop", "--working-dir", "."]
    job = ["--", "python", "jobs/preprocess.py", *arguments(data, output)]
    subprocess.run([*command, *job], env=cluster, cwd=ROOT, check=True, capture_output=True, timeout=300)
    end = time.monotonic() + 300
    while not list(output.glob("commits/*.json")):
        assert time.monotonic() < end
        time.sleep(0.05)
    subprocess.run([RAY, "job", "stop", "to-stop"], env=cluster, check=True, capture_output=True, timeout=300)
    while not (output / "result.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    result = json.loads((output / "result.json").read_text())
    assert (result["status"], result["exit_code"]) == ("interrupted", 130)
    assert submit(cluster, "--working-dir", ".", job=arguments(data, output)).returncode == 0
    invariants.check(output, undisturbed)


def test_a_stopped_training_leaves_a_checkpoint_and_can_be_continued(
    cluster: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    output = ready_output(tmp_path / "run")
    job = ["--", "python", "jobs/train.py", *training(undisturbed, output)]
    command = [RAY, "job", "submit", "--no-wait", "--submission-id", "training", "--working-dir", "."]
    subprocess.run([*command, *job], env=cluster, cwd=ROOT, check=True, capture_output=True, timeout=300)
    wait_for(lambda: (output / "history-0.jsonl").exists(), output)
    subprocess.run(
        [RAY, "job", "stop", "training"], env=cluster, check=True, capture_output=True, timeout=300
    )
    wait_for(lambda: json.loads((output / "result.json").read_text())["status"] != "running", output)
    stopped = json.loads((output / "result.json").read_text())
    assert (stopped["status"], stopped["exit_code"]) == ("interrupted", 130)
    assert (output / f"checkpoints/step-{stopped['step']:08d}/MANIFEST.json").exists()
    command = [RAY, "job", "submit", "--working-dir", ".", *job]
    done = subprocess.run(command, env=cluster, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"resuming from step {stopped['step']}" in done.stdout + done.stderr
    assert json.loads((output / "result.json").read_text())["step"] == 16


def test_kubernetes_entrypoint_is_stopped_where_another_try_would_end_the_same_way(
    cluster: dict[str, str],
) -> None:
    """KubeRay tries again what FAILED; tests/architecture/test_kubernetes.py has the other exit codes."""
    expected = {1: "FAILED", 3: "STOPPED"}
    for code in expected:
        command = [RAY, "job", "submit", "--no-wait", "--submission-id", f"exit-{code}", "--", "sh"]
        job = [str(ROOT / "kubernetes/job.sh"), "-c", f"import sys; sys.exit({code})"]
        subprocess.run([*command, *job], env=cluster, check=True, capture_output=True, timeout=300)
    client = JobSubmissionClient(cluster["RAY_ADDRESS"], headers=ray_heads.authorization(cluster))
    end = time.monotonic() + 60
    while {code: client.get_job_status(f"exit-{code}") for code in expected} != expected:
        assert time.monotonic() < end
        time.sleep(0.2)
