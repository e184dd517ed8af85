"""What a job's own Ray listens on: loopback and nothing else, behind a token."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_PROBE = """
import json, os, sys
from pathlib import Path
from pipelines.cluster.connection import connect

cluster = connect()
import ray

def listening():
    "Give (process, address) of all that this process and its children listen with."
    found, waiting = [], [os.getpid()]
    sockets = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[f"socket:[{fields[9]}]"] = fields[1].partition(":")[0]
    while waiting:
        here = Path("/proc", str(waiting.pop()))
        waiting += [int(child) for task in here.glob("task/*/children") for child in task.read_text().split()]
        for descriptor in (here / "fd").iterdir():
            try:
                link = os.readlink(descriptor)
            except OSError:
                continue
            if link in sockets:
                found.append([(here / "comm").read_text().strip(), sockets[link]])
    return found

mode = ray.get(ray.remote(lambda: os.environ.get("RAY_AUTH_MODE")).remote())
print(json.dumps({"joined": cluster.joined, "mode": mode, "listening": listening()}))
"""
_LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are read from /proc")
@pytest.mark.ray_cluster
def test_a_local_ray_listens_on_loopback_alone_and_asks_for_a_token(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir(mode=0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "HOME": str(tmp_path),
        "RAY_ADDRESS": "local",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    ended = subprocess.run(
        [sys.executable, "-c", _PROBE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert not found["joined"] and found["mode"] == "token"
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_size > 30
    assert token.parent.stat().st_mode & 0o077 == 0
    assert token.read_text().strip() not in ended.stdout + ended.stderr
    names = {name for name, _ in found["listening"]}
    assert {"gcs_server", "raylet"} <= names, names  # what there is was seen
    assert [one for one in found["listening"] if one[1] not in _LOOPBACK] == []


ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "*.yaml", "kubernetes/**/*", "Dockerfile")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
]


def test_every_documented_start_of_a_cluster_asks_for_the_token() -> None:
    found = 0
    for path in DOCUMENTS:
        text = path.read_text()
        commands = text.split("```")[1::2] if path.suffix == ".md" else text.splitlines()
        for command in commands:
            start = re.search(r"^(?!\s*#).*\bray start (?=-)", command, re.MULTILINE)
            if start:
                found += 1
                assert "RAY_AUTH_MODE=token" in command[: start.end()], f"{path}: {start[0]}"
            assert "RAY_AUTH_MODE=disabled" not in command, path
    assert found >= 3


def test_no_document_opens_a_dashboard() -> None:
    assert not [
        path for path in DOCUMENTS if re.search(r"dashboard-host[= ]+(?!127\.0\.0\.1)", path.read_text())
    ]
