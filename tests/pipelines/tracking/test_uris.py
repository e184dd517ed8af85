"""URIs of databases: any path becomes one and comes back; a registry that was moved is named."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import make_url

from apollo.checkpoints import checkpoint
from apollo.checkpoints.container import CheckpointError
from pipelines.errors import UsageError
from pipelines.evaluation.promotion import resolve_tracking_uri
from pipelines.registry.registry import RegistryConfig, register
from pipelines.tracking.client import make_client
from pipelines.tracking.run import Tracker, TrackingConfig
from pipelines.tracking.uri import database_path, resolve_uri, sqlite_uri
from tests.support import evaluation_jobs, mlflow_runs

NAMES = ("plain", "My%20Album", "new?", "50% off?x=1&y#z;", "ünïcode ♪", "a\nb")


@pytest.mark.parametrize("name", NAMES)
def test_33_every_path_becomes_a_uri_and_comes_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = f"/runs/{name}/mlflow.db"
    uri = sqlite_uri(path)
    assert database_path(uri) == path
    assert make_url(uri).database == path and not make_url(uri).query
    assert resolve_uri(None, f"/runs/{name}") == uri == resolve_uri(uri, "/elsewhere")
    assert database_path(f"{uri}?timeout=9") == path


@pytest.mark.parametrize("name", ["My%20Album", "new?"])
def test_33_an_output_of_any_name_is_tracked_and_registered_in_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = mlflow_runs.ready_output(tmp_path / "runs" / name)
    run = mlflow_runs.open_quick(output)
    with_picture = Tracker(run)
    with_picture.log(1, {"loss": 2.0})
    (tmp_path / "picture.png").write_bytes(b"png")
    with_picture.log_file("pictures", 1, "picture", tmp_path / "picture.png")
    assert with_picture.close() and run.close("FINISHED")
    assert mlflow_runs.points(output / "mlflow.db") == {"loss": [(1, 2.0)]}
    assert list((output / "mlflow-artifacts").rglob("*.png"))
    uri, run_id = sqlite_uri(str(output / "mlflow.db")), run.run_id()
    assert run_id
    model = evaluation_jobs.write_model(tmp_path / "model")
    made = register(str(model), RegistryConfig(), uri, run_id=run_id, tags={}, scores={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert checkpoint.load(made.uri).config == checkpoint.load(model).config
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [name]  # nothing beside it


def test_34_a_moved_registry_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    old = mlflow_runs.ready_output(tmp_path / "old")
    uri = sqlite_uri(str(old / "mlflow.db"))
    client = make_client(uri)
    experiment = client.create_experiment("tests", artifact_location=(old / "mlflow-artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    model = evaluation_jobs.write_model(tmp_path / "model")
    register(str(model), RegistryConfig(), uri, run_id=run_id, tags={}, scores={})
    shutil.move(old, tmp_path / "new")
    settings = {"split": "valid", "promote": True, "tracking": TrackingConfig(uri=uri)}
    config = evaluation_jobs.config(tmp_path / "shards", tmp_path / "out", **settings)
    with pytest.raises(UsageError, match=r"the model registry sqlite:///.*/old/mlflow\.db does not exist"):
        resolve_tracking_uri(config)
    assert not old.exists()  # no empty registry takes its place
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(str(tmp_path / "new" / "mlflow.db")))
    with pytest.raises(
        CheckpointError, match=r"cannot download models:/apollo/1 .*/old/.*move it back"
    ) as caught:
        checkpoint.load("models:/apollo@candidate")
    assert "\n" not in str(caught.value)
