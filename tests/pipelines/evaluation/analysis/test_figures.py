"""Figures: that they are pictures, of what they should be of, whatever is missing."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from pipelines.evaluation.analysis.bootstrap import Bootstrap
from pipelines.evaluation.analysis.figures import draw_bands, draw_figure2
from pipelines.evaluation.analysis.tables import build_tables
from pipelines.schema import ERROR_BANDS, UNTOUCHED
from tests.support import score_rows
from tests.support.score_rows import row


def _pixels(png: bytes) -> NDArray[np.uint8]:
    assert png.startswith(b"\x89PNG")
    pixels: NDArray[np.uint8] = (imread(io.BytesIO(png))[..., :3] * 255).round().astype(np.uint8)
    return pixels


def _has(png: bytes, colour: tuple[int, int, int]) -> bool:
    return bool((_pixels(png) == colour).all(-1).any())


def _tables(rows: list[dict[str, Any]]) -> Any:
    return build_tables(score_rows.table(rows), {}, bootstrap=Bootstrap(resamples=50))


def _rows(models: tuple[str, ...], degradations: tuple[str, ...], **values: Any) -> list[dict[str, Any]]:
    return [
        row(model, str(number), name, **{key: value + number for key, value in values.items()})
        for model in models
        for name in degradations
        for number in range(3)
    ]


def test_figure2_of_the_published_demo_clips(golden: Path) -> None:
    table = build_tables(score_rows.demo_scores(golden), {})["figure2"]
    png = draw_figure2(table)
    assert _pixels(png).shape[1] > 1_000
    assert _has(png, (0x66, 0x66, 0x66)) and _has(png, (0x00, 0x72, 0xB2))  # untouched, the model
    assert draw_figure2(table) == png
    assert draw_figure2(table, with_paper=False) != png


@pytest.mark.parametrize(
    ("models", "degradations", "values"),
    [
        ((UNTOUCHED,), ("mp3_24000",), {"sdr": 1.0, "si_snr": 2.0, "visqol": 3.0}),
        (("only",), ("vinyl", "telephone line"), {"sdr": 1.0}),
        ((UNTOUCHED, "$a_{"), ("mp3_24000", "mp3_128000", "aac_24000", "given"), {"visqol": 1.0}),
        ((UNTOUCHED, *"abcdefgh"), ("mp3_24000", "mp3_64000"), {"sdr": 1.0, "error_0_4000_hz": -9.0}),
        ((UNTOUCHED, "ours"), ("mp3_24000",), {}),
        ((), (), {}),
    ],
)
def test_figures_of_few_scores(
    models: tuple[str, ...], degradations: tuple[str, ...], values: dict[str, float]
) -> None:
    made = _tables(_rows(models, degradations, **values))
    assert _pixels(draw_figure2(made["figure2"])).size
    assert _pixels(draw_bands(made["differences"])).size


def test_the_papers_lines_are_only_drawn_beside_its_codec_and_bitrates() -> None:
    values = {"sdr": 1.0, "si_snr": 2.0, "visqol": 3.0}
    pictures = {
        name: _tables(_rows((UNTOUCHED,), (f"{name}_24000", f"{name}_320000"), **values))["figure2"]
        for name in ("mp3", "aac")
    }
    drawn = {
        name: draw_figure2(table) != draw_figure2(table, with_paper=False) for name, table in pictures.items()
    }
    assert drawn == {"mp3": True, "aac": False}
    other = _tables(_rows((UNTOUCHED,), ("mp3_320000",), **values))["figure2"]
    assert draw_figure2(other) == draw_figure2(other, with_paper=False)


def test_less_error_is_blue_and_more_is_red() -> None:
    for change, blue in ((-3.0, True), (3.0, False)):
        rows = _rows((UNTOUCHED,), ("mp3_24000",), **dict.fromkeys(ERROR_BANDS, -10.0))
        rows += _rows(("ours",), ("mp3_24000",), **dict.fromkeys(ERROR_BANDS, -10.0 + change))
        pixels = _pixels(draw_bands(_tables(rows)["differences"])).astype(int)
        grid = pixels[:, : int(0.8 * pixels.shape[1])]  # without the bar of colours
        redder = grid[..., 0] - grid[..., 2]
        assert ((redder < -40).sum() > 10_000) == blue
        assert ((redder > 40).sum() > 10_000) != blue
