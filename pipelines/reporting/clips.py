"""What validation shows of an example: a picture and three clips of clean, degraded and restored.

Shape legend: samples are [channels, samples], float32.
"""

from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from apollo.audio.spectrogram import Spectrogram
from pipelines.storage.atomic import open_atomic

ROLES = ("clean", "degraded", "restored")
_RANGE_DB = 90.0
_QUIETEST_TOP_DB = -30.0  # silence lies 90 dB below, so it is drawn black
_MOST_QUIETER = 0.25
_CLIP_FORMAT, _SUBTYPE = "FLAC", "PCM_16"


def write_picture(
    path: str | Path,
    clean: NDArray[np.float32],
    degraded: NDArray[np.float32],
    restored: NDArray[np.float32],
    sample_rate: int,
) -> None:
    """Draw the three spectrograms side by side on one scale, as a PNG that gets its name when it is whole.

    The scale is the clean one's, so pictures of one example compare over a whole training.

    Args:
        path: Of the PNG.
        clean: What the codec was given.
        degraded: What it left.
        restored: What was made of that.
        sample_rate: Hz.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    levels = [_levels(samples, sample_rate) for samples in (clean, degraded, restored)]
    top = max(_QUIETEST_TOP_DB, float(levels[0].max()))
    for axes, level, name, samples in zip(panels, levels, ROLES, (clean, degraded, restored)):
        image = axes.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=(0, max(samples.shape[1], 1) / sample_rate, 0, sample_rate / 2000),
            cmap="magma",
            vmin=top - _RANGE_DB,
            vmax=top,
        )
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("seconds")
    panels[0].set_ylabel("kHz")
    panels[0].yaxis.set_major_locator(MultipleLocator(5))
    figure.colorbar(image, ax=panels, label="dB", pad=0.01, fraction=0.05, aspect=25)
    with open_atomic(path) as stream:
        figure.savefig(stream, format="png", dpi=100)


def _levels(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    spectrogram = Spectrogram(samples.shape[1], sample_rate)
    finite = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    spectrogram.add(torch.from_numpy(np.ascontiguousarray(finite, np.float32)))
    return spectrogram.level_db().numpy()


def write_clips(
    folder: str | Path,
    name: str,
    clean: NDArray[np.float32],
    degraded: NDArray[np.float32],
    restored: NDArray[np.float32],
    sample_rate: int,
) -> list[Path]:
    """Write three FLAC files of 16 bit, `NAME-clean.flac` and so on, at one gain for all.

    The gain is 1 unless one of them leaves full scale: then all are as much quieter as that one needs, by
    12 dB at most, so that levels still compare.

    Args:
        folder: Where; made if it is not there.
        name: What the example is called.
        clean: What the codec was given.
        degraded: What it left.
        restored: What was made of that.
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
    gain = max(min(1.0, 32_767 / 32_768 / peak), _MOST_QUIETER) if peak else 1.0
    paths = []
    for role, clip in zip(ROLES, clips):
        target = Path(folder, f"{name}-{role}.flac")
        with open_atomic(target) as stream:
            soundfile.write(stream, gain * clip.T, sample_rate, format=_CLIP_FORMAT, subtype=_SUBTYPE)
        paths.append(target)
    return paths
