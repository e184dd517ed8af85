"""The MLflow server of the cluster files: it asks for the password and stores its data where they say."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.support.mlflow_runs import ready_output

ROOT = Path(__file__).parents[2]
PASSWORD = "a-password-of-twelve-or-more"  # noqa: S105 - no secret


def server_command(name: str) -> str:
    """Return the line of a cluster file that starts the server."""
    lines = yaml.safe_load((ROOT / name).read_text())["head_start_ray_commands"]
    (line,) = (line for line in lines if "mlflow server" in line)
    return str(line)


@contextmanager
def started(home: Path, password: str) -> Iterator[str]:
    """Run that line as on a head, but on loopback and a free port, and yield the address once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    line = server_command("cluster.yaml")
    for old, new in (("--host 0.0.0.0", "--host 127.0.0.1"), ("--port 5000", f"--port {port}")):
        assert old in line
        line = line.replace(old, new)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "APOLLO_STORE": str(home / "store"),
        "MLFLOW_TRACKING_USERNAME": "apollo",
        "MLFLOW_TRACKING_PASSWORD": password,
    }
    shell = subprocess.Popen(["/bin/bash", "-c", line], env=environment, start_new_session=True)
    shell.wait()  # the server goes on in the background, in the same process group
    deadline = time.monotonic() + 300
    try:
        while not answers(port):
            assert time.monotonic() < deadline and is_running(shell.pid), (home / "mlflow.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_running(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def test_both_cluster_files_start_the_same_server() -> None:
    assert server_command("cluster.yaml") == server_command("cluster-local.yaml")


def test_the_server_refuses_anonymous_requests_and_accepts_the_password_of_its_last_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ready_output(tmp_path / "mlflow")
    (folder / "basic_auth.db").write_text("of another password")
    (tmp_path / "weights.txt").write_text("bytes")
    with started(tmp_path, PASSWORD) as address:
        client = MlflowClient(address)
        for name, password in (("", ""), ("apollo", "another-of-twelve-or-more"), ("admin", PASSWORD)):
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
            with pytest.raises(MlflowException, match="401"):
                client.search_experiments()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "apollo")
        run = client.create_run(client.create_experiment("training")).info.run_id
        client.log_artifact(run, str(tmp_path / "weights.txt"))
    artifacts = tmp_path / "store/mlflow/artifacts"
    assert [path.read_text() for path in artifacts.rglob("weights.txt")] == ["bytes"]
    assert MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(run).info.status == "RUNNING"


def test_the_server_does_not_start_without_a_password(tmp_path: Path) -> None:
    ready_output(tmp_path / "mlflow")
    with pytest.raises(AssertionError, match="MLFLOW_AUTH_ADMIN_PASSWORD"), started(tmp_path, ""):
        pass
