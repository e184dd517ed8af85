"""Spectrograms of several versions of one item, on one scale, in one picture.

Shape legend: samples are [channels, samples], full scale at 1.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RANGE_DB = 90.0
_MIN_TOP_DB = -30.0  # silence is 90 dB below, and drawn black
_WIDTH, _ONE_ROW, _MORE_ROWS, _DPI = (
    1000,
    430,
    300,
    100,
)  # pixels; the height of a single row, of each of more
_MAX_NAME_LENGTH = 40
_DARK, _LIGHT = "#15121c", "#d8d5de"  # one picture for light and for dark pages


def _num_columns(panels: int) -> int:
    return 4 if panels > 6 else 2 if panels == 4 else min(panels, 3)


def picture_size(panels: int) -> tuple[int, int]:
    """Return width and height in pixels."""
    rows = -(-panels // _num_columns(panels))
    return _WIDTH, _ONE_ROW if rows == 1 else rows * _MORE_ROWS


def draw_spectrograms(versions: Sequence[tuple[str, NDArray[np.float32]]], sample_rate: int) -> bytes:
    """Draw spectrograms side by side.

    The loudest bin of the first version is the top of the scale of all, so pictures of one item compare.

    Args:
        versions: One or more of (name, samples), the clean one first; non-finite samples count as 0.
        sample_rate: Hz.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator, MultipleLocator
    from PIL import Image

    levels = [_levels_db(samples, sample_rate) for _, samples in versions]
    top = max(_MIN_TOP_DB, float(levels[0].max()))
    width, height = picture_size(len(versions))
    figure = Figure(
        figsize=(width / _DPI, height / _DPI),
        facecolor=_DARK,
        layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.03),
    )
    columns = _num_columns(len(versions))
    panels = figure.subplots(-(-len(versions) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, (name, samples), level in zip(panels.flat, versions, levels):
        image = axes.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=(0, max(samples.shape[1], 1) / sample_rate, 0, sample_rate / 2000),
            cmap="magma",
            vmin=top - _RANGE_DB,
            vmax=top,
        )
        axes.set_axis_on()
        axes.set_title(_printable(name), fontsize=12, color=_LIGHT, parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MultipleLocator(5))
        axes.tick_params(colors=_LIGHT, labelsize=10)
        axes.spines[:].set_visible(False)
    figure.supxlabel("seconds", fontsize=10, color=_LIGHT)
    figure.supylabel("kHz", fontsize=10, color=_LIGHT)
    bar = figure.colorbar(image, ax=list(panels.flat), pad=0.01, fraction=0.05, aspect=30)
    bar.set_label("dB", color=_LIGHT, fontsize=10)
    bar.ax.tick_params(colors=_LIGHT, labelsize=10)
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    Image.open(drawn).convert("RGB").save(picture, format="png", optimize=True)  # without an alpha channel
    return picture.getvalue()


def _levels_db(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    import torch

    from apollo.listening.spectrogram import Spectrogram

    spectrogram = Spectrogram(samples.shape[1], sample_rate)
    finite = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    spectrogram.add(torch.from_numpy(np.ascontiguousarray(finite, np.float32)))
    return spectrogram.level_db().numpy()


def _printable(name: str) -> str:
    """Return a name as one line that can be encoded."""
    return " ".join(name.encode(errors="replace").decode().split())[:_MAX_NAME_LENGTH]
