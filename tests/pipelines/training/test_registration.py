"""Registration of the best weights of a finished training, now or later."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.registry.registry import CANDIDATE, Registry, RegistryConfig
from pipelines.runtime.outcome import RESULT, Exit, write_result
from pipelines.runtime.run import check_fingerprint
from pipelines.storage.folder import Folder
from pipelines.tracking.run import TrackingConfig
from pipelines.training import registration, resolve
from pipelines.training import run as train
from pipelines.training.config import TrainConfig
from tests.support import evaluation_jobs
from tests.support.mlflow_runs import QUICK, open_quick, ready_output

FACTS: dict[str, Any] = {"best": 16, "scores": {"valid/g/stft": 0.5}}
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Return the configuration of an output with a best checkpoint and its own MLflow database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    output = ready_output(tmp_path / "run")
    evaluation_jobs.write_identity(output / "best")
    return TrainConfig(shards="/s", output=str(output), tracking=TrackingConfig(**QUICK))


def test_the_best_weights_are_registered_once(config: TrainConfig) -> None:
    run = open_quick(Path(config.output))
    run.close("FINISHED")
    for _ in range(2):
        found = registration.register_best(config, FACTS, {"data_fingerprint": "abc"})
        assert found == {"registered": "models:/apollo/1"}
    version = Registry("apollo", f"sqlite:///{config.output}/mlflow.db").version(CANDIDATE)
    assert version is not None
    assert (version.number, version.run_id) == (1, run.run_id())
    assert version.tags["step"] == "16"
    assert version.tags["data_fingerprint"] == "abc"
    assert json.loads(version.tags["scores"]) == FACTS["scores"]


def test_the_reason_is_kept_if_nothing_is_registered(config: TrainConfig) -> None:
    found = registration.register_best(config, {"best": None}, {})
    assert found == {"registered": None, "not_registered": "there is no best checkpoint yet"}
    silent = replace(config, registry=RegistryConfig(register=False))
    assert registration.register_best(silent, FACTS, {})["not_registered"] == "registry.register is false"


def test_an_unreachable_registry_is_reported_and_gets_the_version_later(config: TrainConfig) -> None:
    """The server that never answered does not have the run either."""
    down = replace(
        config, tracking=replace(config.tracking, uri=UNREACHABLE, close_seconds=0.5, request_seconds=1)
    )
    open_quick(Path(config.output), uri=UNREACHABLE, close_seconds=0.5, request_seconds=1).close("FINISHED")
    found = registration.register_best(down, FACTS, {})
    assert found["registered"] is None
    assert UNREACHABLE in found["not_registered"]
    assert registration.register_best(config, FACTS, {}) == {"registered": "models:/apollo/1"}


def test_a_finished_training_registers_later_without_training_again(
    config: TrainConfig, undisturbed: Path
) -> None:
    config = replace(config, shards=str(undisturbed))
    steps = config.fit.epochs * (config.fit.epoch_examples // config.gan.batch_size)
    output = Folder(config.output)
    check_fingerprint(output, resolve._fingerprint(config))
    already = f"{config.output} is finished already: all steps"
    facts = {**FACTS, "ending": "done", "step": steps, "patience_epochs": 20, "skipped": 0}
    write_result(output, Exit.DONE, already, **facts, registered=None, not_registered="it was down")
    open_quick(Path(config.output)).close("FINISHED")
    outcome = train.train(config)
    assert outcome.code == Exit.DONE, outcome.message
    result = json.loads(output.read(RESULT))
    assert result["registered"] == "models:/apollo/1"
    assert "not_registered" not in result
    assert (result["status"], result["step"], result["best"]) == ("done", steps, 16)
    assert result["message"].count("finished already") == 1
    written = Path(config.output, RESULT).stat().st_mtime_ns
    assert train.train(config).code == Exit.DONE
    assert Path(config.output, RESULT).stat().st_mtime_ns == written
