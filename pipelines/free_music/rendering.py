"""Render LMMS projects to lossless audio, with the `lmms` that the system has.

LMMS finds samples and presets of its own demonstration projects in its package lmms-common, which installing
`lmms` brings along.
"""

import logging
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile

from pipelines.free_music.packages import Package, PackageError

_log = logging.getLogger(__name__)
_SUFFIXES = (".mmp", ".mmpz")
_MOST_SECONDS = 1_800  # of rendering; the slowest demonstration project takes some minutes of an old core
_HIGHEST_PEAK = 0.99


def render_projects(package: Package, folder: Path) -> None:
    """Replace a package's unpacked LMMS projects by FLAC files of the same names.

    A project that cannot be rendered stays, and counts as a broken song.

    Raises:
        PackageError: lmms is not installed.
    """
    program = shutil.which("lmms")
    if program is None:
        raise PackageError("there is no lmms here: apt-get install --no-install-recommends lmms")
    for project in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
        if package.find(project.relative_to(folder).as_posix()):
            _log.info("rendering %s", project.name)
            _render(project, program)


def _render(project: Path, program: str) -> None:
    """Render a project to 24-bit FLAC at 44.1 kHz beside it, then delete it."""
    rendered = project.with_suffix(".wav")
    command = [*_without_real_time(), program, "--allowroot", "render", str(project), "-o", str(rendered)]
    # float: loud projects exceed full scale, and 16 bits would clip them
    command += ["-f", "wav", "-a", "-s", "44100", "-i", "sincfastest", "-x", "1"]
    try:
        ended = subprocess.run(  # noqa: S603
            command,
            env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
        if ended.returncode or not rendered.exists():
            _log.warning("%s cannot be rendered: lmms failed", project.name)
            return
        _compress(rendered, project.with_suffix(".flac"))
        project.unlink()
    except subprocess.TimeoutExpired:
        _log.warning("%s cannot be rendered: lmms takes longer than %d s", project.name, _MOST_SECONDS)
    finally:
        rendered.unlink(missing_ok=True)


def _without_real_time() -> list[str]:
    """Return what starts a program that may not ask for real-time priority.

    LMMS does, even to render; as root it gets it, and the machine stops doing anything else.
    """
    program = shutil.which("setpriv")
    if program is None or os.geteuid() != 0:
        return []
    return [program, "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]


def _compress(rendered: Path, target: Path) -> None:
    """Write a float WAV as 24-bit FLAC, scaled down where it exceeds full scale."""
    samples, rate = soundfile.read(rendered, dtype="float32", always_2d=True)
    peak = float(np.abs(samples).max(initial=0.0))
    soundfile.write(target, samples * min(1.0, _HIGHEST_PEAK / max(peak, _HIGHEST_PEAK)), rate, "PCM_24")
