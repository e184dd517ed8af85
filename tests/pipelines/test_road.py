"""The whole road, as small as it can be: all parts end well, links lead somewhere, twice is once."""

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import evaluations
import material
import pytest
import soundfile

from apollo import checkpoint
from apollo.config import DiscriminatorConfig, GeneratorConfig
from apollo.training import FitConfig, GanConfig
from pipelines.errors import UsageError
from pipelines.road import RoadConfig, walk
from pipelines.room import WorkersConfig
from pipelines.runs import Exit

_LINK = re.compile(r'(?:href|src)="([^"#]+)"')


def settings(data: Path) -> dict[str, dict[str, object]]:
    prepared = material.config(data, Path("/nowhere"))
    shards = {name: getattr(prepared, name) for name in ("recipes", "codec", "shards", "actors")}
    shards["recipes"] = replace(prepared.recipes, test_per_category=2)
    train = {
        "generator": GeneratorConfig(dim=8, layers=1, heads=2, output="correction"),
        "discriminator": DiscriminatorConfig(windows=(128, 512)),
        "gan": GanConfig(batch_size=2),
        "fit": FitConfig(epochs=1, epoch_examples=12, checkpoint_steps=3, validation_examples=3),
        "workers": WorkersConfig(count=2, gpu=False, cpus=1),
        "heard_examples": 1,
    }
    evaluate = {"limit": 4, "rtf_runs": 1, "bootstrap_resamples": 100, "heard_items": 1, "scorers": 2}
    return {"preprocess": shards, "train": train, "evaluate": evaluate}


def test_the_road_leads_to_restored_songs_and_is_walked_once(
    ray_address: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = tmp_path / "road"
    config = RoadConfig(output=str(output), data=(str(data),), songs=1, song_seconds=3.0)
    outcome = walk(config, settings(data))
    assert outcome.code == Exit.DONE, outcome.message
    results = {
        name: json.loads((output / name / "result.json").read_text())
        for name in ("shards", "run", "decision", "evaluation", "restored")
    }
    assert {result["status"] for result in results.values()} == {"done"}
    assert results["run"]["registered"] == "models:/apollo/1"
    assert results["decision"]["reasons"]
    assert {row["model"] for row in evaluations.rows(output / "evaluation")} == {"untouched", "apollo-v1"}
    assert checkpoint.load("models:/apollo/1").config.dim == 8
    (song,) = (output / "songs").glob("*.mp3")
    restored = soundfile.info(output / "restored" / f"{song.stem}.flac")
    assert (restored.frames, restored.samplerate) == (132_300, 44_100)

    page = (output / "index.html").read_text()
    links = [unquote(link) for link in _LINK.findall(page)]
    assert {"evaluation/report.html", "decision/report.html", "shards/report.html"} <= set(links)
    assert [link for link in links if not (output / link).exists()] == []
    for sentence in results["evaluation"]["verdicts"]:
        assert sentence.split(":")[0] in page
    assert "mlflow ui --backend-store-uri sqlite:///" in page

    before = evaluations.states(output)
    assert walk(config, settings(data)).code == Exit.DONE
    after = evaluations.states(output)
    changed = {name for name in before if before[name] != after.get(name)}
    assert {Path(name).name for name in changed} <= {"result.json", "index.html"} | {
        path.name for path in (output / "pictures").iterdir()
    } | {"mlflow.db"}


def test_a_road_must_lie_on_a_disk() -> None:
    with pytest.raises(UsageError, match="on a disk"):
        RoadConfig(output="s3://bucket/demo")
    with pytest.raises(UsageError, match="song_seconds"):
        RoadConfig(song_seconds=0)
