"""Spectrograms of several versions of one item, on one scale, in one small picture.

Shape legend: samples are [channels, samples], full scale at 1.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RANGE_DB = 90.0
_QUIETEST_TOP_DB = -30.0  # silence lies 90 dB below, so it is drawn black
_WIDTH, _ONE_ROW, _MORE_ROWS, _DPI = (
    1000,
    430,
    300,
    100,
)  # pixels; the height of the only row, of each of more
_LONGEST_NAME = 40
_DARK, _LIGHT = "#15121c", "#d8d5de"  # one picture for light and for dark pages
_GREYS = 32  # of the palette's 256 colours, for letters
_MAP = "magma"


def _columns(panels: int) -> int:
    return 2 if panels == 4 else min(panels, 3)


def picture_size(panels: int) -> tuple[int, int]:
    """Give width and height in pixels."""
    rows = -(-panels // _columns(panels))
    return _WIDTH, _ONE_ROW if rows == 1 else rows * _MORE_ROWS


def draw_versions(versions: Sequence[tuple[str, NDArray[np.float32]]], sample_rate: int) -> bytes:
    """Draw spectrograms side by side; the loudest bin of all is the top of the scale of all.

    Args:
        versions: One or more of (name, finite samples).
        sample_rate: Hz.

    Returns:
        A PNG of 256 colours.
    """
    import torch
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator, MultipleLocator

    from apollo.audio.spectrogram import Spectrogram

    levels = []
    for _, samples in versions:
        spectrogram = Spectrogram(samples.shape[1], sample_rate)
        spectrogram.add(torch.from_numpy(samples))
        levels.append(spectrogram.level_db().numpy())
    top = max(_QUIETEST_TOP_DB, *(float(level.max()) for level in levels))
    width, height = picture_size(len(versions))
    figure = Figure(
        figsize=(width / _DPI, height / _DPI),
        facecolor=_DARK,
        layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.03),
    )
    columns = _columns(len(versions))
    panels = figure.subplots(-(-len(versions) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, (name, samples), level in zip(panels.flat, versions, levels):
        image = axes.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=(0, samples.shape[1] / sample_rate, 0, sample_rate / 2000),
            cmap=_MAP,
            vmin=top - _RANGE_DB,
            vmax=top,
        )
        axes.set_axis_on()
        axes.set_title(_plain(name), fontsize=12, color=_LIGHT, parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MultipleLocator(5))
        axes.tick_params(colors=_LIGHT, labelsize=10)
        axes.spines[:].set_visible(False)
    figure.supxlabel("seconds", fontsize=10, color=_LIGHT)
    figure.supylabel("kHz", fontsize=10, color=_LIGHT)
    bar = figure.colorbar(image, ax=list(panels.flat), pad=0.01, fraction=0.05, aspect=30)
    bar.set_label("dB", color=_LIGHT, fontsize=10)
    bar.ax.tick_params(colors=_LIGHT, labelsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    return _shrink(drawn)


def _plain(name: str) -> str:
    """One line that can be encoded."""
    return " ".join(name.encode(errors="replace").decode().split())[:_LONGEST_NAME]


def _shrink(drawn: io.BytesIO) -> bytes:
    """Write a picture with a palette: the colour map's and greys; a third of the bytes."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb
    from PIL import Image

    ramp = np.linspace(to_rgb(_DARK), to_rgb(_LIGHT), _GREYS)
    colours = np.concatenate((colormaps[_MAP](np.linspace(0, 1, 256 - _GREYS))[:, :3], ramp))
    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * colours).round().astype(np.uint8).tobytes())
    stream = io.BytesIO()
    picture = Image.open(drawn).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    picture.save(stream, format="png", optimize=True)
    return stream.getvalue()
