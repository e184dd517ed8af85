"""Names and tags from data sets on pages: they are text, and no page runs or loads what is not ours."""

import ast
import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import schema
from pipelines.audio.codec import CodecConfig
from pipelines.demo import page as road_page
from pipelines.preprocess import report
from pipelines.registry.registry import Version
from pipelines.runtime.outcome import Exit, Outcome
from pipelines.storage.folder import Folder
from pipelines.storage.parquet import parquet_bytes
from tests.support import shard_outputs
from tests.support.html_pages import ParsedPage

ROOT = Path(__file__).parents[2]
HOSTILE = (
    '</script></code><script>window.hacked=1</script>"\'><img src=x onerror="window.hacked=1">&amp;{{7*7}}'
)
NAME = HOSTILE.replace("/", "\\")  # what a file can be called
ALLOWED = {"data", "#", "shards", "decision", "evaluation", "restored", "songs", "songs-clean", "pictures"}


def digests(code: list[str]) -> set[str]:
    return {f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in code}


def write_report(output: Path, text: str) -> str:
    """Write the page of a preprocess run in which everything that comes from data is this text."""
    component = {"stem": text, "source_id": text, "start": 0, "gain_db": 0.0}
    row = shard_outputs.make_row(
        "test", 0, 0, recipe_id=text, category="song", stems=[text], components=[component]
    )
    shard_outputs.write_shard(output, "test", 0, [row])
    codec = CodecConfig(bitrates_bps=shard_outputs.BITRATES)
    folder = Folder(str(output))
    rejects = [{"stage": text, "id": text, "path": text, "reason": text}]
    folder.write("rejects.parquet", parquet_bytes(pa.Table.from_pylist(rejects, schema.REJECTS)))
    plan = {name: row[name] for name in ("recipe_id", "split", "category", "components")}
    folder.write("recipes.parquet", parquet_bytes(pa.Table.from_pylist([plan], schema.RECIPES)))
    facts: dict[str, Any] = dict.fromkeys(("planned", "committed", "rejected", "bytes", "sources"), 1)
    facts |= {"left_out_sources": 0, "rejected_sources": 0, "cpu_seconds_render": 1.0, "remarks": [text]}
    part = {"hours": 1.0, "songs": 1, "planned": 1, "committed": 1, "rejected": 0}
    facts |= {"splits": dict.fromkeys(schema.SPLITS, part), "seconds_by_stage": {text: 1.0}}
    facts |= {"source_hours": {split: {} for split in schema.SPLITS}, "left_out": {text: 1}}
    facts |= {"categories": {split: dict.fromkeys(schema.CATEGORIES, 1) for split in schema.SPLITS}}
    facts |= {"versions": {text: text}, "real_bitrates_bps": {}}
    return report.render_page(folder, facts, codec)


def write_road(output: Path, name: str, text: str) -> str:
    """Write the page of a road whose only song has this name, and all else this text."""
    for folder, ending in (("songs", "mp3"), ("songs-clean", "flac")):
        (output / folder).mkdir(parents=True)
        (output / folder / f"{name}.{ending}").write_bytes(b"")
    steps = {}
    for step in road_page.TITLES:
        (output / step / "v1").mkdir(parents=True)
        told = {"verdicts": [text], "promoted": True, "champion": text, "reasons": [text]}
        (output / step / "v1/result.json").write_text(json.dumps(told))
        steps[step] = road_page.Step(step, f"{step}/v1", Outcome(Exit.DONE, text), 1.0)
    uri = f"http://me:{text}@127.0.0.1:5000" if text != "tame" else "http://127.0.0.1:5000"
    return Path(road_page.write_page(str(output), steps, uri, Version("apollo", 1))).read_text()


@pytest.mark.parametrize("page", ["report", "road"])
def test_names_and_tags_are_text(page: str, tmp_path: Path) -> None:
    def write(folder: str, name: str, text: str) -> str:
        if page == "report":
            return write_report(tmp_path / folder, text)
        return write_road(tmp_path / folder, name, text)

    hostile, tame = ParsedPage(write("hostile", NAME, HOSTILE)), ParsedPage(write("tame", "tame", "tame"))
    assert hostile.tags == tame.tags
    assert hostile.seen.count(HOSTILE) + hostile.seen.count(NAME) >= 4
    assert "49" not in re.sub(re.escape(HOSTILE), "", hostile.seen)
    assert hostile.code == tame.code
    for address in hostile.loaded:
        assert re.split(r"[:/]|(?<=#)", address)[0] in ALLOWED, address
    assert "default-src 'none'" in hostile.policy
    assert "script-src 'unsafe" not in hostile.policy
    if page == "report":
        named = set(re.findall(r"'sha256-[^']+'", hostile.policy))
        assert digests(hostile.code["script"] + hostile.code["style"]) == named


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real browser, where there is one."""
    program = os.environ.get("APOLLO_CHROMIUM") or shutil.which("chromium")
    if not program:
        pytest.skip("there is no chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started.new_page()
        started.close()


def test_the_report_works_in_a_browser_and_runs_nothing_else(tmp_path: Path, browser: Any) -> None:
    complaints: list[str] = []
    browser.on("console", lambda message: complaints.append(message.text))
    browser.on("pageerror", lambda error: complaints.append(str(error)))
    (tmp_path / "report.html").write_text(write_report(tmp_path / "output", HOSTILE))
    browser.goto((tmp_path / "report.html").as_uri())
    assert browser.evaluate("window.hacked") is None
    buttons = browser.locator(".example button")
    buttons.nth(1).click()
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    assert browser.locator("audio").get_attribute("src").startswith("data:audio/mpeg")
    assert browser.evaluate("getComputedStyle(document.querySelector('.card')).borderRadius") == "8px"
    assert complaints == []


def test_every_page_is_escaped_and_has_a_policy() -> None:
    sources = {path: path.read_text() for path in sorted((ROOT / "pipelines").rglob("*.py"))}
    made = [path for path, source in sources.items() if "Environment(" in source]
    assert [path.name for path in made] == ["html.py"]
    assert (
        sum("template_environment()" in source for path, source in sources.items() if path not in made) == 3
    )
    for path in made:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Environment"):
                assert "autoescape=True" in ast.unparse(node), path
    templates, listening = ROOT / "pipelines/reporting/templates", ROOT / "apollo/listening"
    pages = [*sorted(templates.glob("*.html")), listening / "song_page.html"]
    assert len(pages) == 4
    for path in pages:
        page = path.read_text()
        assert "Content-Security-Policy" in page and "default-src 'none'" in page, path
        assert not re.search(r"\|\s*safe\b|autoescape", page), path
    scripts = sorted([*templates.glob("*.js"), *listening.glob("*.js")])
    assert [path.name for path in scripts] == ["player.js", "listening_tables.js"]
    for path in scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", path.read_text()
        )
