"""Faults 17 to 22 with Ray: workers and drivers killed, runs stopped and damaged, through the job."""

import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.processes import descendants
from tests.support.training_jobs import LAST, history, log, logged, result, start, steps, wait_for

pytestmark = pytest.mark.timeout(900)
PIECES = ("--loader.piece_seconds", "1.5")  # half of a row: a step takes half the time


@pytest.fixture(scope="module")
def trained(ray_address: str, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference that every disturbed run must equal."""
    output = tmp_path_factory.mktemp("trained") / "run"
    assert start(ray_address, undisturbed, output, *PIECES).wait(300) == 0, log(output)
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

    driver = start(ray_address, undisturbed, output, *PIECES)
    first = draw.randrange(2, 5)
    wait_for(lambda: steps(output) >= first, output)
    draw.choice(descendants("RayTrainWorker")).kill()
    wait_for(lambda: "resuming from step" in log(output) or steps(output) > 6, output)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(120) == 130, log(output)
    stopped = result(output)
    assert (stopped["status"], stopped["exit_code"]) == ("interrupted", 130)
    assert 0 < stopped["step"] < LAST
    assert (output / f"checkpoints/step-{stopped['step']:08d}/MANIFEST.json").exists()

    before = steps(output)
    driver = start(ray_address, undisturbed, output, *PIECES)
    wait_for(lambda: steps(output) >= before + 3, output)
    driver.kill()
    driver.wait(30)
    wait_for(lambda: not descendants("RayTrainWorker"), output)  # they end with their driver
    newest = max((output / "checkpoints").glob("step-????????"))
    for path in newest.iterdir():
        path.unlink()
    for folder in [*(output / ".ray").iterdir(), output / ".ray" / "other"]:  # where Ray Train keeps its own
        folder.mkdir(exist_ok=True)
        (folder / "checkpoint_manager_snapshot.json").write_text('{"checkpoint')

    assert start(ray_address, undisturbed, output, *PIECES).wait(300) == 0, log(output)
    assert f"set aside as {newest.name}.damaged" in log(output)
    assert_same(output, trained)


def test_a_finished_run_starts_nothing_and_another_configuration_is_refused(
    ray_address: str, undisturbed: Path, trained: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    assert start(ray_address, undisturbed, trained, *PIECES).wait(60) == 0
    assert "is finished already" in log(trained)
    more = (*PIECES, "--gan.clip_norm", "7")
    assert start(ray_address, undisturbed, trained, *more).wait(60) == 2
    assert "gan.clip_norm was 5.0, is 7.0" in log(trained)
    after = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} <= {trained / ".lock"}


def test_the_best_checkpoint_is_registered_and_restores(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    import apollo

    assert result(trained)["registered"] == "models:/apollo/1", log(trained)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained}/mlflow.db")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours, theirs = apollo.load(trained), apollo.load("models:/apollo@candidate")
    torch.testing.assert_close(theirs.state_dict(), ours.state_dict(), rtol=0, atol=0)
    samples = 0.1 * torch.randn(2, 5_000)
    assert apollo.restore(theirs, samples).shape == samples.shape


@pytest.mark.faults
@pytest.mark.ray_cluster
def test_20_changing_workers_changes_no_example(ray_address: str, undisturbed: Path, tmp_path: Path) -> None:
    """Four workers, two after a node is lost, four again after another one joins: one order of examples."""
    from ray.cluster_utils import Cluster

    output, plain = tmp_path / "run", tmp_path / "plain"
    more = ("--gan.batch_size", "4", "--fit.epochs", "30", "--fit.epoch_examples", "32")
    more += ("--workers.count", "4", "--workers.least", "2")
    more += ("--tracking.uri", "http://127.0.0.1:9", "--tracking.close_seconds", "1")  # nobody is there
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        node = cluster.add_node(num_cpus=2)
        driver = start(cluster.address, undisturbed, output, *more)
        wait_for(lambda: len(list(output.glob("history-*.jsonl"))) == 4, output)
        wait_for(lambda: steps(output) >= 4, output)
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: "resuming from step" in log(output), output, 300)
        before = steps(output)
        wait_for(lambda: steps(output) >= before + 3, output, 120)
        cluster.add_node(num_cpus=2)
        wait_for(lambda: log(output).count("resuming from step") >= 2, output, 300)
        before = steps(output)
        wait_for(lambda: steps(output) >= before + 3, output, 120)
        driver.terminate()
        assert driver.wait(120) == 130, log(output)
    finally:
        cluster.shutdown()
    assert start(ray_address, undisturbed, plain, *more, "--fit.max_steps", "40").wait(300) == 0
    expected, found = together(plain), together(output)
    assert len(found) > 10
    for step in found.keys() & expected.keys():
        # a step that was taken again has its examples again
        assert set(found[step]) == set(expected[step]), step


def together(output: Path) -> dict[int, list[str]]:
    """Read which examples every step had, over all ranks and starts."""
    examples: dict[int, list[str]] = {}
    for path in sorted(output.glob("history-*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            examples[line["step"]] = sorted([*examples.get(line["step"], []), *line["examples"]])
    return examples


def test_live_mixes_are_those_of_the_plan(ray_address: str, undisturbed: Path, tmp_path: Path) -> None:
    """The live source through the same job: new mixes in the second epoch, none twice."""
    output = tmp_path / "run"
    more = ["--source", "live", "--live_actors", "2", "--listening_examples", "0", "--fit.epoch_examples=8"]
    more += PIECES
    assert start(ray_address, undisturbed, output, *more).wait(300) == 0, log(output)
    names = [name for step, found in sorted(together(output).items()) for name in found]
    assert len(names) == len(set(names)) == 16
    assert result(output)["step"] == 8


def test_22_a_corrupt_shard_ends_the_run_at_once_with_its_reason(
    ray_address: str, undisturbed: Path, tmp_path: Path
) -> None:
    """One worker meets it; the other must not wait for it, and the run is not retried."""
    shards, output = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(undisturbed, shards)
    for path in (shards / "train").glob("*.parquet"):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    assert start(ray_address, shards, output).wait(200) == 1, log(output)
    found = result(output)
    assert found["status"] == "failed"
    assert "CorruptDataError" in found["message"]
    assert "loader.corrupt to skip" in found["message"]
