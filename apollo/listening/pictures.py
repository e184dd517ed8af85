"""Draw spectrograms as PNG files and SVG panels, with the standard library alone."""

import math
import struct
import zlib

import torch
from torch import Tensor

from apollo.listening.html import Html, data_uri, fill, fill_all

_COLUMNS, _ROWS = 512, 200  # pixels
_RANGE_DB = 90.0
_MIN_TOP_DB = -30.0  # silence is 90 dB below, and drawn black
_MAGMA = (  # matplotlib's color map, at equal steps
    (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122), (229, 80, 100), (251, 135, 97),
    (254, 194, 135), (252, 253, 191),
)  # fmt: skip
_NUM_COLORS = 64
_LEFT, _TOP, _WIDTH, _HEIGHT = 40, 6, 554, 214  # of the plot, in units of the panel
_PANEL = """<svg class="panel" viewBox="0 0 600 250" role="img" aria-label="Spectrogram of $name">
<svg x="$left" y="$top" width="$width" height="$height" viewBox="0 0 100 100" preserveAspectRatio="none">
<image class="seekable" width="100" height="100" preserveAspectRatio="none" href="$picture"/>$marks
<line class="cursor" x1="0" x2="0" y1="0" y2="100"/></svg>$ticks</svg>"""
_MARK = '<rect class="mark" x="$start" width="$length" y="97" height="3"/>'
_TICK = '<text class="$kind" x="$x" y="$y">$text</text>'


def top_db(*levels: Tensor) -> float:
    """Return the level at the top of the scale of several spectrograms."""
    return max(_MIN_TOP_DB, *(float(level.max()) for level in levels))


def spectrogram_png(level_db: Tensor, top: float) -> bytes:
    """Draw a spectrogram [bins, columns] in dB, 90 dB below `top` black."""
    size = (min(_ROWS, level_db.shape[0]), min(_COLUMNS, level_db.shape[1]))
    power = torch.nn.functional.adaptive_avg_pool2d(10 ** (level_db[None] / 10), size)[0]
    shares = 1 + (10 * torch.log10(power + 1e-12) - top) / _RANGE_DB
    colors = (shares.clamp(0, 1) * (_NUM_COLORS - 1)).round().to(torch.uint8).flip(0)
    return _png(colors)


def _png(colors: Tensor) -> bytes:
    """Return an image [rows, columns] of indices into the palette as a PNG file."""
    rows, columns = colors.shape
    lines = torch.nn.functional.pad(colors, (1, 0))  # a line begins with its filter: 0, none
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", _palette()),
        (b"IDAT", zlib.compress(bytes(lines.flatten().tolist()), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _palette() -> bytes:
    colors = []
    for number in range(_NUM_COLORS):
        place = number / (_NUM_COLORS - 1) * (len(_MAGMA) - 1)
        low = min(int(place), len(_MAGMA) - 2)
        colors += [round(a + (b - a) * (place - low)) for a, b in zip(_MAGMA[low], _MAGMA[low + 1])]
    return bytes(colors)


def panel(
    name: str,
    level_db: Tensor,
    *,
    top: float,
    start_seconds: float,
    seconds: float,
    sample_rate: int,
    marks: list[tuple[float, float]] | None = None,
) -> Html:
    """Return a spectrogram with axes as SVG.

    Args:
        name: What it shows.
        level_db: [bins, columns].
        top: Level at the top of the scale in dB.
        start_seconds: Time at its left edge.
        seconds: Length.
        sample_rate: Hz.
        marks: (start, length) of places in seconds, marked at its lower edge.
    """
    ticks = [
        {
            "kind": "frequency",
            "x": _LEFT - 5,
            "y": _TOP + _HEIGHT * (1 - 2000 * khz / sample_rate),
            "text": khz,
        }
        for khz in range(5, sample_rate // 2000 + 1, 5)
    ]
    step = _tick_seconds(seconds)
    for number in range(math.ceil(start_seconds / step), int((start_seconds + seconds) / step) + 1):
        x = _LEFT + _WIDTH * (number * step - start_seconds) / seconds
        if x < _LEFT + 0.95 * _WIDTH:
            ticks.append({"kind": "time", "x": x, "y": _TOP + _HEIGHT + 6, "text": clock(number * step)})
    scale = 100 / seconds
    return fill(
        _PANEL,
        name=name,
        left=_LEFT,
        top=_TOP,
        width=_WIDTH,
        height=_HEIGHT,
        picture=data_uri(spectrogram_png(level_db, top), "image/png"),
        marks=fill_all(
            _MARK, [{"start": begin * scale, "length": length * scale} for begin, length in marks or []]
        ),
        ticks=fill_all(
            _TICK, [{key: f"{one:.6g}" if key in "xy" else one for key, one in row.items()} for row in ticks]
        ),
    )


def _tick_seconds(seconds: float) -> float:
    """Return a round step of which at most six fit."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)
    return next((step for step in steps if seconds / step <= 6), 3600.0 * math.ceil(seconds / 6 / 3600))


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, with decimals where it has some."""
    minutes, rest = divmod(round(seconds, 1), 60)
    text = f"{rest:04.1f}".removesuffix(".0")
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"
