"""HTML report of a preprocess run in one file: numbers, figures, spectrograms and audio examples.

Shape legend: samples are [frames, channels], 44,100 Hz.
"""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from apollo.listening.html import data_uri
from pipelines import schema
from pipelines.audio.bandwidth import measure_cutoff_hz, power_spectrogram
from pipelines.audio.bitstream import media_type
from pipelines.audio.codec import CodecConfig, decode
from pipelines.audio.degradations import requested_bitrate
from pipelines.reporting.html import template_environment
from pipelines.reporting.spectrograms import draw_spectrograms
from pipelines.storage import parquet
from pipelines.storage.folder import Folder

matplotlib.use("Agg")
_MEASURED = 24  # examples for the low-pass cut-offs
_REJECTS_SHOWN = 100
_GAIN_ROWS = 20_000
_FEATURED = ("song", "multi_stems_vocal", "multi_stems", "vocal", "single_stem")
_SPLIT_COLOURS = {"train": "#2a6fdb", "valid": "#e0a030", "test": "#3a9d6a"}


def render_page(output: Folder, report: dict[str, Any], codec: CodecConfig) -> str:
    """Return report.html of a finished output."""
    rows = _sample_rows(output, report)
    examples = [row for category in _FEATURED for row in rows if row["category"] == category]
    featured = [
        next(row for row in examples if row["category"] == name) for name in _FEATURED if _has(examples, name)
    ]
    cutoffs_hz = measure_cutoffs_hz(rows[:_MEASURED], codec.columns)
    rejects = _rejects(output)
    figures = {"balance": _balance_figure(report), "gains": _gain_figure(output, rows)}
    if featured:
        row = featured[0]
        versions = [(name, decode(row[name], frames=row["frames"]).T) for name in ("clean", *codec.columns)]
        figures["spectrograms"] = data_uri(draw_spectrograms(versions, schema.SAMPLE_RATE), "image/png")
    return (
        template_environment()
        .get_template("report.html")
        .render(
            report=report,
            cards=_cards(report),
            remarks=report["remarks"],
            categories=schema.CATEGORIES,
            degradations=codec.columns,
            degradation_rows=_degradation_rows(report, rows, cutoffs_hz, codec),
            measured=min(len(rows), _MEASURED),
            examples=[_example(row, codec.columns) for row in featured],
            figures=figures,
            rejects=rejects[:_REJECTS_SHOWN],
            more_rejects=max(len(rejects) - _REJECTS_SHOWN, 0),
        )
    )


def _has(rows: list[dict[str, Any]], category: str) -> bool:
    return any(row["category"] == category for row in rows)


def _cards(report: dict[str, Any]) -> list[tuple[str, str]]:
    hours = sum(part["hours"] for part in report["splits"].values())
    return [
        ("recipes planned", f"{report['planned']:,}"),
        ("committed", f"{report['committed']:,}"),
        ("rejected", f"{report['rejected']:,}"),
        ("hours", f"{hours:,.2f}"),
        ("GB in shards", f"{report['bytes'] / 1e9:,.3f}"),
        (
            "sources used",
            f"{report['sources'] - report['left_out_sources'] - report['rejected_sources']:,} of "
            f"{report['sources']:,}",
        ),
    ]


def _sample_rows(output: Folder, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the first shard of every split, test first."""
    rows: list[dict[str, Any]] = []
    for split in reversed(schema.SPLITS):
        shards = output.entries(split)
        if shards:
            with output.open(shards[0].name) as file:
                rows += parquet.read_table(file).to_pylist()
    return rows


def _rejects(output: Folder) -> list[dict[str, Any]]:
    with output.open("rejects.parquet") as file:
        rejects: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
    return rejects


def measure_cutoffs_hz(rows: list[dict[str, Any]], degradations: tuple[str, ...]) -> dict[str, float | None]:
    """Return the low-pass cut-off of every degradation, in Hz, from the mean spectra of rows."""
    if not rows:
        return dict.fromkeys(degradations)
    clean = _mean_spectrum(rows, "clean")
    return {name: measure_cutoff_hz(clean, _mean_spectrum(rows, name)) for name in degradations}


def _mean_spectrum(rows: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    decoded = (decode(row[name], frames=row["frames"]) for row in rows)
    total: NDArray[np.float64] = np.sum([power_spectrogram(one).mean(axis=1) for one in decoded], axis=0)
    return total


def _degradation_rows(
    report: dict[str, Any],
    rows: list[dict[str, Any]],
    cutoffs_hz: dict[str, float | None],
    codec: CodecConfig,
) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "requested": "" if (bitrate := requested_bitrate(name)) is None else f"{bitrate:,}",
            "actual": ", ".join(f"{rate:,}" for rate in report["real_bitrates_bps"].get(name, [])),
            "cutoff": "" if cutoffs_hz[name] is None else f"{cutoffs_hz[name] / 1000:.1f}",  # type: ignore[operator]
            "gain": f"{np.median([row[f'{name}_gain'] for row in rows]):.3f}" if rows else "",
        }
        for name in codec.columns
    ]


def _example(row: dict[str, Any], degradations: tuple[str, ...]) -> dict[str, Any]:
    components = " + ".join(f"{part['stem']} {part['gain_db']:+.1f} dB" for part in row["components"])
    versions = [("clean", data_uri(row["clean"], "audio/flac"))]
    versions += [(name, data_uri(row[name], media_type(row[name]))) for name in degradations]
    return {
        "category": row["category"],
        "split": row["split"],
        "components": components,
        "recipe_id": row["recipe_id"],
        "versions": versions,
    }


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return data_uri(stream.getvalue(), "image/png")


def _balance_figure(report: dict[str, Any]) -> str:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    hours, recipes = figure.subplots(1, 2)
    stems = [*schema.STEMS, schema.MIXTURE]
    for axes, names, table, title in (
        (hours, stems, report["source_hours"], "hours of usable sources"),
        (recipes, list(schema.CATEGORIES), report["categories"], "recipes"),
    ):
        left = np.zeros(len(names))
        for split, colour in _SPLIT_COLOURS.items():
            values = np.array([table[split].get(name, 0) for name in names], float)
            axes.barh(names, values, left=left, color=colour, label=split)
            left += values
        axes.invert_yaxis()
        axes.set_xlabel(title)
        axes.legend(frameon=False)
    return _png(figure)


def _gain_figure(output: Folder, rows: list[dict[str, Any]]) -> str:
    with output.open("recipes.parquet") as file:
        plan = parquet.open_file(file)
        parts = next(plan.iter_batches(_GAIN_ROWS, columns=["category", "components"])).to_pylist()
    gains = [part["gain_db"] for row in parts if row["category"] != schema.SONG for part in row["components"]]
    numbers = [len(row["components"]) for row in parts if row["category"] != schema.SONG]
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axes, values, bins, label in zip(
        figure.subplots(1, 3),
        (gains, numbers, [row["mix_gain_db"] for row in rows]),
        (40, np.arange(0.5, 9), 40),
        ("gain of a component, dB", "components of a mix", "mix gain, dB (0: not above full scale)"),
        strict=True,
    ):
        axes.hist(values, bins=bins, color="#2a6fdb")
        axes.set_xlabel(label)
    return _png(figure)
