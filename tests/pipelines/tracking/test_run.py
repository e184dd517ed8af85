"""Tracking: one MLflow run per output, each point once, and no error that reaches the training."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.errors import UsageError
from pipelines.tracking import client, mlflow_sync
from pipelines.tracking import run as tracking
from pipelines.tracking.run import (
    Run,
    Tracker,
    TrackingConfig,
    git_commit,
    send_pending,
)
from pipelines.tracking.spool import Spool, SpoolWriter
from pipelines.tracking.system_metrics import SystemMetrics
from pipelines.tracking.uri import check_uri, resolve_uri
from tests.support.mlflow_runs import open_quick, points, ready_output, wait_until

ROOT = Path(__file__).parents[3]
HUNDRED = [(step, float(step)) for step in range(100)]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return ready_output(tmp_path / "output")


@pytest.fixture
def dead_uri() -> str:
    return "http://127.0.0.1:1"  # a port that nothing listens on


def _client(run: Run) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=run.target.uri)


def _log(run: Run, steps: range) -> None:
    tracker = Tracker(run)
    for step in steps:
        tracker.log(step, {"g/stft": float(step)})
    assert tracker.close()


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, pipelines.tracking.run; sys.exit(bool({'mlflow', 'torch', 'ray'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "wrong", [{"experiment": " "}, {"flush_seconds": 0}, {"close_seconds": -1}, {"request_seconds": 0}]
)
def test_invalid_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"tracking\.{next(iter(wrong))} is"):
        TrackingConfig(**wrong)


def test_uri_is_the_configured_one_then_the_environments_then_a_database_in_the_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve_uri(None, "/data/out") == "sqlite:////data/out/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert resolve_uri(None, "/data/out") == "http://mlflow:5000"
    assert resolve_uri("postgresql://host/db", "/data/out") == "postgresql://host/db"


def test_relative_database_is_made_absolute_and_refused_inside_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        resolve_uri("sqlite:///x/mlflow.db?timeout=9", "/o") == f"sqlite:///{tmp_path}/x/mlflow.db?timeout=9"
    )
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UsageError, match=r"tracking URI 'mlflow\.db' is relative"):
        resolve_uri("sqlite:///mlflow.db", "/o")


def test_sqlite_is_refused_for_workers_on_several_machines() -> None:
    check_uri("sqlite:////data/mlflow.db", nodes=1)
    with pytest.raises(UsageError, match=r"workers on 2 machines.*mlflow server.*MLFLOW_TRACKING_URI"):
        check_uri("sqlite:////data/mlflow.db", nodes=2)
    for uri in ("http://mlflow:5000", "https://mlflow", "postgresql://host/db", "databricks"):
        check_uri(uri, nodes=8)


@pytest.mark.parametrize("uri", ["/data/mlruns", "file:///data/mlruns", "mlruns"])
def test_file_stores_are_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        check_uri(uri, nodes=1)


def test_in_memory_databases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it would be lost"):
        open_quick(tmp_path, uri="sqlite:///:memory:")


def test_output_at_a_uri_is_refused() -> None:
    with pytest.raises(UsageError, match="s3://bucket/out is not on a disk"):
        tracking.open_run(TrackingConfig(), "s3://bucket/out", params={}, tags={})


def test_commit_is_that_of_the_packages_checkout() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607 - the system's
    if head.returncode:
        assert git_commit() == "unknown"
    else:
        assert git_commit().removesuffix("-dirty") == head.stdout.strip()


def test_commit_of_another_project_around_the_package_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "tracking.py"))
    (tmp_path / "tracking.py").touch()
    assert git_commit() == "unknown"
    who = ["-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)  # noqa: S607 - the system's
    assert git_commit() == "unknown"


def test_run_has_its_experiment_name_params_tags_and_artifact_location(output: Path) -> None:
    params = {"train": {"batch_size": 4, "rates": (1, 2)}, "note": "x" * 7000, "odd!name": None}
    many = {f"p{number:03}": number for number in range(250)}
    run = open_quick(
        output, experiment="e", run_name="first", params={**params, **many}, tags={"commit": "c0"}
    )
    found = _client(run).get_run(run.run_id())
    expected = {"train.batch_size": "4", "train.rates": "(1, 2)", "note": "x" * 6000, "odd_name": "None"}
    assert found.data.params == expected | {name: str(value) for name, value in many.items()}
    assert found.data.tags["commit"] == "c0"
    assert (found.info.run_name, found.info.status) == ("first", "RUNNING")
    assert found.info.artifact_uri.startswith((output / "mlflow-artifacts").as_uri())
    assert _client(run).get_experiment(found.info.experiment_id).name == "e"


def test_output_that_is_opened_again_resumes_its_run(output: Path) -> None:
    first = open_quick(output, params={"rate": 1})
    assert first.close("FAILED")
    assert _client(first).get_run(first.run_id()).info.status == "FAILED"
    second = open_quick(output, params={"rate": 2, "more": 3})
    found = _client(second).get_run(first.run_id())
    assert second.run_id() == first.run_id()
    assert found.info.status == "RUNNING"
    assert found.data.params == {"rate": "1", "more": "3"}  # MLflow refuses to change one
    assert second.close("FINISHED")
    assert _client(first).get_run(first.run_id()).info.status == "FINISHED"
    assert len(_client(first).search_runs([found.info.experiment_id])) == 1


def test_run_whose_id_is_unknown_is_found_by_its_key(output: Path) -> None:
    """The server created it, but the answer was lost."""
    run = open_quick(output)
    path = Path(run.target.folder) / mlflow_sync.RUN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run_id": None}))
    assert run.run_id() is None
    first = _client(run).search_runs(["1"])
    assert open_quick(output).run_id() == first[0].info.run_id
    assert len(_client(run).search_runs(["1"])) == 1


def test_every_point_is_there_once_and_in_order(output: Path) -> None:
    run = open_quick(output)
    _log(run, range(100))
    assert points(output / "mlflow.db", run.run_id()) == {"g/stft": HUNDRED}


def test_scalars_of_numpy_and_torch_and_non_finite_values_arrive(output: Path) -> None:
    run = open_quick(output)
    tracker = Tracker(run)
    values = {
        "numpy": np.float32(0.5),
        "torch": torch.tensor(2.0),
        "bool": True,
        "int": 3,
    }
    odd = {"nan": math.nan, "inf": math.inf, "minus/inf": -math.inf}
    tracker.log(np.int64(7), {**values, **odd})  # type: ignore[arg-type]
    assert tracker.close()
    largest = sys.float_info.max  # how MLflow keeps infinity
    found = points(output / "mlflow.db")
    assert {name: found[name] for name in values} == {
        "numpy": [(7, 0.5)], "torch": [(7, 2.0)], "bool": [(7, 1.0)], "int": [(7, 3.0)],
    }  # fmt: skip
    assert math.isnan(found["nan"][0][1]) and len(found["nan"]) == 1
    assert (found["inf"], found["minus/inf"]) == ([(7, largest)], [(7, -largest)])


@pytest.mark.parametrize(
    "name, expected",
    [
        ("g/stft", "g/stft"),
        ("time per step: s", "time per step: s"),
        ("a|b*c", "a_b_c"),
        ("/top/", "top"),
        ("../up", "up"),
        ("a//b", "a/b"),
        ("", "_"),
        ("x" * 300, "x" * 250),
        ("Lautstärke", "Lautstärke"),
    ],
)
def test_names_are_sanitized_for_mlflow(name: str, expected: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert client.sanitize_name(name) == expected
    _validate_metric_name(expected)


def test_more_metrics_than_one_request_allows(output: Path) -> None:
    tracker = Tracker(open_quick(output))
    for step in range(3):
        tracker.log(step, {f"m/{number:04}": float(number) for number in range(1700)})
    assert tracker.close()
    found = points(output / "mlflow.db")
    assert len(found) == 1700
    assert all(found[name] == [(step, float(name[2:])) for step in range(3)] for name in found)


def test_steps_repeated_after_a_resume_are_skipped_per_kind(output: Path) -> None:
    run = open_quick(output)
    first = Tracker(run)
    for step in range(50):
        first.log(step, {"g/stft": float(step)})
        if step % 10 == 0:
            first.log(step, {"valid/mos": step / 10}, kind="validation")
    assert first.close()
    again = Tracker(open_quick(output))
    for step in range(30, 100):
        again.log(step, {"g/stft": float(step)})
        if step % 10 == 0:
            again.log(step, {"valid/mos": step / 10}, kind="validation")
    assert again.close()
    assert points(output / "mlflow.db", run.run_id()) == {
        "g/stft": HUNDRED,
        "valid/mos": [(step, step / 10) for step in range(0, 100, 10)],
    }


def test_torn_last_line_is_cut_off_and_its_step_is_logged_again(output: Path) -> None:
    run = open_quick(output)
    _log(run, range(60))
    lines = Spool(run.target.folder).lines
    whole = lines.read_bytes()
    for torn in (
        b"{",
        b'{"kind":"step","step":60,"timestamp_ms":1,"metrics":{"g/stft":60.0}}',
        b"\0" * 70_000,
    ):
        lines.write_bytes(whole + torn)
        SpoolWriter(Spool(run.target.folder)).close()
        assert lines.read_bytes() == whole
    lines.write_bytes(whole + b'{"kind":"st')
    _log(run, range(50, 100))
    assert points(output / "mlflow.db") == {"g/stft": HUNDRED}


def test_damaged_line_is_skipped_alone(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    writer = SpoolWriter(spool)
    writer.append("step", 1, {"a": 1.0})
    with spool.lines.open("ab") as stream:
        stream.write(b'\0\0\0\n{"kind":"step"}\n')
    writer = SpoolWriter(spool)
    writer.append("step", 2, {"a": 2.0})
    assert [entry.step for entry in spool.entries()] == [1, 2]
    assert [entry.step for entry in spool.entries(next(spool.entries()).end)] == [2]


def test_cursor_is_at_the_end_after_closing(output: Path) -> None:
    run = open_quick(output)
    _log(run, range(100))
    spool = Spool(run.target.folder)
    cursor = spool.read_cursor(run.run_id() or "")
    assert cursor.metrics == cursor.artifacts == spool.lines.stat().st_size


def test_sending_again_does_not_duplicate(output: Path) -> None:
    run = open_quick(output)
    _log(run, range(100))
    (Path(run.target.folder) / "cursor.json").unlink()
    assert run.close("FINISHED")
    assert points(output / "mlflow.db") == {"g/stft": HUNDRED}


def test_clock_set_back_does_not_change_the_order(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_quick(output)
    _log(run, range(50))
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    _log(run, range(50, 100))
    assert points(output / "mlflow.db") == {"g/stft": HUNDRED}


def test_logging_never_raises(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker(open_quick(output))
    tracker.log(1, {"text": "x", "list": [1, 2], "many": torch.ones(3), "good": 1.0})  # type: ignore[dict-item]
    tracker.log("two", {"good": 2.0})  # type: ignore[arg-type]
    tracker.log(3, {})
    tracker.log_file("pictures", 3, "gone", output / "gone.png")
    tracker.log_file("audio", 3, "folder", output)
    assert tracker.close()
    tracker.log(4, {"good": 4.0})
    tracker.close()
    assert points(output / "mlflow.db") == {"good": [(1, 1.0)]}
    printed = capsys.readouterr().err
    assert all(f"tracking: {name} is not a number" in printed for name in ("text", "list", "many"))
    assert f"{output / 'gone.png'} is not logged" in printed


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Make writes stop in the middle while `full` is set."""
    state = {"full": False}
    real = os.write

    def write(file: int, content: bytes) -> int:
        if not state["full"]:
            return real(file, content)
        real(file, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", write)
    return state


def test_full_disk_only_delays(
    output: Path, full_disk: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(open_quick(output))
    for step in range(100):
        full_disk["full"] = 20 <= step < 60
        tracker.log(step, {"g/stft": float(step)})
    assert tracker.close()
    assert points(output / "mlflow.db") == {"g/stft": HUNDRED}
    steps = [entry.step for entry in Spool(str(output / "tracking")).entries()]
    assert steps == list(range(100))  # not a line torn or twice
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_pictures_and_audio_are_copied_when_they_are_logged(output: Path, tmp_path: Path) -> None:
    run = open_quick(output)
    tracker = Tracker(run)
    path = tmp_path / "x.png"
    for step, text in ((100, "first"), (200, "second"), (200, "second again, after a resume")):
        path.write_text(text)
        tracker.log_file("pictures", step, "song: a/b", path)
    (tmp_path / "y.flac").write_text("sound")
    tracker.log_file("audio", 200, "../clean", tmp_path / "y.flac")
    path.unlink()
    assert tracker.close()
    folder = Path(_client(run).get_run(run.run_id()).info.artifact_uri.removeprefix("file://"))
    assert {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.*")} == {
        "pictures/step-00000100/song_a_b.png": "first",
        "pictures/step-00000200/song_a_b.png": "second",
        "audio/step-00000200/_clean.flac": "sound",
    }


def test_refused_files_do_not_delay_metrics(output: Path, tmp_path: Path) -> None:
    run = open_quick(output, close_seconds=2)
    (output / "mlflow-artifacts").write_text("no folder")
    (tmp_path / "x.png").touch()
    tracker = Tracker(run)
    tracker.log_file("pictures", 0, "x", tmp_path / "x.png")
    for step in range(100):
        tracker.log(step, {"g/stft": float(step)})
    assert not tracker.close()
    assert points(output / "mlflow.db") == {"g/stft": HUNDRED}
    (output / "mlflow-artifacts").unlink()
    assert run.close("FINISHED")
    assert len(list((output / "mlflow-artifacts").rglob("x.png"))) == 1


def test_deleted_run_is_created_again_with_everything(output: Path) -> None:
    first = open_quick(output)
    _log(first, range(50))
    gone = first.run_id()
    _client(first).delete_run(gone)
    second = open_quick(output)
    _log(second, range(50, 100))
    assert second.run_id() not in (None, gone)
    assert points(output / "mlflow.db", second.run_id()) == {"g/stft": HUNDRED}


def test_run_deleted_during_logging_is_created_again(output: Path) -> None:
    run = open_quick(output)
    gone = run.run_id()
    tracker = Tracker(run)
    for step in range(100):
        tracker.log(step, {"g/stft": float(step)})
        if step == 50:
            wait_until(lambda: points(output / "mlflow.db"))
            _client(run).delete_run(gone)
    assert tracker.close()
    assert run.run_id() != gone
    assert points(output / "mlflow.db", run.run_id()) == {"g/stft": HUNDRED}


def test_another_server_gets_the_whole_run(output: Path, dead_uri: str, tmp_path: Path) -> None:
    _log(open_quick(output), range(50))
    assert open_quick(output, uri=dead_uri).run_id() is None
    other = ready_output(tmp_path / "other") / "mlflow.db"
    run = open_quick(output, uri=f"sqlite:///{other}")
    _log(run, range(50, 100))
    assert points(other, run.run_id()) == {"g/stft": HUNDRED}
    assert len(points(output / "mlflow.db")["g/stft"]) == 50


def test_deleted_experiment_is_reported(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_quick(output)
    _client(run).delete_experiment("1")
    open_quick(output)
    assert "the experiment 'apollo' was deleted: restore it, or name another one" in capsys.readouterr().err


def test_what_an_unreachable_server_missed_is_sent_later(
    output: Path, dead_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    run = open_quick(output, uri=dead_uri, close_seconds=1)
    tracker = Tracker(run)
    for step in range(100):
        tracker.log(step, {"g/stft": float(step)})
    assert not tracker.close()
    assert not run.close("FAILED")
    assert run.run_id() is None
    printed = capsys.readouterr().err
    assert (
        "MLflow server http://127.0.0.1:1 unreachable (" in printed and "does not have all metrics" in printed
    )
    assert send_pending(TrackingConfig(uri=f"sqlite:///{output}/mlflow.db"), str(output))
    assert points(output / "mlflow.db", run.run_id()) == {"g/stft": HUNDRED}
    found = MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db").search_runs(["1"])
    assert [(one.info.run_id, one.info.status) for one in found] == [(run.run_id(), "FAILED")]


def test_sending_from_an_output_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no tracking folder"):
        send_pending(TrackingConfig(), str(tmp_path))


def test_status_that_could_not_be_set_is_set_later(output: Path) -> None:
    run = open_quick(output)
    tracking.write_run_file(run.target, run.run_id(), "KILLED")  # as a driver leaves it without a server
    assert send_pending(TrackingConfig(), str(output))
    assert _client(run).get_run(run.run_id()).info.status == "KILLED"


def test_passwords_are_neither_stored_nor_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_quick(tmp_path, uri="http://me:secret@127.0.0.1:1", close_seconds=1)
    assert not run.close("FAILED")
    assert "secret" not in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_timeouts_of_the_environment_are_restored(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    open_quick(output)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_one_sender_at_a_time(output: Path) -> None:
    run = open_quick(output)
    with Spool(run.target.folder).lock_for_sending():
        assert not mlflow_sync.MlflowSync(run.target).sync()
    assert mlflow_sync.MlflowSync(run.target).sync()


def test_system_metrics_are_logged_and_continue_after_a_resume(output: Path) -> None:
    for _ in range(2):
        tracker = Tracker(open_quick(output, system_metrics=True, system_seconds=0.1))
        tracker._thread.join(1.0)
        assert tracker.close()
    found = points(output / "mlflow.db")
    assert set(found) == {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/process_memory_usage_megabytes",
    }
    steps = [step for step, _ in found["system/process_memory_usage_megabytes"]]
    assert steps == list(range(len(steps))) and len(steps) >= 4


def test_system_metrics_are_plausible() -> None:
    system_metrics = SystemMetrics()
    ballast = np.ones(30_000_000)  # 240 MB
    found = system_metrics.read()
    before = found["system/process_memory_usage_megabytes"]
    assert before > 300
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    del ballast
    after = system_metrics.read()
    assert after["system/process_memory_usage_megabytes"] < before - 200
    for _ in range(3_000_000):
        pass
    assert 0 < system_metrics.read()["system/cpu_utilization_percentage"] <= 100


def test_memory_of_gpus_in_use_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reserved = [0, 3_000_000]
    cuda = SimpleNamespace(
        is_initialized=lambda: True, device_count=lambda: 2, memory_reserved=lambda number: reserved[number]
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    found = SystemMetrics().read()
    assert {name: value for name, value in found.items() if "gpu" in name} == {
        "system/gpu_1_reserved_megabytes": 3.0
    }
    cuda.memory_reserved = lambda number: 1 / 0
    assert "system/system_memory_usage_megabytes" in SystemMetrics().read()


def test_commit_of_the_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APOLLO_COMMIT", "abc123")
    assert git_commit() == "abc123"
