"""The figures of an evaluation, as PNG, drawn from its tables (`pipelines.evaluation.analysis.tables`)."""

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.audio.degradations import sort_key
from pipelines.evaluation.analysis import published_results
from pipelines.evaluation.analysis.result_table import Cell, ScoreTable
from pipelines.evaluation.analysis.scores import PAPER_METRICS, label, unit
from pipelines.evaluation.analysis.tables import ALL
from pipelines.schema import ERROR_BANDS, UNTOUCHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
_MARKERS = "sD^vPX"  # the untouched codec has the circle
_GREY = "#666666"
_PAPER_STYLES = {"Apollo": "--", "SR-GAN": ":"}
_LONGEST_NAME = 40
_MP3 = re.compile(r"(mp3_?)?\d+k?(bps|hz)?")


def draw_figure2(table: ScoreTable, *, with_paper: bool = True) -> bytes:
    """Draw the paper's Figure 2: SDR, SI-SNR and ViSQOL over bitrates, a line with intervals per model.

    Args:
        table: Made by `tables.figure2`.
        with_paper: Whether to draw the paper's numbers for MP3.

    Returns:
        A PNG.
    """
    rows = table.records()
    degradations = list(dict.fromkeys(str(row["degradation"]) for row in sorted(rows, key=_by_bitrate)))
    bitrates = {str(row["degradation"]): row["bitrate_bps"] for row in rows}
    models = sorted({str(row["model"]) for row in rows}, key=lambda name: (name != UNTOUCHED, name))
    width = min(max(11.0, 2.4 * len(degradations)), 18.0)
    figure = _figure(width, 4.4)
    panels = figure.subplots(1, len(PAPER_METRICS))
    for axes, metric in zip(panels, PAPER_METRICS, strict=True):
        if with_paper:
            _draw_paper(axes, metric, degradations, bitrates)
        for number, model in enumerate(models):
            own = {str(row["degradation"]): row for row in rows if row["model"] == model}
            apart = min(0.07, 0.5 / len(models))  # avoids overlapping intervals
            shift = apart * (number - (len(models) - 1) / 2)
            _draw_model(axes, metric, degradations, own, shift, _style(model, models))
        axes.set_title(f"{label(metric)} ({unit(metric)})")
        names = [_tick(name, bitrates[name]) for name in degradations]
        crowded = len(names) > 8 or any(len(name) > 6 for name in names)
        axes.set_xticks(
            range(len(names)), names, rotation=30 if crowded else 0, ha="right" if crowded else "center"
        )
        axes.set_xlabel("bitrate, kbps" if any(bitrates.values()) else "degradation")
        axes.set_xlim(-0.5, max(len(names) - 0.5, 0.5))
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    if not rows:
        panels[1].text(0.5, 0.5, "nothing was scored", ha="center", transform=panels[1].transAxes)
    handles, names = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    return _png(figure)


def _by_bitrate(row: dict[str, Cell]) -> tuple[bool, str, int, str]:
    """Return a key that sorts MP3 first, other codecs one after the other, and what has no bitrate last."""
    name, bitrate = str(row["degradation"]), row["bitrate_bps"]
    codec = "" if _is_mp3(name) else sort_key(name)[0]
    return bitrate is None, codec, int(bitrate or 0), name


def _tick(name: str, bitrate: Cell) -> str:
    if bitrate is None:
        return _short(name)
    codec, plain = name.rpartition("_")[0], f"{int(bitrate) / 1000:g}"
    if _is_mp3(name):
        return plain
    return f"{codec} {plain}" if name == f"{codec}_{bitrate}" and codec.isalnum() else _short(name)


def _style(model: str, models: Sequence[str]) -> dict[str, Any]:
    if model == UNTOUCHED:
        return {"color": _GREY, "marker": "o", "label": "untouched codec"}
    number = [name for name in models if name != UNTOUCHED].index(model)
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "label": _short(model),
    }


def _draw_model(
    axes: "Axes",
    metric: str,
    degradations: Sequence[str],
    rows: dict[str, dict[str, Cell]],
    shift: float,
    style: dict[str, Any],
) -> None:
    """Draw the line of a model; missing means are gaps, missing intervals have no bar."""
    means, below, above = (
        [_number(rows.get(name, {}).get(f"{metric}{part}")) for name in degradations]
        for part in ("", "_low", "_high")
    )
    places = np.arange(len(degradations)) + shift
    bars = [np.subtract(means, below), np.subtract(above, means)]
    axes.errorbar(places, means, yerr=bars, capsize=2.5, elinewidth=1, linewidth=1.6, markersize=4.5, **style)


def _draw_paper(axes: "Axes", metric: str, degradations: Sequence[str], bitrates: dict[str, Cell]) -> None:
    """Draw the paper's values at the bitrates of MP3 that were scored."""
    places = [
        (place, published_results.BITRATES_BPS.index(bitrate))
        for place, name in enumerate(degradations)
        if isinstance(bitrate := bitrates[name], int)
        and bitrate in published_results.BITRATES_BPS
        and _is_mp3(name)
    ]
    if not places:
        return
    for model in published_results.PAPER:
        values = [model.figure2[metric][number] for _, number in places]
        axes.plot(
            [place for place, _ in places],
            values,
            linestyle=_PAPER_STYLES[model.name],
            marker="_" if len(places) == 1 else None,
            color="#999999",
            linewidth=1,
            label=model.label,
        )


def _is_mp3(degradation: str) -> bool:
    """Return whether a degradation is MP3 at a constant bitrate: `mp3_24000`, or `24k`."""
    return _MP3.fullmatch(degradation.lower()) is not None


def draw_bands(table: ScoreTable) -> bytes:
    """Draw the change of the error in every band: blue is less error than the codec's.

    Args:
        table: Made by `tables.differences`.

    Returns:
        A PNG: a panel per model, a row per degradation, a column per band.
    """
    rows = [row for row in table.records() if row["metric"] in ERROR_BANDS and row["category"] == ALL]
    models = sorted({str(row["model"]) for row in rows})
    degradations = list(dict.fromkeys(str(row["degradation"]) for row in rows if row["degradation"] != ALL))
    degradations = [*degradations, ALL] if len(degradations) > 1 else degradations
    if not models:
        figure = _figure(6, 1.5)
        figure.text(0.5, 0.5, "no model was scored beside the untouched codec", ha="center")
        return _png(figure)
    cells = {(row["model"], row["degradation"], row["metric"]): _number(row["difference"]) for row in rows}
    grids = [
        np.array(
            [[cells.get((model, name, band), math.nan) for band in ERROR_BANDS] for name in degradations]
        )
        for model in models
    ]
    largest = max((float(np.nanmax(np.abs(grid))) for grid in grids if not np.isnan(grid).all()), default=1.0)
    figure = _figure(8, 0.9 + len(models) * (0.75 + 0.36 * len(degradations)))
    panels = figure.subplots(len(models), 1, squeeze=False, sharex=True)[:, 0]
    for axes, model, grid in zip(panels, models, grids, strict=True):
        image = _draw_grid(axes, grid, max(largest, 0.1))
        axes.set_title(_short(model), fontsize=10, loc="left")
        axes.set_yticks(range(len(degradations)), [_short(name) for name in degradations], fontsize=8)
    names = [label(band).removeprefix("error ") for band in ERROR_BANDS]
    panels[-1].set_xticks(range(len(names)), names, fontsize=8)
    colours = figure.colorbar(image, ax=list(panels), shrink=0.9, aspect=12)
    colours.set_label("change of error, dB\n(below 0: less error)", fontsize=8)
    figure.suptitle("Error by band, against the untouched codec", fontsize=11)
    return _png(figure)


def _draw_grid(axes: "Axes", grid: np.ndarray[Any, np.dtype[np.float64]], largest: float) -> Any:
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
    axes.set_facecolor("#eeeeee")
    for (row, column), value in np.ndenumerate(grid):
        text = "–" if np.isnan(value) else f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0.0"
        dark = not np.isnan(value) and abs(value) > 0.6 * largest
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.tick_params(length=0)
    return image


def _number(cell: Cell) -> float:
    return math.nan if cell is None or isinstance(cell, str) else float(cell)


def _short(name: str) -> str:
    line = " ".join(name.split()).replace("$", r"\$")  # a dollar would start a formula
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(stream, format="png", dpi=120, metadata={"Software": None})
    return stream.getvalue()
