"""The table of numbers for Prometheus, and that the dashboard and the document have all of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apollo.audio.rejects import RejectKind
from pipelines.runtime import prometheus
from pipelines.runtime.progress import track_progress
from pipelines.runtime.prometheus import METRICS

ROOT = Path(__file__).parents[3]


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"apollo_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter"), name
        measured = re.sub(r"_total$", "", name)
        assert measured.endswith((f"_{metric.unit}", "_open")) or metric.unit in name.split("_"), name
        assert sorted(set(metric.buckets)) == list(metric.buckets), name
        assert bool(metric.buckets) == (metric.kind == "histogram"), name
        assert {*metric.tags} <= {"reason", "split", "stage", "status"}, name


def test_what_is_open_goes_down_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, str]] = []
    monkeypatch.setattr(prometheus, "record", lambda name, value, stage: told.append((name, value, stage)))
    assert list(track_progress("ab", total=5, done=3, description="scan", unit="song")) == ["a", "b"]
    assert told == [("apollo_items_open", left, "scan") for left in (2, 1, 0)]


def test_outside_of_ray_nothing_is_recorded_or_imported() -> None:
    code = """
import sys
from pipelines.runtime.prometheus import METRICS, record
for name, metric in METRICS.items():
    record(name, 1.0, **dict.fromkeys(metric.tags, "x"))
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads((ROOT / "docs/grafana/apollo.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"\bray_\w+", target["expr"])
    }
    exported = {
        f"ray_{name}" + ("_bucket" if metric.kind == "histogram" else "") for name, metric in METRICS.items()
    }
    assert asked == exported


def test_the_document_explains_every_metric() -> None:
    text = (ROOT / "docs/observability.md").read_text()
    assert {*re.findall(r"^\| `(apollo_\w+)`", text, re.MULTILINE)} == METRICS.keys()
    assert {*re.findall(r"^\| `(\w+)` \|", text.partition("## Reasons")[2], re.MULTILINE)} == {*RejectKind}
    panels = json.loads((ROOT / "docs/grafana/apollo.json").read_text())["panels"]
    titles = [panel["title"] for panel in panels if panel["type"] != "row"]
    assert [title for title in titles if title not in text] == []
