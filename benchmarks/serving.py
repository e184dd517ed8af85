"""Load the service of jobs/serve.py on this machine: `python -m benchmarks.serving`.

Starts it with two replicas of the compact model, sends short songs from many clients, kills replicas, and
checks that every request ends with the right samples or with status 429 or 503, that the memory of all
processes stays as it was, and that no file is left. Prints what it measured as JSON.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile

from apollo.audio.formats import SongsConfig
from apollo.audio.songs import SongJob, restore_songs
from apollo.checkpoints.checkpoint import load as load_generator
from benchmarks.http_load import Load, Song, digest, restore_all, upload_slowly

ROOT = Path(__file__).parents[1]
RESTORER, INGRESS, PROXY = "ServeReplica:apollo:Restorer", "ServeReplica:apollo:Ingress", "ProxyActor"
LIMIT_SECONDS = 180.0
_START_SECONDS = 240.0
_MEMORY_GROWTH = 1.15
_KEEP_HOURS = 0.01
_DISTINCT_SONGS, _RATE = 4, 44_100


class Service:
    """A running service.

    Args:
        process: Of the job.
        port: It listens on.
        folder: Its folder.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
        self.process, self.port, self.folder = process, port, folder

    def processes(self, name: str) -> list[psutil.Process]:
        """Return its processes whose names contain a text."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any(name in word for word in process.cmdline()[:1]):
                    found.append(process)
            except psutil.Error:  # it has ended
                continue
        return found

    def memory(self) -> dict[str, float]:
        """Return resident MB of the largest process of each kind."""
        return {
            name: max((process.memory_info().rss / 1e6 for process in self.processes(name)), default=0.0)
            for name in (RESTORER, INGRESS, PROXY)
        }

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time of each kind of process until now, that of its children included."""
        return {
            name: sum(
                one.cpu_times().user + one.cpu_times().system
                for process in self.processes(name)
                for one in [process, *process.children()]
            )
            for name in (RESTORER, INGRESS, PROXY)
        }

    def stop(self) -> int:
        """Shut it down, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def get_health(port: int) -> int:
    """Return the status of GET /health; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_until_ready(port: int, *, process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Wait until a service restores.

    Raises:
        RuntimeError: it does not, or the process has ended.
    """
    end = time.monotonic() + _START_SECONDS
    while get_health(port) != HTTPStatus.OK:
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            raise RuntimeError("the service does not start")
        time.sleep(0.5)


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def run_service(folder: Path, *options: str, log: Path) -> Iterator[Service]:
    """Run jobs/serve.py with a Ray of its own until the block ends."""
    port = free_port()
    command = [sys.executable, str(ROOT / "jobs/serve.py"), "--folder", str(folder), "--port", str(port)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - this project's job
            [*command, *options], env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    service = Service(process, port, folder)
    try:
        wait_until_ready(port, process=process)
        yield service
    finally:
        if process.poll() is None:
            service.stop()


def make_songs(scratch: Path, checkpoint: str, seconds: float) -> list[Song]:
    """Write short songs, and restore them as `apollo restore` does."""
    generator, found = load_generator(checkpoint), []
    for number in range(_DISTINCT_SONGS):
        source, target = scratch / f"{number}.wav", scratch / f"{number}.flac"
        time_axis = np.arange(round(seconds * _RATE)) / _RATE
        noise = np.random.default_rng(number).normal(scale=0.02, size=(len(time_axis), 2))
        tone = 0.3 * np.sin(2 * np.pi * 220 * (number + 1) * time_axis) * np.exp(-time_axis)
        soundfile.write(source, tone[:, None] + noise, _RATE)
        config = SongsConfig(output=str(scratch), format="flac24")
        (result,) = restore_songs(generator, [SongJob(source, target)], config)
        if result.status != "restored":
            raise RuntimeError(result.reason)
        found.append(Song(source.read_bytes(), digest(target.read_bytes())))
    return found


async def run_load(
    service: Service, songs: list[Song], *, clients: int, requests: int, kill: Sequence[str]
) -> dict[str, Any]:
    """Load a service, kill one process of each named kind meanwhile, and return what was measured."""
    await restore_all(
        Load(), service.port, songs, clients=clients, requests=requests // 4, limit_seconds=LIMIT_SECONDS
    )
    before, cpu, load, began = service.memory(), service.cpu_seconds(), Load(), time.monotonic()
    slow = asyncio.create_task(upload_slowly(load, service.port, songs[0]))
    killing = asyncio.create_task(_kill(service, load, kill, requests))
    await restore_all(
        load, service.port, songs, clients=clients, requests=requests, limit_seconds=LIMIT_SECONDS
    )
    seconds = time.monotonic() - began
    await killing
    await slow
    return {
        "requests": requests,
        "clients": clients,
        "ends": dict(load.ends),
        "refusals": dict(load.refusals),
        "killed": list(kill),
        "broken": load.broken,
        "slow_status": load.slow_status,
        "seconds": round(seconds, 1),
        "songs_per_minute": round(60 * load.ends["right"] / seconds, 1),
        "request_seconds": {
            "median": round(statistics.median(load.seconds), 1),
            "longest": round(max(load.seconds), 1),
        },
        "cpu_seconds_per_song": {  # of use only if nothing is killed
            name: round((after - cpu[name]) / load.done, 3) for name, after in service.cpu_seconds().items()
        },
        "memory_mb": {name: [round(before[name]), round(after)] for name, after in service.memory().items()},
        "left_songs": await asyncio.to_thread(wait_until_empty, service.folder),
    }


async def _kill(service: Service, load: Load, kinds: Sequence[str], requests: int) -> None:
    """Kill processes one after the other while the requests are answered."""
    for number, kind in enumerate(kinds, 1):
        while load.done < requests * number / (len(kinds) + 1):
            await asyncio.sleep(0.1)
        service.processes(kind)[0].kill()


def wait_until_empty(folder: Path) -> list[str]:
    """Wait until the service has removed what interrupted requests left; return what stays."""
    end = time.monotonic() + 3600 * _KEEP_HOURS + 60
    while left := [path.name for name in ("songs", "queue") for path in (folder / name).iterdir()]:
        if time.monotonic() > end:
            break
        time.sleep(1)
    return left


def find_problems(report: dict[str, Any]) -> list[str]:
    """Return what a load test found that must not be."""
    problems = [f"requests ended with {end}" for end in report["ends"] if end not in ("right", "429", "503")]
    if sum(report["ends"].values()) != report["requests"]:
        problems.append(f"{report['ends']} are not {report['requests']} requests")
    if report["ends"].get("right", 0) < report["requests"] / 2:
        problems.append(f"most requests were refused: {report['ends']}")
    if report["broken"] > report["clients"] * report["killed"].count(INGRESS):
        problems.append(f"{report['broken']} requests were broken off")
    if report["slow_status"] != HTTPStatus.REQUEST_TIMEOUT:
        problems.append(f"the slow client was answered with {report['slow_status']}")
    problems += [
        f"{name} grew from {before} to {after} MB"
        for name, (before, after) in report["memory_mb"].items()
        if after > before * _MEMORY_GROWTH
    ]
    return problems + [f"{name} was left" for name in report["left_songs"]]


def main() -> None:
    """Measure, and exit with 1 if something was found that must not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a song")
    parser.add_argument("--checkpoint", default="compact")
    parser.add_argument("--kill", nargs="*", default=[RESTORER, INGRESS], help="processes to kill")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        songs = make_songs(folder, options.checkpoint, options.seconds)
        arguments = service_options(options.replicas, options.checkpoint)
        with run_service(folder / "served", *arguments, log=folder / "log") as service:
            load = run_load(
                service, songs, clients=options.clients, requests=options.requests, kill=options.kill
            )
            report = asyncio.run(load)
            report["exit_code"] = service.stop()
    problems = find_problems(report)
    print(json.dumps(report | {"problems": problems}, indent=1))
    sys.exit(bool(problems))


def service_options(replicas: int, checkpoint: str) -> list[str]:
    """Return the options of a service that is loaded."""
    number = str(replicas)
    options = ["--min-replicas", number, "--max-replicas", number, "--checkpoint", checkpoint]
    return [*options, "--keep-hours", str(_KEEP_HOURS), "--device", "cpu", "--precision", "float32"]


if __name__ == "__main__":
    main()
