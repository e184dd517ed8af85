"""The MLflow server of a cluster: lets in who knows the password, and what it knew outlives its machine."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines.errors import UsageError
from pipelines.runtime.run import Exit
from pipelines.storage.folder import Folder
from pipelines.tracking import server as mlflow_server
from pipelines.tracking.server import bring_back, held, keep, main
from tests.support.mlflow_runs import ready_output

PASSWORD = "a-password-of-twelve-or-more"  # noqa: S105 - no secret


@contextmanager
def served(folder: Path, store: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve on a free port of this machine, and give the process and the address once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["--folder", str(folder), "--store", str(store), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "pipelines.tracking.server", *arguments])
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_who_has_the_password_writes_and_all_of_it_is_in_the_store_after_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "apollo")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    folder, store = ready_output(tmp_path / "folder"), tmp_path / "store"
    (folder / "basic_auth.db").write_text("of another password")
    (tmp_path / "weights.txt").write_text("bytes")
    with served(folder, store) as (process, address):
        client = MlflowClient(address)
        run = client.create_run(client.create_experiment("training")).info.run_id
        client.log_artifact(run, str(tmp_path / "weights.txt"))
        for name, password in (("apollo", "another-of-twelve-or-more"), ("admin", PASSWORD), ("", "")):
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
            with pytest.raises(MlflowException, match="401"):
                client.search_experiments()
        assert main(["--folder", str(folder), "--store", str(store), "--stop"]) == Exit.DONE
        assert process.wait(60) == Exit.DONE
    assert [path.read_text() for path in store.rglob("weights.txt")] == ["bytes"]
    with closing(sqlite3.connect(store / "mlflow.db")) as copy:
        assert copy.execute("select run_uuid from runs").fetchall() == [(run,)]


def test_nobody_is_let_in_without_a_password_being_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "apollo")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    assert main(["--folder", str(tmp_path / "a"), "--store", str(tmp_path / "b")]) == Exit.USAGE
    assert "MLFLOW_TRACKING_PASSWORD" in capsys.readouterr().err


def test_a_store_that_cannot_be_asked_does_not_begin_an_empty_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "apollo")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setattr(Folder, "exists", lambda *_: (_ for _ in ()).throw(OSError("no route to it")))
    assert main(["--folder", str(tmp_path / "a"), "--store", str(tmp_path / "b")]) == Exit.FAILED
    assert not (tmp_path / "a" / "mlflow.db").exists()


def table_of(database: Path) -> list[tuple[int]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("select * from runs").fetchall()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "here" / "mlflow.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table runs (id integer)")
        connection.execute("insert into runs values (1)")
    return path


def test_a_copy_has_what_is_committed_and_nothing_else(database: Path, tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "store"))
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("insert into runs values (2)")  # and no commit
        keep(database, store)
        assert table_of(tmp_path / "store" / "mlflow.db") == [(1,)]
        writer.commit()
        keep(database, store)
    assert table_of(tmp_path / "store" / "mlflow.db") == [(1,), (2,)]
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"mlflow.db"}


def test_a_new_machine_takes_the_copy_and_an_old_one_keeps_its_own(database: Path, tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "store"))
    keep(database, store)
    new = tmp_path / "new" / "mlflow.db"
    new.parent.mkdir()
    bring_back(store, new)
    assert table_of(new) == [(1,)]
    with closing(sqlite3.connect(new)) as connection, connection:
        connection.execute("insert into runs values (3)")
    bring_back(store, new)
    assert table_of(new) == [(1,), (3,)]


def test_a_store_that_fails_only_delays_the_copy(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Folder(str(tmp_path / "store"))
    with monkeypatch.context() as broken:
        broken.setattr(Folder, "put", lambda *_: (_ for _ in ()).throw(OSError("503")))
        keep(database, store)
    assert "503" in capsys.readouterr().err
    assert [path.name for path in database.parent.iterdir()] == ["mlflow.db"]
    keep(database, store)
    assert (tmp_path / "store" / "mlflow.db").exists()


def test_one_server_a_folder_and_the_next_one_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_server, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(mlflow_server, "_END_SECONDS", 0.2)
    told, end = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "kill", lambda pid, number: told.set())

    def serve() -> None:
        with held(tmp_path):
            end.wait(10)

    server = threading.Thread(target=serve)
    server.start()
    while not (tmp_path / "server.lock").exists() or not (tmp_path / "server.lock").read_text():
        time.sleep(0.01)
    with pytest.raises(UsageError, match="does not end"), held(tmp_path):
        pass
    assert told.is_set()
    end.set()
    with held(tmp_path):
        pass
    server.join(10)
