"""Spectrograms and audio clips of one example: clean, degraded and restored.

Shape legend: samples are [channels, samples], float32.
"""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipelines.reporting.spectrograms import draw_spectrograms
from pipelines.storage.atomic import open_atomic

ROLES = ("clean", "degraded", "restored")
_MIN_GAIN = 0.25


def write_picture(
    path: str | Path,
    clean: NDArray[np.float32],
    degraded: NDArray[np.float32],
    restored: NDArray[np.float32],
    sample_rate: int,
) -> None:
    """Write the three spectrograms side by side on one scale, as a PNG.

    The scale is that of the clean one, so pictures of one example compare over a whole training.

    Args:
        path: Path of the PNG.
        clean: Input of the codec.
        degraded: Its output.
        restored: Output of the model.
        sample_rate: Hz.

    Raises:
        OSError: it cannot be written.
    """
    versions = list(zip(ROLES, (clean, degraded, restored), strict=True))
    with open_atomic(path) as stream:
        stream.write(draw_spectrograms(versions, sample_rate))


def write_clips(
    folder: str | Path,
    name: str,
    clean: NDArray[np.float32],
    degraded: NDArray[np.float32],
    restored: NDArray[np.float32],
    sample_rate: int,
) -> list[Path]:
    """Write three FLAC files of 16 bit, `NAME-clean.flac` and so on, at one gain for all.

    The gain is 1 unless one exceeds full scale: then all are attenuated equally, by 12 dB at most, so that
    levels still compare.

    Args:
        folder: Folder of the files; created if missing.
        name: Name of the example.
        clean: Input of the codec.
        degraded: Its output.
        restored: Output of the model.
        sample_rate: Hz.

    Returns:
        Their paths, in the order of the arguments.

    Raises:
        OSError: they cannot be written.
    """
    clips = [
        np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0) for samples in (clean, degraded, restored)
    ]
    peak = max(float(np.abs(clip).max(initial=0.0)) for clip in clips)
    gain = max(min(1.0, 32_767 / 32_768 / peak), _MIN_GAIN) if peak else 1.0
    paths = []
    for role, clip in zip(ROLES, clips):
        paths.append(Path(folder, f"{name}-{role}.flac"))
        with open_atomic(paths[-1]) as stream:
            soundfile.write(stream, gain * clip.T, sample_rate, format="FLAC", subtype="PCM_16")
    return paths
