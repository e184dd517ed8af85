"""Keys and passwords: in no log, no page, no record, no param of MLflow."""

import sqlite3
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines.errors import UsageError, root_cause
from pipelines.redaction import has_secret, redact
from pipelines.runtime.outcome import Exit
from pipelines.storage.folder import open_filesystem
from pipelines.training.config import TrainConfig
from tests.support import datasets, job_scripts, mlflow_runs

SECRET = datasets.SECRET
WITH = {
    f"s3://AKIAKEY:{SECRET}@bucket/x": "s3://AKIAKEY:***@bucket/x",
    f"s3://AKIAKEY:wJal/{SECRET}/rX+=@bucket/x y": "s3://AKIAKEY:***@bucket/x y",
    f"abfs://account:{SECRET}@container/x": "abfs://account:***@container/x",
    f"abfs://c@account/x?client_secret={SECRET}&tenant_id=t": "abfs://c@account/x?client_secret=***&tenant_id=t",
    f"https://host/x?sv=1&sig={SECRET}%3D": "https://host/x?sv=1&sig=***",
    f"http://me:{SECRET}@tracking:5000": "http://me:***@tracking:5000",
    f"postgresql+psycopg://me:p/{SECRET}@db:5432/mlflow": "postgresql+psycopg://me:***@db:5432/mlflow",
    f"mysql://me@db/mlflow?password={SECRET}": "mysql://me@db/mlflow?password=***",
}
WITHOUT = (
    "s3://bucket/a:b/c@d.mp3",
    "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http",
    "hdfs://name:8020/a@b",
    "http://127.0.0.1:5000 and me@host",
    "gs://bucket/x#y",
    "/data/a:b@c?d=e",
    "sqlite:////data/mlflow.db",
)


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.parametrize("uri", WITH)
def test_passwords_are_taken_out_of_texts(uri: str) -> None:
    assert redact(uri) == WITH[uri]
    assert redact(f"cannot reach {uri!r}: no route") == f"cannot reach {WITH[uri]!r}: no route"
    assert SECRET not in root_cause(RuntimeError(f"API request to {uri} failed"))
    assert SECRET not in root_cause(RuntimeError(f"ray::work()\nOSError: {uri} is gone"))
    assert SECRET not in str(UsageError(f"{uri} is no folder"))


@pytest.mark.parametrize("text", WITHOUT)
def test_what_has_none_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert not has_secret(text)


ARGUMENTS = {
    "preprocess": ["--data", "{uri}", "--output", "out"],
    "preprocess --output": ["--data", "in", "--output", "{uri}"],
    "preprocess --dry-run": ["--data", "{uri}", "--output", "out", "--dry-run"],
    "preprocess --status": ["--output", "{uri}", "--status"],
    "preprocess --sources.cache": ["--data", "in", "--output", "out", "--sources.cache", "{uri}"],
    "restore": ["--data", "{uri}", "--output", "out"],
    "restore --output": ["--data", "in", "--output", "{uri}"],
    "evaluate": ["--data", "{uri}", "--output", "out"],
    "train": ["--shards", "{uri}", "--output", "out"],
    "train --output": ["--shards", "in", "--output", "{uri}"],
    "export": ["--data", "{uri}", "--file", "out.pt"],
    "export --file": ["--data", "in", "--file", "{uri}"],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_no_job_takes_a_place_with_a_key_or_says_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    datasets.write(tmp_path / "in/song.wav", datasets.music(0, seconds=0.5))
    monkeypatch.chdir(tmp_path)
    uri = f"s3://AKIAKEY:{SECRET}@bucket/x"
    code = job_scripts.run(name.split()[0], [part.format(uri=uri) for part in ARGUMENTS[name]])
    assert code == Exit.USAGE
    said = "".join(capfd.readouterr())
    assert SECRET not in said
    assert (
        "contains credentials" in said or "no folder on a disk" in said or "path on this machine" in said
    ), said
    assert not files_with(SECRET, tmp_path)


def test_a_place_with_a_key_is_not_opened() -> None:
    with pytest.raises(UsageError, match=r"'bucket' contains credentials.*AWS_SECRET_ACCESS_KEY"):
        open_filesystem(f"s3://AKIAKEY:{SECRET}@bucket/x")


@pytest.mark.parametrize(
    "uri", [f"http://me:{SECRET}@127.0.0.1:1", f"postgresql://me:{SECRET}@127.0.0.1:1/db"]
)
def test_the_password_of_a_tracking_server_is_neither_kept_nor_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], uri: str
) -> None:
    run = mlflow_runs.open_quick(tmp_path, uri=uri, close_seconds=1, params={"tracking": {"uri": uri}})
    assert not run.close("FAILED")
    said = "".join(capfd.readouterr())
    assert "127.0.0.1:1" in said
    assert SECRET not in said
    assert not files_with(SECRET, tmp_path)


def test_params_and_tags_of_a_training_have_no_passwords(tmp_path: Path) -> None:
    output = mlflow_runs.ready_output(tmp_path)
    uri = f"sqlite:///{output}/mlflow.db"
    config = asdict(TrainConfig(shards="/shards", output=str(output), init=f"https://me:{SECRET}@host/x"))
    config["tracking"]["uri"] = f"postgresql://me:{SECRET}@db/mlflow"
    run = mlflow_runs.open_quick(output, uri=uri, params=config, tags={"from": f"http://me:{SECRET}@host"})
    assert run.close("FINISHED")
    with sqlite3.connect(output / "mlflow.db") as connection:
        params = dict(connection.execute("select key, value from params").fetchall())
    assert params["tracking.uri"] == "postgresql://me:***@db/mlflow"
    assert not files_with(SECRET, output)


def test_the_environment_is_not_written_down(undisturbed: Path) -> None:
    assert len(files_with("committed", undisturbed)) > 1
    assert not files_with(SECRET, undisturbed)
