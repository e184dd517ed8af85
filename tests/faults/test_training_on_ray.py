"""Faults 17 to 19 with Ray: workers and drivers killed, runs stopped and damaged, as users would see it."""

import os
import random
import signal
from pathlib import Path

import pytest
from training_jobs import LAST, history, log, logged, result, start, steps, wait_for, workers

pytestmark = pytest.mark.timeout(900)


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
