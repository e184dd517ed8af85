"""Every end of every job: result.json with the right code, whatever is raised and whenever."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException

from apollo.checkpoints.container import CheckpointError, CheckpointUnreachableError
from apollo.training.augmentation import LevelsConfig
from pipelines.errors import NonRetryableError, OutputTakenError, UsageError
from pipelines.evaluation import run as evaluation
from pipelines.preprocess import run as preprocessing
from pipelines.registry.registry import Registry, RegistryError
from pipelines.restoration import run as restoration
from pipelines.runtime.outcome import RESULT, Exit, Outcome, read_finished
from pipelines.runtime.run import lock_output, run_exclusively
from pipelines.storage.folder import Folder
from pipelines.training import run as training
from tests.support import datasets, evaluation_jobs, job_scripts, shard_outputs

STATUS = {code: code.name.lower() for code in Exit}
DOWN = "http://127.0.0.1:9"


def _raise(error: BaseException) -> Callable[[], NoReturn]:
    def raise_it() -> NoReturn:
        raise error

    return raise_it


def _terminate(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("SIGTERM was ignored")


def _result(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / RESULT).read_text())
    assert found["status"] == STATUS[found["exit_code"]]
    return found


def _run(output: Path, prepare: Callable[[], Any], work: Callable[[], Outcome]) -> Outcome:
    folder = Folder(str(output))
    return run_exclusively(folder, prepare, work, activity="working", resume_hint="run it again")


def _done() -> Outcome:
    return Outcome(Exit.DONE, "done")


@pytest.mark.parametrize(
    ("error", "checking", "working"),
    [
        (UsageError("limit is 0"), Exit.USAGE, Exit.USAGE),
        (ValueError("limit is 0"), Exit.FAILED, Exit.FAILED),  # of a library
        (CheckpointError("limit is 0"), Exit.USAGE, Exit.FAILED),
        (CheckpointUnreachableError("limit is 0"), Exit.FAILED, Exit.FAILED),
        (RegistryError("limit is 0"), Exit.FAILED, Exit.FAILED),
        (MlflowException("limit is 0"), Exit.FAILED, Exit.FAILED),
        (pa.ArrowInvalid("limit is 0"), Exit.FAILED, Exit.FAILED),
        (json.JSONDecodeError("limit is 0", "", 0), Exit.FAILED, Exit.FAILED),
        (RuntimeError("limit is 0"), Exit.FAILED, Exit.FAILED),
        (NonRetryableError("limit is 0"), Exit.FAILED, Exit.FAILED),
        (OSError("limit is 0"), Exit.FAILED, Exit.FAILED),
        (KeyError("limit is 0"), Exit.FAILED, Exit.FAILED),
        (KeyboardInterrupt(), Exit.INTERRUPTED, Exit.INTERRUPTED),
        (SystemExit(15), Exit.INTERRUPTED, Exit.INTERRUPTED),  # Ray's handler of SIGTERM
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_28_an_error_is_usage_only_if_the_user_must_change_something(
    error: BaseException, checking: Exit, working: Exit, tmp_path: Path
) -> None:
    for name, prepare, work, code in (
        ("checking", _raise(error), _done, checking),
        ("working", lambda: None, _raise(error), working),
    ):
        outcome = _run(tmp_path / name, prepare, work)
        assert outcome.code == code, name
        assert _result(tmp_path / name) == {
            "status": STATUS[code],
            "exit_code": code,
            "message": outcome.message,
        }
        assert code == Exit.INTERRUPTED or "limit is 0" in outcome.message


def test_28_a_value_that_this_project_refuses_is_usage(tmp_path: Path) -> None:
    def prepare() -> None:
        LevelsConfig(level_db=(0, -30))

    assert _run(tmp_path, prepare, _done).code == Exit.USAGE
    assert _run(tmp_path, lambda: None, prepare).code == Exit.FAILED  # type: ignore[arg-type]


def test_an_output_of_another_run_or_configuration_is_not_changed(tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert _run(output, lambda: None, _done).code == Exit.DONE
    before = (output / RESULT).read_bytes()
    assert _run(output, _raise(OutputTakenError("of another configuration")), _done).code == Exit.USAGE
    with lock_output(Folder(str(output))):
        assert _run(output, _raise(KeyError("never called")), _done).code == Exit.USAGE
    assert (output / RESULT).read_bytes() == before


def test_a_finished_run_mends_the_result_of_a_refused_one_and_changes_nothing_else(tmp_path: Path) -> None:
    _run(tmp_path, lambda: None, _done)
    _run(tmp_path, _raise(UsageError("limit is 0")), _done)
    done = {"status": "done", "exit_code": 0, "message": "done"}
    for _ in range(2):
        assert _result(tmp_path)["exit_code"] == Exit.USAGE
        assert _result(tmp_path)["previous"] == done == read_finished(Folder(str(tmp_path)))
        _run(tmp_path, _raise(UsageError("limit is 0")), _done)
    assert _run(tmp_path, _done, _raise(KeyError("never called"))).code == Exit.DONE
    assert _result(tmp_path)["exit_code"] == Exit.DONE
    written = (tmp_path / RESULT).stat().st_mtime_ns
    _run(tmp_path, _done, _raise(KeyError("never called")))
    assert (tmp_path / RESULT).stat().st_mtime_ns == written


def test_28_promotion_with_the_server_down_fails_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DOWN)
    shards = shard_outputs.write(tmp_path / "shards", 2, split="valid")
    monkeypatch.setattr(evaluation, "open_items", lambda *_, **__: _Items())
    monkeypatch.setattr(evaluation, "ShardItems", _Items)
    options = ["--data", str(shards), "--split", "valid", "--promote", "--output", str(tmp_path / "out")]
    assert job_scripts.run("evaluate", options) == Exit.FAILED
    result = _result(tmp_path / "out")
    assert result["exit_code"] == Exit.FAILED
    assert f"the MLflow registry {DOWN} cannot be used" in result["message"]
    said = capfd.readouterr().err
    assert "Traceback" not in said and DOWN in said


class _Items:
    items, result_models, degradations = ("one",), (), ()


def test_a_registry_that_is_down_is_one_kind_of_error_in_every_request() -> None:
    registry = Registry("apollo", DOWN)
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9 cannot be used"):
        registry.version("champion")
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9 cannot be used"):
        registry.versions_of_run("0" * 32)


def test_28_sigterm_while_models_load_or_data_are_read_is_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("clean.wav", "degraded.wav"):
        datasets.write(tmp_path / "pairs" / "24k" / "one" / name, datasets.music(0, seconds=1.0))
    datasets.write(tmp_path / "songs" / "a.wav", datasets.music(0, seconds=1.0))
    scores = ["--data", str(tmp_path / "pairs"), "--output"]
    places = (
        (evaluation, "load_models", "evaluate", scores),
        (evaluation, "open_items", "evaluate", scores),
        (preprocessing, "find_songs", "preprocess", ["--data", str(tmp_path / "songs"), "--output"]),
        (restoration, "_load", "restore", ["--data", str(tmp_path / "songs"), "--output"]),
        (training, "resolve", "train", ["--shards", str(tmp_path / "shards"), "--output"]),
    )
    for module, function, script, options in places:
        output = tmp_path / function
        with monkeypatch.context() as patch:
            patch.setattr(module, function, _terminate)
            assert job_scripts.run(script, [*options, str(output)]) == Exit.INTERRUPTED, function
        assert _result(output)["exit_code"] == Exit.INTERRUPTED, function


@pytest.mark.parametrize(
    ("script", "options", "named"),
    [
        ("preprocess", ["--data", "songs", "--recipes.song_share", "2"], "song_share"),
        ("train", ["--shards", "shards", "--workers.count", "0"], "workers.count is 0"),
        ("train", ["--shards", "shards", "--source", "nowhere"], "Got value: nowhere"),
        ("train", ["--shards", "shards", "--sauce", "live"], "--sauce"),
        ("evaluate", ["--data", "pairs", "--limit", "0"], "limit is 0"),
        ("evaluate", ["--data", "pairs", "--promotion.level", "7"], "level is 7"),
        ("restore", ["--data", "songs", "--device", "tpu"], "device is 'tpu'"),
        ("restore", ["--data", "nowhere"], "no such file or folder"),
        ("demo", ["--songs", "-1"], "songs must be 0 or more"),
        ("demo", ["--train", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_28_an_invalid_option_is_recorded_as_usage(
    script: str, options: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_scripts.run(script, [*options, "--output", "out"]) == Exit.USAGE
    result = _result(tmp_path / "out")
    assert result["exit_code"] == Exit.USAGE and named in result["message"]


def test_28_an_export_has_a_result_beside_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = shard_outputs.write(tmp_path / "shards", 2)
    shard_outputs.write(tmp_path / "shards", 2, split="valid")
    file = tmp_path / "examples.pt"

    def run(*options: str) -> int:
        code = job_scripts.run("export", ["--data", str(shards), "--file", str(file), *options])
        result = json.loads((tmp_path / "examples.pt.result.json").read_text())
        assert result["exit_code"] == code and result["status"] == STATUS[Exit(code)]
        return code

    assert run("--examples", "0") == Exit.USAGE
    assert run("--examples", "2", "--valid", "1") == Exit.DONE and file.exists()
    assert run("--examples", "9") == Exit.USAGE
    monkeypatch.setattr("pipelines.loading.export.CommittedSplit", _terminate)
    assert run("--examples", "2") == Exit.INTERRUPTED


def test_28_scale_ends_with_the_same_codes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ["--songs", "10", "--recipes", "100", "--cores", "2"]
    assert job_scripts.run("scale", [*plan, "--rates", "nowhere.json"]) == Exit.USAGE
    assert "nowhere.json: No such file" in capsys.readouterr().err
    monkeypatch.setattr("pipelines.capacity.estimate.Rates.from_json", _terminate)
    assert job_scripts.run("scale", plan) == Exit.INTERRUPTED
    assert not list(tmp_path.iterdir())


def test_28_a_server_that_is_down_is_no_usage_error_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DOWN)
    for name in ("clean.wav", "degraded.wav"):
        datasets.write(tmp_path / "pairs" / "24k" / "one" / name, datasets.music(0, seconds=1.0))
    config = evaluation_jobs.config(
        tmp_path / "pairs", tmp_path / "out", models=("models:/apollo@champion",), tracking=_tracking()
    )
    outcome = evaluation.evaluate(config)
    assert outcome.code == Exit.FAILED and "unreachable" in outcome.message
    datasets.write(tmp_path / "songs" / "a.wav", datasets.music(0, seconds=1.0))
    options = ["--data", str(tmp_path / "songs"), "--checkpoint", "models:/apollo@champion"]
    assert job_scripts.run("restore", [*options, "--output", str(tmp_path / "restored")]) == Exit.FAILED
    assert _result(tmp_path / "restored")["exit_code"] == Exit.FAILED


def _tracking() -> Any:
    from pipelines.tracking.run import TrackingConfig

    return TrackingConfig(uri=DOWN)
