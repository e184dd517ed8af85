"""The service on Ray Serve: under load, with killed replicas, hostile uploads, and its end."""

import asyncio
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from benchmarks import serving
from benchmarks.http_load import Song, digest
from pipelines.runtime.outcome import Exit
from tests.support import ray_heads, restoration_jobs

pytestmark = pytest.mark.timeout(600)  # of the service's start too
MAX_MINUTES, MAX_MB = 1, 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restoration_jobs.save_generator(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> list[Song]:
    return serving.make_songs(tmp_path_factory.mktemp("songs"), str(weights), 1.0)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[serving.Service]:
    """A service with small limits."""
    folder = tmp_path_factory.mktemp("service")
    limits = ["--max-minutes", str(MAX_MINUTES), "--max-mb", str(MAX_MB)]
    options = [*serving.service_options(2, str(weights)), *limits]
    with serving.run_service(folder / "served", *options, log=folder / "log") as running:
        yield running


def ask(port: int, method: str, path: str, body: bytes | Iterator[bytes] | None = None) -> tuple[int, bytes]:
    """Send a request and return status and body of the answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_killed_replica_loses_no_request(service: serving.Service, songs: list[Song]) -> None:
    load = serving.run_load(service, songs, clients=10, requests=40, kill=[serving.RESTORER])
    report = asyncio.run(load)
    assert not serving.find_problems(report), report


def silence(path: Path, *, declared: bool) -> bytes:
    """Return an hour of silence as FLAC, which may not declare how long it is."""
    with soundfile.SoundFile(path, "w", 44_100, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(60 * 44_100, np.int16))
    data = bytearray(path.read_bytes())
    if not declared:
        data[21] &= 0xF0  # STREAMINFO: 36 bits of the number of samples
        data[22:26] = bytes(4)
    return bytes(data)


def hostile_uploads(folder: Path) -> dict[str, tuple[str, bytes, set[int]]]:
    """Return name, content and expected status of uploads that are refused."""
    secret = folder / "secret.txt"
    secret.write_text("a secret of this machine")
    return {
        "an hour of silence": ("silence.flac", silence(folder / "a.flac", declared=True), {422}),
        "an hour that is not declared": ("silence.flac", silence(folder / "b.flac", declared=False), {422}),
        "a playlist": ("list.m3u8", f"#EXTM3U\n#EXTINF:9,\nfile://{secret}\n".encode(), {415}),
        "a list of files": ("list.mp3", f"ffconcat version 1.0\nfile '{secret}'\n".encode(), {415}),
        "a text": ("song.mp3", b"This is no music.", {415}),
        "nothing": ("song.mp3", b"", {415, 422}),
    }


def test_hostile_uploads_are_refused_and_leave_nothing(service: serving.Service, tmp_path: Path) -> None:
    serving.wait_until_ready(service.port)
    for what, (name, content, statuses) in hostile_uploads(tmp_path).items():
        status, answer = ask(service.port, "POST", f"/api/restore?name={name}", content)
        assert status in statuses, f"{what}: {status} {answer!r}"
        assert b"secret of" not in answer
    assert not serving.wait_until_empty(service.folder)


def test_too_large_uploads_are_refused(service: serving.Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(
            b"POST /api/restore HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000000000\r\n\r\n"
        )
        assert b" 413 " in connection.recv(1000).partition(b"\r\n")[0]
    blocks = iter([bytes(1_000_000)] * (MAX_MB + 1))
    status, answer = ask(service.port, "POST", "/api/restore", blocks)
    assert (status, json.loads(answer)) == (413, {"error": f"the file is larger than {MAX_MB} MB"})
    assert not serving.wait_until_empty(service.folder)


def test_names_are_no_paths(service: serving.Service, songs: list[Song]) -> None:
    before = {path.name for path in service.folder.iterdir()}
    for name in ("../../../etc/passwd.wav", "%3Cscript%3Ealert(1)%3C/script%3E.wav", "a%0d%0aX-Bad:1.wav"):
        status, _ = ask(service.port, "POST", f"/api/restore?format=flac24&name={name}", songs[0].data)
        assert status == 200, name
    assert {path.name for path in service.folder.iterdir()} == before


def test_other_hosts_and_other_sites_are_refused(service: serving.Service) -> None:
    for header in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        request = urllib.request.Request(f"http://127.0.0.1:{service.port}/api/songs", b"x", header)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)  # noqa: S310
        assert refused.value.code == 403


def test_a_signal_lets_accepted_songs_be_done(service: serving.Service, songs: list[Song]) -> None:
    """The last test of this service."""
    accepted = [
        json.loads(ask(service.port, "POST", "/api/songs?name=song.wav", song.data)[1])["id"]
        for song in songs
    ]
    service.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + 20
    while serving.get_health(service.port) == 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert serving.get_health(service.port) == 503
    status, answer = ask(service.port, "POST", "/api/songs", songs[0].data)
    assert (status, json.loads(answer)) == (503, {"error": "the server is shutting down"})
    assert service.process.wait(120) == Exit.DONE
    result = json.loads((service.folder / "result.json").read_text())
    assert (result["status"], result["left"]) == ("done", 0)
    for song in accepted:
        state = json.loads((service.folder / "songs" / song / "jobs" / "parts.json").read_text())
        assert state["status"] == "ready"


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_songs_that_waited_are_done_after_the_next_start(
    tmp_path: Path, weights: Path, songs: list[Song]
) -> None:
    """The job, its Ray and all replicas are killed while songs wait."""
    options = serving.service_options(1, str(weights))
    folder, log = tmp_path / "served", tmp_path / "log"
    with serving.run_service(folder, *options, log=log) as running:
        restorer = running.processes(serving.RESTORER)[0]
        restorer.suspend()
        song = json.loads(ask(running.port, "POST", "/api/songs?name=song.wav", songs[0].data)[1])["id"]
        for process in [*psutil.Process(running.process.pid).children(recursive=True), running.process]:
            process.kill()
        running.process.wait()
    state = folder / "songs" / song / "jobs" / "parts.json"
    assert json.loads(state.read_text())["status"] != "ready"
    with serving.run_service(folder, *options, log=log):
        end = time.monotonic() + 60
        while json.loads(state.read_text())["status"] != "ready" and time.monotonic() < end:
            time.sleep(0.2)
        assert json.loads(state.read_text())["status"] == "ready"
        assert not list((folder / "queue").iterdir())


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_replicas_follow_the_queue_and_requests_have_a_limit(
    tmp_path: Path, weights: Path, songs: list[Song]
) -> None:
    """The only replica hangs: a request gets an error in time, and songs that wait bring a second replica."""
    options = [
        *serving.service_options(1, str(weights)),
        "--max-replicas",
        "2",
        "--max-request-minutes",
        "0.1",
    ]
    with serving.run_service(tmp_path / "served", *options, log=tmp_path / "log") as running:
        (first,) = running.processes(serving.RESTORER)
        first.suspend()
        assert ask(running.port, "POST", "/api/restore", songs[0].data)[0] == 408
        assert not serving.wait_until_empty(running.folder)
        added = [
            json.loads(ask(running.port, "POST", "/api/songs", song.data)[1])["id"] for song in songs * 2
        ]
        end = time.monotonic() + 120
        while len(running.processes(serving.RESTORER)) < 2 and time.monotonic() < end:
            time.sleep(0.2)
        assert len(running.processes(serving.RESTORER)) == 2
        first.kill()
        while list((running.folder / "queue").iterdir()) and time.monotonic() < end + 120:
            time.sleep(0.2)
        for song in added:
            state = json.loads((running.folder / "songs" / song / "jobs" / "parts.json").read_text())
            assert state["status"] == "ready"


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_fifty_clients_lose_nothing_while_both_kinds_of_replicas_are_killed(
    tmp_path: Path, songs: list[Song], weights: Path
) -> None:
    options = serving.service_options(2, str(weights))
    with serving.run_service(tmp_path / "served", *options, log=tmp_path / "log") as running:
        load = serving.run_load(
            running, songs, clients=50, requests=500, kill=[serving.RESTORER, serving.INGRESS]
        )
        report = asyncio.run(load)
        assert not serving.find_problems(report), report


@pytest.mark.faults
@pytest.mark.ray_cluster
@pytest.mark.timeout(900)
def test_it_is_a_job_of_a_cluster_that_ray_job_stop_ends(
    tmp_path: Path, weights: Path, songs: list[Song]
) -> None:
    home, folder = tmp_path / "home", tmp_path / "served"
    home.mkdir()
    port = serving.free_port()
    job = ["--folder", str(folder), "--port", str(port), *serving.service_options(1, str(weights))]
    job += ["--ingress-replicas", "2"]
    options = ("--working-dir", ".", "--submission-id", "service", "--no-wait")
    with ray_heads.head(home, cpus=4) as environment:
        submitted = ray_heads.submit(environment, *options, script="jobs/serve.py", job=job)
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        serving.wait_until_ready(port)
        status, restored = ask(port, "POST", "/api/restore?format=flac24", songs[0].data)
        assert status == 200, restored
        assert digest(restored) == songs[0].digest
        second = ["--folder", str(tmp_path / "second"), *job[2:]]
        again = ray_heads.submit(environment, *options[:2], script="jobs/serve.py", job=second)
        assert again.returncode == Exit.FAILED
        assert "Ray Serve runs on this cluster already (applications: apollo)" in again.stdout + again.stderr
        stop = [ray_heads.RAY, "job", "stop", "service"]
        subprocess.run(stop, env=environment, check=True, timeout=200, capture_output=True)
    assert json.loads((folder / "result.json").read_text())["exit_code"] == Exit.DONE
