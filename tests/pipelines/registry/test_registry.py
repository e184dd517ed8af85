"""The registry: versions load without pickles, names resolve, errors say the reason."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import soundfile

from apollo.checkpoints import checkpoint, io
from apollo.checkpoints.container import CheckpointError
from apollo.model.device import choose_device, choose_precision
from pipelines.errors import UsageError
from pipelines.registry import resolve_models
from pipelines.registry.model_bundle import pack
from pipelines.registry.registry import (
    CANDIDATE,
    CHAMPION,
    DIGEST,
    Registry,
    RegistryConfig,
    Version,
    default_tracking_uri,
    register,
)  # fmt: skip
from pipelines.registry.resolve_models import find_version, resolve
from pipelines.tracking.client import make_client
from tests.support import datasets, evaluation_jobs
from tests.support.identity_generator import one
from tests.support.malicious_payloads import Planted

SCORES = {"valid/g/stft": 0.25}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with an experiment in it, for this module."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    make_client(uri).create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    return uri


def new_run(uri: str) -> str:
    client = make_client(uri)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def add(uri: str, folder: Path, name: str, run_id: str | None = None) -> Version:
    return register(
        str(folder),
        RegistryConfig(name=name, licence="CC0"),
        uri,
        run_id=run_id or new_run(uri),
        tags={"data_fingerprint": "abc"},
        scores=SCORES,
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


def test_a_version_restores_what_the_command_does_and_loads_without_pickles(
    database: str, tmp_path: Path
) -> None:
    model = evaluation_jobs.write_model(tmp_path / "model")
    version = add(database, model, "same")
    song = datasets.write(tmp_path / "song.wav", datasets.music(1, seconds=2.0))
    song = datasets.encode(song, tmp_path / "song.mp3", "-b:a", "64k")
    with default_tracking_uri(database):
        served = mlflow.pyfunc.load_model(f"models:/same@{CANDIDATE}")
    (found,) = served.predict([song.read_bytes()])
    device = choose_device("auto")
    generator = checkpoint.load(model).with_precision(choose_precision("auto", device)).to(device)
    expected = one(generator, song, format="flac24")
    (tmp_path / "found.flac").write_bytes(found)
    ours, rate = soundfile.read(tmp_path / "found.flac", dtype="int32")
    theirs, _ = soundfile.read(expected.output, dtype="int32")
    assert rate == 44_100
    np.testing.assert_array_equal(ours, theirs)
    artifacts = Path(database.removeprefix("sqlite:///")).parent / "artifacts"
    suffixes = {path.suffix for path in artifacts.rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".pkl", ".pickle", ".pt", ".bin"}
    assert version.number == 1


def test_strength_and_seed_are_parameters_of_the_registered_model(database: str, tmp_path: Path) -> None:
    add(database, checkpoint.locate("compact"), "compact")
    song = datasets.write(tmp_path / "song.wav", datasets.music(1, seconds=1.0))
    with default_tracking_uri(database):
        served = mlflow.pyfunc.load_model(f"models:/compact@{CANDIDATE}")
    default, full, none, other = (
        served.predict([song.read_bytes()], params=params)
        for params in ({}, {"strength": 1.0}, {"strength": 0.0}, {"seed": 7})
    )
    assert default == full
    assert len({bytes(one[0]) for one in (default, none, other)}) == 3
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"strength is 2\.0: it must be from"):
        served.predict([song.read_bytes()], params={"strength": 2.0})


def test_a_version_has_description_and_tags(database: str, tmp_path: Path) -> None:
    run_id = new_run(database)
    version = add(database, evaluation_jobs.write_model(tmp_path / "model"), "told", run_id)
    found = make_client(database).get_model_version("told", "1")
    for text in ("CC0", run_id, "abc", "0.25", "parameters", "dim 8"):
        assert text in found.description
    assert found.tags["training_run"] == run_id
    assert found.run_id == run_id
    registry = Registry("told", database)
    assert registry.version(CANDIDATE) == registry.version(1)
    assert registry.version(CHAMPION) is None
    assert registry.version(7) is None
    assert make_client(database).get_run(run_id).info.status == "FINISHED"
    with default_tracking_uri(database):
        info = mlflow.models.get_model_info(version.uri)
    assert [column.type.name for column in info.signature.inputs] == ["binary"]
    assert {param.name: param.default for param in info.signature.params} == {
        **{"format": "flac24", "strength": 1.0, "seed": 0},
    }
    assert info.saved_input_example_info is not None


def test_the_same_weights_are_registered_once_and_missing_tags_are_added(
    database: str, tmp_path: Path
) -> None:
    model, run_id = evaluation_jobs.write_model(tmp_path / "model"), new_run(database)
    first = add(database, model, "once", run_id)
    client = make_client(database)
    client.delete_registered_model_alias("once", CANDIDATE)
    client.delete_model_version_tag("once", "1", "was_candidate")
    client.delete_model_version_tag("once", "1", "licence")
    again = add(database, model, "once", run_id)
    assert again.number == first.number == 1
    registry = Registry("once", database)
    healed = registry.version(CANDIDATE)
    assert healed is not None
    assert healed.tags["licence"] == "CC0"
    better = add(database, evaluation_jobs.write_model(tmp_path / "better", seed=1), "once", run_id)
    assert better.number == 2
    assert add(database, model, "once", run_id).number == 1
    newest = registry.version(CANDIDATE)
    assert newest is not None
    assert newest.number == 2


def test_names_resolve_to_checkpoints_that_are_downloaded_once(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, run_id = evaluation_jobs.write_model(tmp_path / "model"), new_run(database)
    add(database, model, "apollo", run_id)
    expected = pack(checkpoint.load(model)).digest
    for name in (f"models:/apollo@{CANDIDATE}", "models:/apollo/1", f"runs:/{run_id}"):
        assert pack(checkpoint.load(name)).digest == expected
    assert "no champion yet" not in capsys.readouterr().err
    folder = resolve(f"models:/apollo@{CHAMPION}")
    assert "no champion yet: using the candidate, version 1" in capsys.readouterr().err
    before = folder.stat().st_mtime_ns
    Registry("apollo", database).set_alias(CHAMPION, find_version("models:/apollo/1")[0])
    assert resolve(f"models:/apollo@{CHAMPION}") == folder
    assert folder.stat().st_mtime_ns == before
    assert "champion" not in capsys.readouterr().err
    weights = folder / checkpoint.SAFETENSORS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")  # what a cache went through
    assert pack(checkpoint.load("models:/apollo/1")).digest == expected
    assert list(folder.parent.glob(".*")) == []


def test_a_download_that_another_process_overtook_uses_its_copy(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(database, evaluation_jobs.write_model(tmp_path / "model"), "raced")
    download, folders = resolve_models._download, list[Path]()

    def overtaken(*arguments: Any) -> Path:
        monkeypatch.setattr(resolve_models, "_download", download)
        folders.append(resolve("models:/raced/1"))
        return download(*arguments)

    monkeypatch.setattr(resolve_models, "_download", overtaken)
    assert [resolve("models:/raced/1")] == folders


def test_an_interrupted_registration_is_completed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run_id = evaluation_jobs.write_model(tmp_path / "model"), new_run(database)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "register_model", fail)
        with pytest.raises(OSError, match="cut off"):
            add(database, model, "cut", run_id)
    assert add(database, model, "cut", run_id).number == 1
    assert Registry("cut", database).version(CANDIDATE) == Registry("cut", database).version(1)
    assert make_client(database).get_run(run_id).info.status == "FINISHED"
    # MLflow's default place, for which it would make files in the working directory, was not used
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_digest_from_the_server_cannot_name_another_folder(database: str, tmp_path: Path) -> None:
    """The digest is part of the name of a cache folder, which is deleted if it is damaged."""
    model = evaluation_jobs.write_model(tmp_path / "model")
    add(database, model, "hostile")
    for digest in ("../../../model", "", "0" * 63, "0" * 63 + "/"):
        make_client(database).set_model_version_tag("hostile", "1", DIGEST, digest)
        with pytest.raises(CheckpointError, match="was not registered by this project"):
            resolve("models:/hostile/1")
    assert (model / "config.json").exists()


@pytest.mark.parametrize("weights", ["sound", "pickled"])
def test_pickles_in_a_version_are_not_unpickled(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    class Model(Planted, mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[str]) -> list[str]:
            return model_input

    mark, name = tmp_path / "ran", f"planted-{weights}"
    generator = checkpoint.load(evaluation_jobs.write_model(tmp_path / "model"))
    folder = checkpoint.save_safetensors(generator, tmp_path / "checkpoint")
    if weights == "pickled":
        (folder / checkpoint.SAFETENSORS).write_bytes(Planted(mark).pickled())
        manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
        manifest["sha256"][checkpoint.SAFETENSORS] = io.file_sha256(folder / checkpoint.SAFETENSORS)
        (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with default_tracking_uri(database), mlflow.start_run(experiment_id="1"):
        mlflow.pyfunc.log_model(
            name="model", python_model=Model(mark), artifacts={"checkpoint": str(folder)},
            pip_requirements=["mlflow"], registered_model_name=name,
        )  # fmt: skip
    make_client(database).set_model_version_tag(name, "1", DIGEST, pack(generator).digest)
    artifacts = Path(database.removeprefix("sqlite:///")).parent / "artifacts"
    assert list(artifacts.rglob("python_model.pkl"))
    if weights == "sound":
        assert pack(checkpoint.load(f"models:/{name}/1")).digest == pack(generator).digest
    else:
        with pytest.raises(CheckpointError, match="safetensors"):
            checkpoint.load(f"models:/{name}/1")
    with default_tracking_uri(database), pytest.raises(mlflow.MlflowException, match="pickle is disallowed"):
        mlflow.pyfunc.load_model(f"models:/{name}/1")  # as docs/registry.md has it served
    assert not mark.exists()
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    with default_tracking_uri(database), pytest.raises(Exception):  # noqa: B017 - what was built is no model
        mlflow.pyfunc.load_model(f"models:/{name}/1")
    assert mark.exists()


def test_unknown_names_are_refused_with_the_reason(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "models:/nothing@champion": "no such version",
        "models:/nothing/3": "no such version",
        f"runs:/{'0' * 32}": "no such version",
        "models:/apollo": "is not a model name",
        "models:/apollo@a/../../b": "is not a model name",
        "models:/a' or '1'='1/1": "is not a model name",
        "runs:/latest": "is not a model name",
        "models:/apollo@3": "is not a model name",
        "models:/apollo/٣": "is not a model name",
        f"models:/apollo/{'9' * 30}": "is not a model name",
        "models:/apollo/1\n": "is not a model name",
        f"models:/{'a' * 5000}/1": "no such version",
    }.items():
        with pytest.raises(CheckpointError, match=text):
            checkpoint.load(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="unreachable"):
        checkpoint.load("models:/apollo/1")
    missing = Path(database.removeprefix("sqlite:///")).with_name("missing.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{missing}")
    with pytest.raises(CheckpointError, match=r"missing.db, which does not exist"):
        checkpoint.load("models:/apollo/1")
    assert not missing.exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(CheckpointError, match="set MLFLOW_TRACKING_URI"):
        checkpoint.load("models:/apollo/1")


def test_invalid_model_names_are_refused() -> None:
    for name in ("", "a/b", "a b", "../x", "@", "-x"):
        with pytest.raises(UsageError, match="letters, digits"):
            RegistryConfig(name=name)


def test_portable_checkpoints_are_checkpoints(tmp_path: Path) -> None:
    generator = checkpoint.load(evaluation_jobs.write_model(tmp_path / "model"))
    folder = checkpoint.save_safetensors(generator, tmp_path / "portable", metadata={"from": "here"})
    assert sorted(path.name for path in folder.iterdir()) == [
        "MANIFEST.json",
        "config.json",
        "weights.safetensors",
    ]
    assert pack(checkpoint.load(folder)).digest == pack(generator).digest
    assert checkpoint.describe(str(folder))["from"] == "here"
    assert checkpoint.read_discriminator_state(folder) is None
    with pytest.raises(FileExistsError):
        checkpoint.save_safetensors(generator, folder)
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    os.truncate(damaged / "weights.safetensors", 100)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(damaged)
    manifest = json.loads((damaged / "MANIFEST.json").read_text())
    manifest["sha256"]["weights.safetensors"] = io.file_sha256(damaged / "weights.safetensors")
    (damaged / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="safetensors"):
        checkpoint.load(damaged)
