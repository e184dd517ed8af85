"""Programs end with the process that started them, not with its thread; no code between fork and exec."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from apollo.audio import child_processes

ROOT = Path(__file__).parents[3]
STARTER = """
import sys, time
from apollo.audio import child_processes
for _ in range(3):
    print(child_processes.start(["sleep", "600"]).pid, flush=True)
done = child_processes.start(["true"])
child_processes.finish(done)
time.sleep(600)
"""


def _ended(pid: int, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_children_end_with_their_process(number: signal.Signals) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, cwd=ROOT)
    assert starter.stdout is not None
    children = [int(starter.stdout.readline()) for _ in range(3)]
    assert all(psutil.pid_exists(child) for child in children)
    starter.send_signal(number)
    starter.wait()
    starter.stdout.close()
    assert all(_ended(child) for child in children)


def test_a_child_outlives_the_thread_that_started_it() -> None:
    started: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: started.append(child_processes.start(["sleep", "600"])))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert started[0].poll() is None
    started[0].kill()
    child_processes.finish(started[0])


def test_a_forked_process_has_its_own_children() -> None:
    """The fork's end leaves those of its parent alone, and ends its own."""
    code = """
import os, sys, time
from apollo.audio import child_processes
mine = child_processes.start(["sleep", "600"])
if os.fork() == 0:
    print(child_processes.start(["sleep", "600"]).pid, flush=True)
    os.kill(os.getpid(), 9)
os.wait()
print(mine.pid, flush=True)
sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    of_fork, own = int(process.stdout.readline()), int(process.stdout.readline())
    assert _ended(of_fork)
    assert not _ended(own, 0.3)
    process.communicate(b"\n")
    assert _ended(own)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_a_pinned_child_has_one_core_and_this_thread_keeps_its_own() -> None:
    before = os.sched_getaffinity(0)
    child = child_processes.start(["sleep", "600"], one_core=True)
    try:
        assert len(os.sched_getaffinity(child.pid)) == 1
        assert os.sched_getaffinity(0) == before
    finally:
        child.kill()
        child_processes.finish(child)


def test_no_python_code_runs_between_fork_and_exec() -> None:
    sources = [*ROOT.glob("apollo/**/*.py"), *ROOT.glob("pipelines/**/*.py"), *ROOT.glob("jobs/**/*.py")]
    assert len(sources) > 50
    for path in sources:
        text = path.read_text()
        assert "preexec_fn" not in text, path
        assert "os.umask" not in text, path
