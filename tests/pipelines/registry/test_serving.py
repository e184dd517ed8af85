"""`mlflow models serve` on a registered version: real requests, valid and invalid."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import soundfile

from pipelines.registry.registry import RegistryConfig, register
from pipelines.tracking.client import make_client
from tests.support import datasets, evaluation_jobs

pytestmark = pytest.mark.timeout(300)
MAX_BYTES, MAX_SECONDS = 200_000, 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a tiny model on loopback with small limits; yield its address."""
    folder = tmp_path_factory.mktemp("serving")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = make_client(uri)
    experiment = client.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    model = evaluation_jobs.write_identity(folder / "model")
    (folder / "scratch").mkdir()
    register(str(model), RegistryConfig(), uri, run_id=run_id, tags={}, scores={})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "TMPDIR": str(folder / "scratch"),
        "APOLLO_SERVE_MAX_BYTES": str(MAX_BYTES),
        "APOLLO_SERVE_MAX_SECONDS": str(MAX_SECONDS),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/apollo@candidate"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(address, process, folder / "log")
            yield address
        finally:
            _end(process)
            left = [path.name for path in (folder / "scratch").iterdir() if path.name.startswith("apollo")]
            assert not left, "songs that were sent are left behind"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the command and its workers, and check that all have ended."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
        end = time.monotonic() + 20
        while _is_there(process.pid):
            assert time.monotonic() < end, "a process of the server outlives it"
            time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _wait(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 180
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=5):  # noqa: S310 - on loopback
                return
        except OSError:
            time.sleep(0.2)


def ask(address: str, content: Any) -> tuple[int, str]:
    """Send a request and return status and text of the answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request = urllib.request.Request(  # noqa: S310 - on loopback
        f"{address}/invocations", body, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - on loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_a_song_comes_back_restored(server: str, tmp_path: Path) -> None:
    song = datasets.write(tmp_path / "song.wav", datasets.music(1, seconds=2.0))
    song = datasets.encode(song, tmp_path / "song.mp3", "-b:a", "64k")
    status, text = ask(server, {"inputs": [encoded(song), encoded(song)]})
    assert status == 200, text
    answers = json.loads(text)["predictions"]
    assert len(answers) == 2
    assert answers[0] == answers[1]
    (tmp_path / "restored.flac").write_bytes(base64.b64decode(answers[0]))
    restored, rate = soundfile.read(tmp_path / "restored.flac", always_2d=True)
    assert (rate, restored.shape) == (44_100, (88_200, 2))
    assert soundfile.info(tmp_path / "restored.flac").subtype == "PCM_24"
    before, _ = soundfile.read(song, always_2d=True)
    assert abs(restored - before[: len(restored)]).max() < 1e-4  # this model changes nothing


def test_invalid_files_are_refused_with_the_reason(server: str, tmp_path: Path) -> None:
    long = datasets.write(tmp_path / "long.wav", datasets.music(1, seconds=8.0, channels=1))
    long = datasets.encode(long, tmp_path / "long.mp3", "-b:a", "32k")
    fine = datasets.write(tmp_path / "fine.wav", datasets.music(1, seconds=0.5))
    for inputs, text in (
        ([], "no file"),
        ([""], "file 0 is empty"),
        ([base64.b64encode(b"a text, no song" * 10).decode()], "file 0 cannot be restored"),
        ([encoded(fine), ""], "file 1 is empty"),
        ([base64.b64encode(bytes(MAX_BYTES + 1)).decode()], f"the limit is {MAX_BYTES}"),
        ([encoded(long)], "longer than 5 s"),
    ):
        status, answer = ask(server, {"inputs": inputs})
        assert 400 <= status < 500, (inputs, status, answer)
        assert re.search(text, answer), (text, answer)


@pytest.mark.parametrize(
    "text", ["!!! not base64 !!!", "abcde", "bm8gc29uZw==bm8gc29uZw==", "größe", 3, None]
)
def test_invalid_base64_is_refused(server: str, text: Any) -> None:
    """MLflow itself would skip invalid characters, or answer 500."""
    status, answer = ask(server, {"inputs": [text]})
    assert (status, "base64" in answer) == (400, True), answer


def test_an_error_does_not_repeat_the_request(server: str, tmp_path: Path) -> None:
    """MLflow itself would send the whole request back."""
    fine = datasets.write(tmp_path / "fine.wav", datasets.music(1, seconds=0.5))
    _, answer = ask(server, {"inputs": [encoded(fine), ""]})
    assert len(answer) < 300


def test_the_format_can_be_chosen(server: str, tmp_path: Path) -> None:
    song = datasets.write(tmp_path / "song.wav", datasets.music(1, seconds=0.5))
    status, answer = ask(server, {"inputs": [encoded(song)], "params": {"format": "wav16"}})
    assert status == 200, answer
    (tmp_path / "restored").write_bytes(base64.b64decode(json.loads(answer)["predictions"][0]))
    found = soundfile.info(tmp_path / "restored")
    assert (found.format, found.subtype) == ("WAV", "PCM_16")
    status, answer = ask(server, {"inputs": [encoded(song)], "params": {"format": "wma"}})
    assert (status, "format is 'wma'" in answer) == (400, True), answer


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"inputs": 3}', b'{"outputs": []}', b"\xff\xfe"])
def test_malformed_requests_are_refused(server: str, content: bytes) -> None:
    status, answer = ask(server, content)
    assert 400 <= status < 500, answer


def test_the_server_still_serves_after_bad_requests(server: str, tmp_path: Path) -> None:
    song = datasets.write(tmp_path / "song.wav", datasets.music(1, seconds=0.5))
    assert ask(server, {"inputs": [encoded(song)]})[0] == 200
