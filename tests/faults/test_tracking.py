"""Fault 23: the tracking server or the trainer is down, slow, locked or killed: each point arrives once."""

import os
import pickle
import random
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.tracking.run import Tracker
from tests.support.mlflow_runs import Points, open_quick, points, ready_output, wait_until

ROOT = Path(__file__).parents[2]
LONGEST_CALL_SECONDS = 0.3

TRAINER = """
import os, pickle, sys, time
from pathlib import Path
from pipelines.tracking.run import Tracker
run, checkpoint, steps = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]), int(sys.argv[3])
tracker = Tracker(run)
print("logging", flush=True)
for step in range(int(checkpoint.read_text()) + 1 if checkpoint.exists() else 0, steps):
    tracker.log(step, {"g/stft": step, "d/real": 2 * step})
    if step % 50 == 49:
        tracker.log(step, {"valid/mos": step / 100}, kind="validation")
        Path(f"{checkpoint}.part").write_text(str(step))
        os.replace(f"{checkpoint}.part", checkpoint)
    time.sleep(0.004)
assert tracker.close(60)
"""


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class Server:
    """A real tracking server on a port of its own.

    Args:
        folder: For its database and files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = ready_output(folder)
        self.database = folder / "mlflow.db"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        places = [
            f"--backend-store-uri=sqlite:///{self.database}",
            f"--artifacts-destination={self.folder / 'files'}",
        ]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*program, *places, "--workers=1"],
                stdout=log, stderr=log, start_new_session=True, env=environment,
            )  # fmt: skip

    def is_up(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:  # noqa: S310 - on loopback
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Proxy:
    """A proxy of a server that can hang, or drop the answers to writes.

    Args:
        port: Port of the server.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.state = "open"
        self.requests = 0
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.requests += 1
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server, suppress(OSError):
            writes = False
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    content = ready.recv(65_536)
                    if not content or (ready is server and writes and self.state == "loses answers"):
                        return
                    if ready is client and b" HTTP/1.1\r\n" in content:
                        writes = b"runs/create" in content or b"runs/log-batch" in content
                    while self.state == "hangs":
                        time.sleep(0.02)
                    (server if ready is client else client).sendall(content)

    def close(self) -> None:
        self.state = "open"
        self._listener.close()


class Trainer:
    """Logs one metric a step, and checks that no call takes long.

    Args:
        tracker: Tracker of the run.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.steps = 0
        self.slowest_seconds = 0.0

    def train(self, steps: int, pause_seconds: float = 0.002) -> None:
        for _ in range(steps):
            self.steps += 1
            began = time.perf_counter()
            self.tracker.log(self.steps, {"g/stft": self.steps / 4})
            self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - began)
            time.sleep(pause_seconds)

    def check(self, found: Points) -> None:
        assert found == {"g/stft": [(step, step / 4) for step in range(1, self.steps + 1)]}
        assert self.slowest_seconds < LONGEST_CALL_SECONDS


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    yield made
    made.kill()


@pytest.fixture(scope="module")
def lasting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    try:
        wait_until(made.is_up)
        yield made
    finally:
        made.kill()


@pytest.fixture
def proxy(lasting_server: Server) -> Iterator[Proxy]:
    made = Proxy(lasting_server.port)
    yield made
    made.close()


def test_23_a_server_that_starts_late_and_is_killed_has_every_point_once(
    server: Server, tmp_path: Path
) -> None:
    began = time.monotonic()
    run = open_quick(tmp_path / "output", uri=server.uri, params={"rate": 1})
    assert time.monotonic() - began < 10 and run.run_id() is None
    trainer = Trainer(Tracker(run))
    trainer.train(200)
    server.start()
    while not points(server.database):
        trainer.train(50)
        assert time.monotonic() - began < 90
    trainer.train(500)
    server.kill()
    trainer.train(500)
    server.start()
    wait_until(server.is_up)
    trainer.train(200)
    assert trainer.tracker.close()
    assert run.close("FINISHED")
    trainer.check(points(server.database, run.run_id()))
    with sqlite3.connect(server.database) as connection:
        assert connection.execute("select status from runs").fetchall() == [("FINISHED",)]
        assert connection.execute("select key, value from params").fetchall() == [("rate", "1")]


def test_23_a_server_that_hangs_delays_nothing(proxy: Proxy, lasting_server: Server, tmp_path: Path) -> None:
    proxy.state = "hangs"
    began = time.monotonic()
    run = open_quick(tmp_path / "output", uri=proxy.uri, request_seconds=1)
    assert time.monotonic() - began < 10 and run.run_id() is None
    trainer = Trainer(Tracker(run))
    trainer.train(500)
    proxy.state = "open"
    trainer.train(500)
    wait_until(run.run_id)
    proxy.state = "hangs"
    trainer.train(500)
    began = time.monotonic()
    assert not trainer.tracker.close(2)
    assert time.monotonic() - began < 4
    assert proxy.requests > 3
    proxy.state = "open"
    assert run.close("FINISHED")
    trainer.check(points(lasting_server.database, run.run_id()))


def test_23_lost_answers_duplicate_nothing(proxy: Proxy, lasting_server: Server, tmp_path: Path) -> None:
    """The run is created and the points are written, but the answers are lost."""
    proxy.state = "loses answers"
    run = open_quick(tmp_path / "output", uri=proxy.uri, experiment="lost answers")
    assert run.run_id() is None
    trainer = Trainer(Tracker(run))
    (tmp_path / "x.png").write_text("picture")
    trainer.tracker.log_file("pictures", 1, "x", tmp_path / "x.png")
    for state in ("open", "loses answers") * 4:
        proxy.state = state
        trainer.train(300)
    proxy.state = "open"
    assert trainer.tracker.close()
    assert run.close("FINISHED")
    trainer.check(points(lasting_server.database, run.run_id()))
    with sqlite3.connect(lasting_server.database) as connection:
        runs = connection.execute(
            "select run_uuid from runs join experiments using (experiment_id) where experiments.name = ?",
            ("lost answers",),
        ).fetchall()
    assert runs == [(run.run_id(),)]
    assert [path.read_text() for path in lasting_server.folder.rglob("x.png")] == ["picture"]


@pytest.mark.parametrize("seconds", [3.0, pytest.param(30.0, marks=pytest.mark.faults)])
def test_23_a_locked_database_only_delays(seconds: float, tmp_path: Path) -> None:
    """MLflow itself gives up after 20 s."""
    output = ready_output(tmp_path / "output")
    run = open_quick(output)
    trainer = Trainer(Tracker(run))
    trainer.train(200)
    wait_until(lambda: points(output / "mlflow.db"))
    with sqlite3.connect(output / "mlflow.db", isolation_level=None, timeout=30) as other:
        other.execute("begin exclusive")
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            trainer.train(100)
        other.execute("rollback")
    other.close()
    trainer.train(200)
    assert trainer.tracker.close()
    trainer.check(points(output / "mlflow.db", run.run_id()))


def test_23_a_database_locked_at_the_start_only_delays(tmp_path: Path) -> None:
    output = ready_output(tmp_path / "output")
    with sqlite3.connect(output / "mlflow.db", isolation_level=None, check_same_thread=False) as other:
        other.execute("begin exclusive")
        threading.Timer(3, other.rollback).start()
        run = open_quick(output)
        trainer = Trainer(Tracker(run))
        trainer.train(200)
        assert trainer.tracker.close()
    other.close()
    trainer.check(points(output / "mlflow.db", run.run_id()))


@pytest.mark.parametrize(
    "kills, steps, longest_seconds",
    [
        (4, 1_500, 1.5),
        pytest.param(30, 22_000, 4.0, marks=[pytest.mark.faults, pytest.mark.timeout(900)]),
    ],
)
def test_23_a_trainer_killed_at_random_logs_the_same_points(
    kills: int, steps: int, longest_seconds: float, tmp_path: Path
) -> None:
    output = ready_output(tmp_path / "output")
    run = open_quick(output)
    (tmp_path / "run").write_bytes(pickle.dumps(run))
    command = [sys.executable, "-c", TRAINER, *map(str, (tmp_path / "run", tmp_path / "checkpoint", steps))]
    chance = random.Random(23)
    for attempt in range(kills + 1):
        trainer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert trainer.stdout is not None and trainer.stdout.readline() == b"logging\n"
        if attempt < kills:
            time.sleep(chance.uniform(0.0, longest_seconds))
            trainer.kill()
        assert trainer.wait() == (-signal.SIGKILL if attempt < kills else 0)
        trainer.stdout.close()
    assert points(output / "mlflow.db", run.run_id()) == {
        "g/stft": [(step, float(step)) for step in range(steps)],
        "d/real": [(step, 2.0 * step) for step in range(steps)],
        "valid/mos": [(step, step / 100) for step in range(49, steps, 50)],
    }
