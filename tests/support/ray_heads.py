"""Clusters as the README starts them: a head of its own, its dashboard on loopback, guarded by a token."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
TEMPORARY = "/tmp/apollo-ray-test"  # noqa: S108 - short, for sockets


def _free_ports(number: int) -> list[int]:
    """Return ports of which nobody listens, so that several heads are possible."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def head(home: Path, *, cpus: int) -> Iterator[dict[str, str]]:
    """Start a head with so many CPUs; gives the environment of whoever submits jobs to it.

    Args:
        home: An empty folder; the head is started there, beside nothing but the jobs.
        cpus: Logical ones.
    """
    dashboard, agent, gcs = _free_ports(3)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    environment["RAY_worker_niceness"] = "0"  # as in tests/conftest.py
    environment["RAY_JOB_STOP_WAIT_TIME_S"] = "120"  # as docs/training.md says: a step, and a checkpoint
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    command = [RAY, "start", "--head", "--block", "--num-cpus", str(cpus), "--port", str(gcs)]
    command += ["--dashboard-agent-listen-port", str(agent)]  # the session's own Ray has the usual one
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--temp-dir", TEMPORARY]
    shutil.copytree(ROOT / "jobs", home / "jobs")  # where the literal form runs, without pipelines
    with (home / "ray.log").open("wb") as log:
        starting = environment | {"RAY_ADDRESS": ""}
        running = subprocess.Popen(command, env=starting, stdout=log, stderr=log, cwd=home)
        try:
            end = time.monotonic() + 120
            while not _takes_jobs(environment):
                assert time.monotonic() < end, (home / "ray.log").read_text()
                time.sleep(0.2)
            yield environment
        finally:
            running.terminate()
            running.wait(90)


def authorization(environment: dict[str, str]) -> dict[str, str]:
    """Return the header with which a head accepts requests."""
    token = Path(environment["HOME"], ".ray/auth_token").read_text()
    return {"Authorization": f"Bearer {token}"}


def _takes_jobs(environment: dict[str, str]) -> bool:
    """Ask as `ray job list` does, which takes seconds to start."""
    address = f"{environment['RAY_ADDRESS']}/api/jobs/"
    request = urllib.request.Request(address, headers=authorization(environment))  # noqa: S310 - on loopback
    with suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return bool(answer.status == 200)
    return False


def submit(
    environment: dict[str, str], *options: str, script: str, job: list[str], seconds: float = 240
) -> "subprocess.CompletedProcess[str]":
    """Submit a script with its options, and wait for it; right after its start a cluster has no agent yet."""
    command = [RAY, "job", "submit", *options, "--", "python", script, *job]
    for _ in range(20):
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(3)
    return done
