"""Signals while a job's imports run, which take seconds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_JOBS = {  # arguments of each, and where its result is
    "preprocess": (("--data", "songs", "--output", "out"), "out/result.json"),
    "train": (("--shards", "shards", "--output", "out"), "out/result.json"),
    "evaluate": (("--data", "shards", "--models", "compact", "--output", "out"), "out/result.json"),
    "restore": (("--data", "songs", "--output", "out"), "out/result.json"),
    "demo": (("--output", "out"), "out/result.json"),
    "export": (("--data", "shards", "--file", "examples.pt"), "examples.pt.result.json"),
    "scale": (("--songs", "1", "--recipes", "1"), None),
}
_AT_FIRST_IMPORT = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell ignores it

class Finder:
    def find_spec(name, path=None, target=None):
        if name.startswith("jsonargparse."):
            sys.meta_path.remove(Finder)
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Finder)
"""


def _interrupt(folder: Path, name: str, number: int) -> "subprocess.CompletedProcess[str]":
    """Run a job that receives a signal when its first import that takes time has begun."""
    (folder / "sitecustomize.py").write_text(_AT_FIRST_IMPORT.format(number=int(number)))
    return subprocess.run(
        [sys.executable, str(ROOT / f"jobs/{name}.py"), *_JOBS[name][0]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "name, number", [*((name, signal.SIGTERM) for name in _JOBS), ("restore", signal.SIGINT)]
)
def test_24_a_signal_during_the_imports_of_a_job_is_an_interruption(
    tmp_path: Path, name: str, number: int
) -> None:
    ended = _interrupt(tmp_path, name, number)
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr and "interrupted" in ended.stderr
    if result := _JOBS[name][1]:
        content = json.loads((tmp_path / result).read_text())
        assert (content["status"], content["exit_code"]) == ("interrupted", 130)
