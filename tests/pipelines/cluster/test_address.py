"""Wrong addresses of Ray: refused within seconds, with the whole reason and what to do."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import ray
from ray._private.utils import validate_socket_filepath

from pipelines.cluster import address, connection
from pipelines.demo.run import DemoConfig, run_demo
from pipelines.errors import UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.run import evaluate
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.run import preprocess
from pipelines.restoration.run import RestoreConfig, restore
from pipelines.runtime.outcome import Exit, Outcome
from pipelines.training.config import TrainConfig
from pipelines.training.run import train

_SETTINGS = bytes(3) + b"\x04" + bytes(5)  # with which a server of HTTP/2 begins


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has not joined a cluster, and joins none."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@contextmanager
def _server(answer: bytes | None) -> Iterator[str]:
    """A server that sends an answer to whoever connects, or nothing, and keeps the connection."""
    held = []

    def serve() -> None:
        while True:
            try:
                held.append(server.accept()[0])
            except OSError:
                return
            if answer is not None:
                held[-1].sendall(answer)

    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104 - Ray connects to the machine's address
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _refusal(monkeypatch: pytest.MonkeyPatch, ray_address: str) -> str:
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    began = time.monotonic()
    with pytest.raises(UsageError) as caught:
        connection.connect()
    assert time.monotonic() - began < 30
    text = str(caught.value)
    assert "\n" not in text and "RAY_ADDRESS=local" in text
    return text


def test_34_the_address_of_the_dashboard_is_refused_with_all_of_rays_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = _refusal(monkeypatch, "http://127.0.0.1:8265")
    assert "It looks like you set RAY_ADDRESS to an HTTP address" in text
    assert "2. Set RAY_ADDRESS to the GCS address instead" in text


def test_34_an_address_where_nothing_answers_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(None) as mute:
        monkeypatch.setattr(address, "_SECONDS", 0.5)
        assert f"no Ray cluster answers at {mute}: no answer" in _refusal(monkeypatch, mute)
    with socket.create_server(("127.0.0.1", 0)) as server:
        unused = f"127.0.0.1:{server.getsockname()[1]}"
    for dead in (unused, f"ray://{unused}"):
        assert f"no Ray cluster answers at {dead}: Connection refused" in _refusal(monkeypatch, dead)
    with _server(_SETTINGS) as silent:
        assert f"no Ray cluster answers at {silent}: no answer" in _refusal(monkeypatch, silent)
    with _server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as web:
        assert f"{web} is not a Ray cluster" in _refusal(monkeypatch, web)


@pytest.mark.parametrize("kind", ["", "ray://"])
def test_34_another_server_of_grpc_is_refused_with_its_answer(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    other = grpc.server(ThreadPoolExecutor(1))
    place = f"{kind}127.0.0.1:{other.add_insecure_port('0.0.0.0:0')}"
    other.start()
    try:
        text = _refusal(monkeypatch, place)
    finally:
        other.stop(None)
    assert f"{place} is not a Ray cluster: UNIMPLEMENTED, Method not found!" in text


def test_34_every_job_checks_the_address_before_its_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    missing, output = str(tmp_path / "missing"), str(tmp_path / "output")
    settings = {"train": {}, "evaluate": {}, "preprocess": {}}
    jobs: dict[str, Callable[[], Outcome]] = {
        "preprocess": lambda: preprocess(PreprocessConfig(data=[missing], output=output)),
        "train": lambda: train(TrainConfig(shards=missing, output=output)),
        "evaluate": lambda: evaluate(EvaluateConfig(data=missing, models=("compact",), output=output)),
        "restore": lambda: restore(RestoreConfig(data=[missing], output=output)),
        "demo": lambda: run_demo(DemoConfig(data=(missing,), output=output), settings),
    }
    for name, job in jobs.items():
        outcome = job()
        assert outcome.code == Exit.USAGE, name
        assert "no Ray cluster answers at 127.0.0.1:1: Connection refused" in outcome.message, name


def test_34_a_temporary_folder_that_is_too_long_is_named() -> None:
    with (
        pytest.raises(
            UsageError, match=r"too long for Ray.*AF_UNIX path length.*Set TMPDIR .*, such as /tmp"
        ),
        address.explain_ray_errors(None),
    ):
        validate_socket_filepath(f"/tmp/{'x' * 200}/plasma_store")  # noqa: S108 - nothing is written


def test_a_ray_that_does_not_start_is_no_usage_error() -> None:
    with (
        pytest.raises(RuntimeError, match=r"Ray does not start on this machine: timed out\. See the logs$"),
        address.explain_ray_errors(None),
    ):
        raise Exception("timed out.\nSee the logs.")  # a plain one, as Ray does


def test_the_running_cluster_answers(ray_address: str) -> None:
    address.check_reachable(ray_address)
