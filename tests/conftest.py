"""What all tests share: folders of recordings, one local Ray, a small data set, and the oracle of a run."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.runtime import logs
from pipelines.runtime.environment import environment
from tests.support import datasets, fault_proxy, s3_server
from tests.support.in_process_actors import replace_actors

os.environ.update(s3_server.SETTINGS)  # before Ray starts: its workers have them, and no test has real ones
# Ray gives its workers niceness 15: beside another process of tests they would hardly be run.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # by default 2 s: how late an end is seen
os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are as many processes of tests as cores


def _shared(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{variable} names no folder")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files whose tests need Ray first: they take longest, and several processes end together."""
    slow = {item.path for item in items if "ray_address" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Recorded vectors of the published model; tests that need them are skipped without."""
    return _shared("APOLLO_GOLDEN")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Real recordings; tests that need them are skipped without."""
    return _shared("APOLLO_AUDIO")


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """One local Ray for the whole session: 8 logical CPUs, so that pools of 7 fit on any machine."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def object_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.Server]:
    """An S3 server for the whole session, behind a proxy that fails where it is told."""
    with (
        s3_server.serve(tmp_path_factory.mktemp("s3") / "server.log") as port,
        fault_proxy.Proxy(port) as proxy,
    ):
        yield s3_server.Server(port, proxy)


@pytest.fixture
def bucket(object_stores: s3_server.Server) -> Iterator[s3_server.Bucket]:
    """A new bucket, of a store that does not fail yet."""
    yield object_stores.new_bucket()
    object_stores.proxy.heal()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in MUSDB18-HQ's layout."""
    return datasets.write_musdb(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def undisturbed(ray_address: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing disturbed; what disturbed runs must equal."""
    from pipelines.preprocess.run import preprocess
    from pipelines.runtime.outcome import Exit

    output = tmp_path_factory.mktemp("undisturbed") / "shards"
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
            environment.setenv(name, datasets.SECRET)
        outcome = preprocess(datasets.config(data, output))
    assert outcome.code == Exit.DONE, outcome.message
    return output


@pytest.fixture
def in_process_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preprocess and restore without Ray, for tests that are not of Ray."""
    replace_actors(monkeypatch)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1.5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)],  # noqa: S607 - the system's
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - the system's


@pytest.fixture(autouse=True)
def logging_as_in_jobs() -> None:
    """Write log records to stderr; a training worker of the test before may have forwarded them."""
    logs.configure("INFO")


@pytest.fixture(autouse=True)
def tracking_uri_as_before() -> Iterator[None]:
    """Restore the MLflow server that a test names: later ones, and jobs that they start, must not take it."""
    with environment({"MLFLOW_TRACKING_URI": None}):
        yield
