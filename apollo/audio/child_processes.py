"""Start programs that end with this process, however it ends, and not with the thread that starts them.

The kernel's own signal for this (PR_SET_PDEATHSIG) needs code between fork and exec, which can deadlock
beside threads, and follows the thread that started the child. Here, one shell per process waits on a pipe,
which the system closes when this process ends; then it kills the children that are still registered.
"""

import atexit
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

_WATCH = """
children=
while read -r sign child; do
    left=
    for one in $children; do [ "$one" = "$child" ] || left="$left $one"; done
    [ "$sign" = - ] || left="$left $child"
    children=$left
done
for one in $children; do kill -s KILL -- "-$one"; done
"""


class _Watcher:
    """The shell that ends the children of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shell: subprocess.Popen[bytes] | None = None

    def register(self, child: int) -> None:
        """Have a process group killed when this process ends."""
        self._send(f"+ {child}\n")

    def forget(self, child: int) -> None:
        """Stop watching a process group."""
        self._send(f"- {child}\n")

    def _send(self, line: str) -> None:
        with self._lock:
            if self._shell is None or self._shell.poll() is not None:
                self._shell = self._start()
            assert self._shell.stdin is not None  # noqa: S101 - our invariant
            try:
                self._shell.stdin.write(line.encode())
            except BrokenPipeError:  # somebody killed it just now
                self._shell = None

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603 - a script of our own
            ["/bin/sh", "-c", _WATCH],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # an interrupt from the terminal is not for it
        )

    def close(self) -> None:
        """End the shell, and with it all children that are left."""
        if self._shell is not None and self._shell.stdin is not None:
            self._shell.stdin.close()
            self._shell.wait()


_watcher = _Watcher()


def _renew() -> None:
    """Create a new watcher after a fork: the inherited one watches the parent's children."""
    global _watcher
    _watcher = _Watcher()


os.register_at_fork(after_in_child=_renew)
atexit.register(lambda: _watcher.close())


def start(command: Sequence[str], *, one_core: bool = False, **options: Any) -> "subprocess.Popen[bytes]":
    """Start a program in a process group of its own; `finish` it after it has ended.

    Args:
        command: Program and arguments.
        one_core: Pin the child to the core that this thread runs on. An encoder's eight threads use more CPU
            time when they migrate between cores (docs/benchmarks.md), and an actor has one CPU.
        options: Of `subprocess.Popen`.

    Raises:
        OSError: it cannot be started.
    """
    with _pinned() if one_core else nullcontext():
        process = subprocess.Popen(command, process_group=0, **options)  # noqa: S603 - no shell
    _watcher.register(process.pid)
    return process


def finish(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a program that ended or was killed, and stop watching it."""
    process.wait()
    _watcher.forget(process.pid)


@contextmanager
def _pinned() -> Iterator[None]:
    """Pin this thread to one core, which a child started meanwhile inherits."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_current_core(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _current_core(allowed: set[int]) -> int:
    """Return the core that this thread runs on, by /proc; any that it may use where there is none."""
    try:
        with open("/proc/thread-self/stat") as stream:
            core = int(stream.read().rpartition(")")[2].split()[36])
    except OSError:
        return min(allowed)
    return core if core in allowed else min(allowed)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in processes that are started meanwhile: this one ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
