"""Run ffmpeg so that it outlives neither its parent process nor a timeout.

The binary of imageio-ffmpeg is the default on every node, so that shards do not depend on the ffmpeg
that a node has installed.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from apollo.audio import child_processes
from apollo.audio.rejects import RejectError, RejectKind

# no playlists, which refer to other files, and no images
_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,iff,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,rm,"
    "shn,tak,tta,voc,w64,wav,wv"
)
_TAG = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\]")
_INPUT = re.compile(r"^\[info\] Input #0, ", re.MULTILINE)
_OUTPUT = re.compile(r"^\[info\] Output #0, wav, to 'pipe:1':", re.MULTILINE)
_LAYOUT = re.compile(r"^\[info\]   Stream #0:0: Audio: pcm_f32le [^\n]*?\d+ Hz, ([^,\n]+), flt", re.MULTILINE)
_ERROR = re.compile(
    r"^(?:\[([^\]\n]*?) @ 0x[0-9a-f]+\] )?(?:\[[^\]\n]* @ 0x[0-9a-f]+\] )*\[(?:error|fatal|panic)\] (.*)$",
    re.MULTILINE,
)
_CHANGE = re.compile(
    r"^\[fc#\d+ @ 0x[0-9a-f]+\] \[info\] Reconfiguring filter graph because audio parameters changed to "
    r"(\d+ Hz, [^,\n]+)",
    re.MULTILINE,
)


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


def input_arguments(path: str, byte_range: tuple[int, int] | None = None) -> list[str]:
    """Build the arguments that open one file, or a range of its bytes, and no other file, as audio."""
    location = f"file:{os.path.abspath(path)}"  # not an option or a URL, whatever its name
    protocols = "file"
    if byte_range is not None:
        location = f"subfile,,start,{byte_range[0]},end,{byte_range[1]},,:{location}"
        protocols = "file,subfile"
    return ["-format_whitelist", _DEMUXERS, "-protocol_whitelist", protocols, "-i", location]


def execute(
    command: Sequence[str],
    *,
    timeout_seconds: float,
    stdin: bytes = b"",
    pass_fds: Sequence[int] = (),
    one_core: bool = False,
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command and return its exit code, standard output and error output.

    Raises:
        FfmpegError: it timed out.
        FfmpegMissingError: it could not be started.
    """
    pipe = subprocess.PIPE
    try:
        process = child_processes.start(
            command, one_core=one_core, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=pass_fds
        )
    except OSError as error:
        raise FfmpegMissingError(f"ffmpeg could not be started: {error}") from error
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout_seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # a wrapper script's own children too
            if isinstance(error, subprocess.TimeoutExpired):
                raise FfmpegError(f"ffmpeg timed out after {timeout_seconds:g} s and was killed") from error
            raise
        finally:
            child_processes.finish(process)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def run(
    command: Sequence[str], *, timeout_seconds: float, stdin: bytes = b"", pass_fds: Sequence[int] = ()
) -> bytes:
    """Run a command on one core and return its standard output.

    Raises:
        FfmpegError: it failed or timed out.
        FfmpegMissingError: it could not be started.
    """
    result = execute(command, timeout_seconds=timeout_seconds, stdin=stdin, pass_fds=pass_fds, one_core=True)
    if result.returncode:
        raise FfmpegError(f"ffmpeg exited with code {result.returncode}: {summarize_stderr(result.stderr)}")
    return result.stdout


def summarize_stderr(stderr: bytes) -> str:
    """Return the first two lines of an error output as one, without addresses that differ between runs."""
    lines = (_TAG.sub("", line).strip() for line in stderr.decode(errors="replace").splitlines())
    return _join([line for line in lines if line]) or "no message"


def _join(lines: Sequence[str]) -> str:
    return " | ".join(lines[:2])[:200]


@dataclass
class Messages:
    """What ffmpeg reported while it decoded to a pipe at `-loglevel level+info`.

    Between the lines `Input #0` and `Output #0` stand the file's tags; they are left out.

    Args:
        errors: Messages of level error, with the component that reports: `mjpeg: invalid marker`.
        changes: Changes of the audio midway: the layout of its first frame, and sample rate and layout after.
    """

    errors: list[str] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def parse(cls, stderr: bytes) -> "Messages":
        """Read an error output."""
        text = stderr.decode(errors="replace")
        before, has_input, rest = _partition(_INPUT.search(text), text)
        outputs = list(_OUTPUT.finditer(text))
        after = _partition(outputs[-1], text)[2] if outputs else rest if has_input else ""
        errors = [
            f"{name}: {message}" if name else message for name, message in _ERROR.findall(before + after)
        ]
        first = _LAYOUT.search(after)  # filters are set up by the first frame, not by what was probed
        return cls(errors, [(first[1] if first else "", change) for change in _CHANGE.findall(after)])

    def add(self, other: "Messages") -> None:
        """Append those of another process."""
        self.errors += other.errors
        self.changes += other.changes

    def summarize(self, without: Sequence[str] = ()) -> str | None:
        """Return the first two errors as one line, None if there are none.

        Args:
            without: ffmpeg components whose errors do not affect audio, such as picture codecs.
        """
        prefixes = tuple(f"{name}: " for name in without)
        return _join([error for error in self.errors if not error.startswith(prefixes)]) or None


def _partition(found: re.Match[str] | None, text: str) -> tuple[str, bool, str]:
    if found is None:
        return text, False, ""
    return text[: found.start()], True, text[found.end() :]
