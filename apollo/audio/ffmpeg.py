"""Starting ffmpeg so that it can neither outlive its parent nor its time limit.

The bundled binary of imageio-ffmpeg is the default on every node, because shards must not depend on what a
node has installed.
"""

import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache

_PR_SET_PDEATHSIG = 1
_TAG = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\]")
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class FfmpegError(RuntimeError):
    """ffmpeg failed, or took too long."""


class FfmpegMissingError(RuntimeError):
    """ffmpeg is not there or cannot be started: a fault of the node, not of what was to be encoded."""


def find_ffmpeg(path: str | None = None) -> str:
    """Give the ffmpeg to use: the one named, else the bundled one.

    Raises:
        FfmpegMissingError: there is none, or it is no program that can be run.
    """
    if path is None:
        import imageio_ffmpeg

        try:
            path = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as error:
            raise FfmpegMissingError(f"imageio-ffmpeg has no ffmpeg: {error}") from error
    found = shutil.which(path)
    if found is None:
        raise FfmpegMissingError(
            f"ffmpeg {path!r} is not there or cannot be executed on {os.uname().nodename}. "
            "Take the bundled one (preprocess: leave --codec.ffmpeg unset), or name one that every node has"
        )
    return found


@cache
def ffmpeg_version(path: str) -> str:
    """Name an ffmpeg exactly: its first line of `-version` and a digest of the binary."""
    line = run([path, "-version"], timeout_seconds=30).decode(errors="replace").partition("\n")[0]
    with open(path, "rb") as program:
        digest = hashlib.file_digest(program, "sha256").hexdigest()[:16]
    return f"{line.removeprefix('ffmpeg version ').split(' ')[0]} sha256:{digest}"


def die_with_parent(*, one_core: bool = False) -> Callable[[], None] | None:
    """Give what a child runs first, so that a killed parent takes it along, on Linux.

    Args:
        one_core: Keep the child on the core that the kernel started it on. An encoder's eight threads
            wandering over the cores cost more processor time (docs/benchmarks.md), and an actor has one CPU.
    """
    if _libc is None:
        return None
    parent, libc = os.getpid(), _libc

    def ask_for_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if one_core:
            os.sched_setaffinity(0, {libc.sched_getcpu()})

    return ask_for_signal


def run(
    command: Sequence[str], *, timeout_seconds: float, stdin: bytes = b"", pass_fds: Sequence[int] = ()
) -> bytes:
    """Run a command to its end and return its standard output.

    Raises:
        FfmpegError: it failed, or was killed at its time limit.
        FfmpegMissingError: it could not be started.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            preexec_fn=die_with_parent(one_core=True),
            start_new_session=True,
        )
    except OSError as error:
        raise FfmpegMissingError(f"ffmpeg could not be started: {error}") from error
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout_seconds)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)  # a wrapper script's own children too
            raise FfmpegError(f"ffmpeg was killed after {timeout_seconds:g} s") from error
    if process.returncode:
        raise FfmpegError(f"ffmpeg ended with {process.returncode}: {complaint(stderr)}")
    return stdout


def complaint(stderr: bytes) -> str:
    """Give the beginning of an error output on one line, without addresses that differ from run to run."""
    lines = (_TAG.sub("", line).strip() for line in stderr.decode(errors="replace").splitlines())
    return " | ".join([line for line in lines if line][:2])[:200] or "no message"
