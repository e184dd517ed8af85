"""Run ffmpeg so that it outlives neither its parent process nor a timeout.

The binary of imageio-ffmpeg is the default on every node, so that shards do not depend on the ffmpeg
that a node has installed.
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

from apollo.audio.rejects import RejectError, RejectKind

_PR_SET_PDEATHSIG = 1
_TAG = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\]")
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class FfmpegError(RejectError):
    """ffmpeg failed or timed out."""

    kind = RejectKind.FFMPEG


class FfmpegMissingError(RuntimeError):
    """ffmpeg is missing or cannot be started: a fault of the node, not of the audio."""


def find_ffmpeg(path: str | None = None) -> str:
    """Return the path of ffmpeg: `path` if given, else the binary of imageio-ffmpeg.

    Raises:
        FfmpegMissingError: it does not exist or is not executable.
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
            f"ffmpeg {path!r} does not exist or is not executable on {os.uname().nodename}. "
            "Use the bundled one (preprocess: leave --codec.ffmpeg unset) or one that every node has"
        )
    return found


@cache
def ffmpeg_version(path: str) -> str:
    """Return the version that ffmpeg reports and the SHA-256 of its binary, shortened."""
    line = run([path, "-version"], timeout_seconds=30).decode(errors="replace").partition("\n")[0]
    with open(path, "rb") as program:
        digest = hashlib.file_digest(program, "sha256").hexdigest()[:16]
    return f"{line.removeprefix('ffmpeg version ').split(' ')[0]} sha256:{digest}"


def die_with_parent(*, one_core: bool = False) -> Callable[[], None] | None:
    """Return a `preexec_fn` that kills the child when its parent dies, on Linux.

    Args:
        one_core: Pin the child to the core that it started on. An encoder's eight threads use more CPU
            time when they migrate between cores (docs/benchmarks.md), and an actor has one CPU.
    """
    if _libc is None:
        return None
    parent, libc = os.getpid(), _libc

    def set_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if one_core:
            os.sched_setaffinity(0, {libc.sched_getcpu()})

    return set_death_signal


def run(
    command: Sequence[str], *, timeout_seconds: float, stdin: bytes = b"", pass_fds: Sequence[int] = ()
) -> bytes:
    """Run a command and return its standard output.

    Raises:
        FfmpegError: it failed or timed out.
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
            raise FfmpegError(f"ffmpeg timed out after {timeout_seconds:g} s and was killed") from error
    if process.returncode:
        raise FfmpegError(f"ffmpeg exited with code {process.returncode}: {summarize_stderr(stderr)}")
    return stdout


def summarize_stderr(stderr: bytes) -> str:
    """Return the first two lines of an error output as one, without addresses that differ between runs."""
    lines = (_TAG.sub("", line).strip() for line in stderr.decode(errors="replace").splitlines())
    return " | ".join([line for line in lines if line][:2])[:200] or "no message"
