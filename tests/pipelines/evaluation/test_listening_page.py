"""The listening page as a file: whole, inert, equally loud, and defined for odd material."""

import base64
import html as html_module
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from apollo.listening import loudness
from pipelines.evaluation.listening_page import Comparison, Figure, Page, Table, write_page
from tests.support import datasets

RATE = datasets.SAMPLE_RATE
HOSTILE = "</script><script>window.hacked=1</script>\"'><img src=x onerror=hacked=1>\n&amp;\u2028{{ 7*7 }}"
Samples = NDArray[np.float32]


def clip(seed: int, level: float = 1.0, seconds: float = 1.0, channels: int = 2) -> Samples:
    return (level * datasets.music(seed, seconds, channels=channels).T).astype(np.float32)


def comparison(**changes: Any) -> Comparison:
    defaults: dict[str, Any] = {
        "item": "one",
        "degradation": "mp3_24000",
        "rank": "worst",
        "category": "multi_stems_vocal",
        "versions": {"clean": clip(1), "untouched": clip(2, 0.5), "ours": clip(3, 2.0)},
        "scores": {
            "untouched": {"sdr": 3.14159, "visqol": None},
            "ours": {"sdr": -0.5, "visqol": float("nan")},
        },
    }
    return Comparison(**(defaults | changes))


def page(*comparisons: Comparison, **changes: Any) -> Page:
    defaults: dict[str, Any] = {
        "title": "Page",
        "summary": (),
        "tables": (),
        "figures": (),
        "sample_rate": RATE,
    }
    return Page(**(defaults | changes), comparisons=comparisons)


def loudness_lufs(samples: Samples, rate: int) -> float | None:
    return loudness.loudness_lufs(torch.from_numpy(samples), rate)


def sounds(html: str) -> list[list[Samples]]:
    """Decode what each comparison plays: [channels, samples]."""
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    decoded = []
    for block in blocks:
        streams = [io.BytesIO(base64.b64decode(text)) for text in json.loads(block)]
        decoded.append([soundfile.read(one, dtype="float32", always_2d=True)[0].T for one in streams])
    return decoded


class Text(HTMLParser):
    """Collects what a reader sees, tags, and all that a tag could load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen, self.tags, self.loaded = "", [], []
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [
            str(value) for name, value in attrs if name in ("src", "href", "srcset", "action", "data")
        ]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.seen += data


def test_versions_have_equal_loudness_and_none_is_amplified() -> None:
    one = comparison()
    heard = sounds(write_page(page(one)))[0]
    levels = [loudness_lufs(samples, RATE) for samples in heard]
    quietest = min(loudness_lufs(samples, RATE) for samples in one.versions.values())  # type: ignore[type-var]
    assert levels == [pytest.approx(quietest, abs=0.1)] * 3
    for samples, original in zip(heard, one.versions.values()):
        gain = float(np.vdot(samples, original) / np.vdot(original, original))
        assert gain <= 1.0001
        np.testing.assert_allclose(samples, gain * original, atol=1e-4)


def test_page_loads_nothing_and_shows_its_size() -> None:
    one = page(comparison(), figures=(Figure(title="f", note="", png=b"\x89PNG"),))
    html = write_page(one)
    text = Text(html)
    assert {address.partition(",")[0] for address in text.loaded} == {
        "#listen",
        "#figures",
        "data:image/png;base64",
    }
    assert "http://" not in html and "https://" not in html
    assert "default-src 'none'" in html and "unsafe" not in html
    told = re.search(r"in this file, ([\d.]+) MB", text.seen)
    assert told and float(told[1]) == pytest.approx(len(html.encode()) / 1e6, abs=0.1)


def test_hostile_names_are_text() -> None:
    one = comparison(
        item=HOSTILE,
        degradation=HOSTILE,
        rank=HOSTILE,
        category=HOSTILE,
        versions={"clean": clip(1, seconds=0.2), HOSTILE: clip(2, seconds=0.2)},
        scores={HOSTILE: {HOSTILE: 1.0}},
    )
    table = Table(title=HOSTILE, note=HOSTILE, columns=(HOSTILE,), rows=((HOSTILE,),))
    figure = Figure(title=HOSTILE, note=HOSTILE, png=b"")
    hostile = page(one, title=HOSTILE, summary=(HOSTILE,), tables=(table,), figures=(figure,))
    text = Text(write_page(hostile))
    tame = page(
        comparison(versions=dict(zip("ab", one.versions.values()))), tables=(table,), figures=(figure,)
    )
    assert text.tags.count("script") == Text(write_page(tame)).tags.count("script")
    assert text.tags.count("img") == 2
    assert text.seen.count(HOSTILE) >= 12
    assert "49" not in re.sub(re.escape(HOSTILE), "", text.seen)


def test_lone_surrogates_in_names_are_replaced() -> None:
    versions = {"clean": clip(1, seconds=0.2), "caf\udce9": clip(2, seconds=0.2)}
    assert "caf?" in Text(write_page(page(comparison(item="\udce9", versions=versions)))).seen


def test_missing_numbers_are_dashes_and_sort_as_missing() -> None:
    rows = ((None, 1.5), (float("nan"), -2.0), ("word", float("inf")), ("x", 16_539_308), ("y", -0.0123))
    html = write_page(page(comparison(), tables=(Table(title="t", note="", columns=("a", "b"), rows=rows),)))
    seen = Text(html).seen
    assert not re.search(r"\b(NaN|nan|None|inf|undefined)\b", seen)
    cells = re.findall(r"<td([^>]*)>([^<]*)</td>", html[html.index('id="tables"') :])
    assert [html_module.unescape(text) for _, text in cells] == [
        *("–", "1.50"),
        *("–", "−2.00"),
        *("word", "∞"),
        *("x", "16,539,308"),
        *("y", "−0.012"),
    ]
    assert [re.findall(r"data-(missing|number=\S+)", attributes) for attributes, _ in cells] == [
        *(["missing"], ['number="1.5"']),
        *(["missing"], ['number="-2.0"']),
        *([], ['number="Infinity"']),
        *([], ['number="16539308.0"']),
        *([], ['number="-0.0123"']),
    ]
    assert "3.14" in seen and "−0.50" in seen and "ViSQOL, MOS" in seen


def test_untouched_is_labelled_with_its_codec() -> None:
    html = write_page(page(comparison(), comparison(degradation="64k")))
    assert re.findall(r'class="version"[^>]*>([^<]*)<', html) == [
        "clean",
        "MP3",
        "ours",
        "clean",
        "degraded",
        "ours",
    ]
    assert re.findall(r"data-group=\"([^\"]*)\">([^<]*)<", html) == [
        ("mp3_24000", "MP3 24 kbit/s"),
        ("64k", "64 kbit/s"),
    ]


def test_page_without_comparisons() -> None:
    text = Text(write_page(page(summary=("Nothing was scored.",))))
    assert "Nothing was scored." in text.seen and "0 comparisons" in text.seen
    assert "article" not in text.tags and "table" not in text.tags


@pytest.mark.parametrize("samples, channels", [(1, 1), (20, 2), (8_820, 1)])
def test_short_and_mono_clips_are_whole(samples: int, channels: int) -> None:
    versions = {name: clip(seed, channels=channels)[:, :samples] for seed, name in enumerate(("clean", "m"))}
    heard = sounds(write_page(page(comparison(versions=versions, scores={}))))[0]
    assert [one.shape for one in heard] == [(channels, samples)] * 2


def test_silent_and_non_finite_versions_do_not_change_the_others() -> None:
    odd = np.zeros((2, RATE), np.float32)
    odd[0, 7] = np.nan
    versions = {"clean": clip(1), "silent": odd, "loud": 100 * clip(1)}
    heard = sounds(write_page(page(comparison(versions=versions, scores={}))))[0]
    np.testing.assert_allclose(heard[0], versions["clean"], atol=1e-4)
    np.testing.assert_allclose(heard[2], versions["clean"], atol=1e-4)
    assert not heard[1].any()


def test_versions_that_cannot_be_switched_in_place_are_refused() -> None:
    for versions in (
        {},
        {"a": clip(1), "b": clip(1)[:, 1:]},
        {"a": clip(1)[:, :0]},
        {"a": clip(1, channels=3)},
    ):
        with pytest.raises(ValueError, match="one shape"):
            comparison(versions=versions)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_one_picture_has_all_spectrograms(count: int) -> None:
    versions = {f"v{number} $x$": clip(number, seconds=0.2) for number in range(count)}
    html = write_page(page(comparison(versions=versions, scores={})))
    found = re.search(r'<img class="picture"[^>]*width="(\d+)" height="(\d+)"[^>]*base64,([^"]+)"', html)
    assert found
    png = base64.b64decode(found[3])
    picture = Image.open(io.BytesIO(png))
    assert picture.size == (int(found[1]), int(found[2])) and len(png) < 250_000
    sounding = (np.asarray(picture.convert("RGB")).sum(axis=2) > 150).mean()
    assert sounding > 0.15  # music fills the panels
