"""The HTML report: tables, figures, and audio players with a blind test, in one file that loads nothing else.

Shape legend: samples are [channels, samples], mono or left and right, full scale at 1.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from apollo.listening.flac import flac_base64
from apollo.listening.html import data_uri, read_asset
from apollo.listening.loudness import equal_gains, format_decibels
from pipelines.reporting.html import template_environment
from pipelines.reporting.spectrograms import draw_spectrograms, picture_size
from pipelines.schema import UNTOUCHED

MISSING = "–"
_MINUS = "\N{MINUS SIGN}"
_METRICS = {
    "sdr": "SDR, dB",
    "si_snr": "SI-SNR, dB",
    "snr": "SNR, dB",
    "visqol": "ViSQOL, MOS",
    "zimtohrli": "Zimtohrli, MOS",
    "two_f": "2f-model, MUSHRA score",
    "lsd_high": "LSD above the cut-off, dB",
    "flatness_high": "flatness above the cut-off, dB",
    "si_snr_mid": "SI-SNR of mid, dB",
    "si_snr_side": "SI-SNR of side, dB",
}
_ERROR_BAND = re.compile(r"(?P<level>level_)?error_(?P<low>\d+)_(?P<high>\d+)_hz")
_CODEC = re.compile(r"([a-z][a-z0-9]*)_(\d+)")
_KILO = re.compile(r"(\d+)k")
Samples = NDArray[np.float32]


class MultiValueCell(NamedTuple):
    """Several values shown as one cell.

    Args:
        text: Shown text.
        number: Sort key; None is missing.
    """

    text: str
    number: float | None


Value = str | float | int | MultiValueCell | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A sortable table.

    Args:
        title: Heading above it.
        note: Plain text below the title, may be empty.
        columns: Headings.
        rows: One value per column; None and NaN are missing.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture.

    Args:
        title: Heading above it, and its alternative text.
        note: Plain text below the title, may be empty.
        png: PNG file.
    """

    title: str
    note: str
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One item at one degradation, to compare several versions.

    Args:
        item: Name of the item.
        degradation: `<codec>_<bitrate>`, or a folder's name.
        rank: "worst", "median", "best", or "".
        category: Of the item; may be empty.
        versions: Samples [channels, samples] of one shape by name: "clean", schema.UNTOUCHED, then models.
        scores: Metrics by the version's name; None and NaN are missing.
    """

    item: str
    degradation: str
    rank: str
    category: str
    versions: dict[str, Samples]
    scores: dict[str, dict[str, float | None]]

    def __post_init__(self) -> None:
        shapes = {samples.shape for samples in self.versions.values()}
        if len(shapes) != 1 or 0 in (shape := shapes.pop()) or len(shape) != 2 or shape[0] > 2:
            raise ValueError(
                f"the versions of {self.item!r} have the shapes "
                f"{[samples.shape for samples in self.versions.values()]}; "
                "to be switched in place they need one shape, [1 or 2 channels, 1 or more samples]"
            )


@dataclass(frozen=True, kw_only=True)
class Page:
    """Content of the page.

    Args:
        title: Of the page.
        summary: Sentences, plain text.
        tables: Sortable tables.
        figures: Pictures.
        comparisons: Audio players, grouped by degradation.
        sample_rate: Of all samples, Hz.
    """

    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    comparisons: tuple[Comparison, ...]
    sample_rate: int


class _Cell(NamedTuple):
    text: str
    number: str | None = None  # sort key
    missing: bool = False


def write_page(page: Page) -> str:
    """Render the page; audio is embedded as 16-bit FLAC, all versions of an item at equal loudness.

    Returns:
        HTML.
    """
    from markupsafe import Markup

    environment = template_environment()
    assert environment.loader is not None  # noqa: S101 - our invariant
    own = [
        environment.loader.get_source(environment, name)[0]
        for name in ("listening_tables.css", "listening_tables.js")
    ]
    style = Markup(read_asset("player.css") + own[0])  # noqa: S704 - our own files
    scripts = [Markup(one) for one in (read_asset("player.js"), own[1])]  # noqa: S704
    players = [_player(one, page.sample_rate) for one in page.comparisons]
    figures = [
        {"title": one.title, "note": one.note, "source": data_uri(one.png, "image/png")}
        for one in page.figures
    ]
    embedded = [player["picture"] for player in players] + [figure["source"] for figure in figures]
    embedded += [audio for player in players for audio in player["audio"]]
    html = environment.get_template("listening.html").render(
        page=page,
        style=style,
        scripts=scripts,
        players=players,
        groups={one.degradation: _degradation_label(one.degradation) for one in page.comparisons},
        tables=[_table(one) for one in page.tables],
        figures=figures,
        megabytes=f"{sum(map(len, embedded)) / 1e6:.1f}",
    )
    return html.encode(errors="replace").decode()  # file names may hold lone surrogates


def _table(table: Table) -> dict[str, Any]:
    rows = [[_cell(value) for value in row] for row in table.rows]
    numeric = [any(row[place].number is not None for row in rows) for place in range(len(table.columns))]
    return {
        "title": table.title,
        "note": table.note,
        "columns": list(zip(table.columns, numeric, strict=True)),
        "rows": rows,
    }


def _cell(value: Value) -> _Cell:
    if isinstance(value, MultiValueCell):
        return _Cell(value.text.replace("-", _MINUS), None if value.number is None else repr(value.number))
    if value is None or (not isinstance(value, str) and math.isnan(value)):
        return _Cell(MISSING, missing=True)
    if isinstance(value, str):
        return _Cell(value)
    if math.isinf(value):
        return _Cell("∞" if value > 0 else f"{_MINUS}∞", "Infinity" if value > 0 else "-Infinity")
    return _Cell(_number(value), repr(float(value)))


def _number(value: float) -> str:
    """Format with two decimals, values below 0.1 with two significant digits, integers in full."""
    if isinstance(value, int | np.integer):
        text = f"{value:,}"
    elif 0 < abs(value) < 0.1:
        text = f"{value:.2g}"
    else:
        text = f"{value:,.2f}"
    return text.replace("-", _MINUS)


def _codec_label(degradation: str) -> str:
    match = _CODEC.fullmatch(degradation)
    return match[1].upper() if match else "degraded"


def _degradation_label(degradation: str) -> str:
    if match := _CODEC.fullmatch(degradation):
        return f"{match[1].upper()} {int(match[2]) / 1000:g} kbit/s"
    if match := _KILO.fullmatch(degradation):
        return f"{match[1]} kbit/s"
    return degradation


def _metric_label(metric: str) -> str:
    if match := _ERROR_BAND.fullmatch(metric):
        name = "level error" if match["level"] else "error"
        return f"{name} {int(match['low']) / 1000:g}–{int(match['high']) / 1000:g} kHz, dB"
    return _METRICS.get(metric, metric)


def _player(comparison: Comparison, sample_rate: int) -> dict[str, Any]:
    labels = {
        name: _codec_label(comparison.degradation) if name == UNTOUCHED else name
        for name in comparison.versions
    }
    finite = {
        name: np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
        for name, samples in comparison.versions.items()
    }
    gains = equal_gains({name: torch.from_numpy(one) for name, one in finite.items()}, sample_rate)
    levelled = {name: (gains[name] * samples).astype(np.float32) for name, samples in finite.items()}
    scored = [name for name in comparison.versions if comparison.scores.get(name)]
    metrics = list(dict.fromkeys(metric for name in scored for metric in comparison.scores[name]))
    picture = draw_spectrograms([(labels[name], one) for name, one in levelled.items()], sample_rate)
    about = [comparison.category.replace("_", " "), _degradation_label(comparison.degradation)]
    return {
        "item": comparison.item,
        "degradation": comparison.degradation,
        "rank": comparison.rank,
        "about": " · ".join(filter(None, about)),
        "seconds": next(iter(levelled.values())).shape[1] / sample_rate,
        "versions": list(labels.values()),
        "pair": (0, min(2, len(labels) - 1)),
        "scored": [labels[name] for name in scored],
        "scores": [
            (_metric_label(metric), [_cell(comparison.scores[name].get(metric)) for name in scored])
            for metric in metrics
        ],
        "levels": ", ".join(f"{labels[name]} {format_decibels(gain)}" for name, gain in gains.items()),
        "size": picture_size(len(levelled)),
        "picture": data_uri(picture, "image/png"),
        "audio": [flac_base64(torch.from_numpy(one), sample_rate) for one in levelled.values()],
    }
