"""The demo at its smallest: all jobs succeed, links lead to files, a second run changes nothing."""

import html
import json
import os
import re
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import soundfile

from apollo.checkpoints import checkpoint
from apollo.model.config import DiscriminatorConfig, GeneratorConfig
from apollo.training.config import FitConfig, GanConfig
from pipelines.cluster.resources import WorkersConfig
from pipelines.demo import run
from pipelines.demo.run import DemoConfig, run_demo
from pipelines.errors import UsageError
from pipelines.runtime.outcome import Exit
from pipelines.runtime.run import lock_output
from pipelines.storage.folder import Folder
from tests.support import datasets, evaluation_jobs

_LINK = re.compile(r'(?:href|src)="([^"#]+)"')
_TEAM = "http://127.0.0.1:9"  # nothing listens there: a demo that used it would fail


def settings(data: Path) -> dict[str, dict[str, object]]:
    prepared = datasets.config(data, Path("/nowhere"))
    shards = {name: getattr(prepared, name) for name in ("recipes", "codec", "shards", "actors")}
    shards["recipes"] = replace(prepared.recipes, test_per_category=2)
    train = {
        "generator": GeneratorConfig(dim=8, layers=1, heads=2, output="correction"),
        "discriminator": DiscriminatorConfig(windows=(128, 512)),
        "gan": GanConfig(batch_size=2),
        "fit": FitConfig(epochs=1, epoch_examples=12, checkpoint_steps=3, validation_examples=3),
        "workers": WorkersConfig(count=2, gpu=False, cpus=1),
        "listening_examples": 1,
    }
    evaluate = {"limit": 4, "rtf_runs": 1, "bootstrap_resamples": 100, "listening_items": 1, "scorers": 2}
    return {"preprocess": shards, "train": train, "evaluate": evaluate}


def read_commands(page: str) -> list[str]:
    """Give the lines of the page's commands."""
    return html.unescape(re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)[-1]).strip().splitlines()


def test_demo_restores_songs_and_runs_every_job_once(
    ray_address: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _TEAM)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = tmp_path / "a demo"
    config = DemoConfig(output=str(output), data=(str(data),), songs=1, song_seconds=3.0)
    outcome = run_demo(config, settings(data))
    assert outcome.code == Exit.DONE, outcome.message
    assert os.environ["MLFLOW_TRACKING_URI"] == _TEAM
    told = json.loads((output / "result.json").read_text())
    assert (told["status"], told["page"]) == ("done", str(output / "index.html"))
    evaluation, restored = "evaluation/apollo-v1", "restored/apollo-v1"
    results = {
        name: json.loads((output / name / "result.json").read_text())
        for name in ("shards", "run", "decision/apollo-v1", evaluation, restored)
    }
    assert {result["status"] for result in results.values()} == {"done"}
    assert results["run"]["registered"] == "models:/apollo/1"
    assert results["decision/apollo-v1"]["reasons"]
    assert {row["model"] for row in evaluation_jobs.rows(output / evaluation)} == {"untouched", "apollo-v1"}
    with monkeypatch.context() as told_where:
        told_where.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{output}/mlflow.db")
        assert checkpoint.load("models:/apollo/1").config.dim == 8
    (song,) = (output / "songs").glob("*.mp3")
    made = soundfile.info(output / restored / f"{song.stem}.flac")
    assert (made.frames, made.samplerate) == (132_300, 44_100)

    page = (output / "index.html").read_text()
    links = [unquote(link) for link in _LINK.findall(page)]
    reports = {f"{part}/report.html" for part in (evaluation, "decision/apollo-v1", "shards")}
    assert {*reports, f"{evaluation}/figure2.png", f"{restored}/{song.stem}.flac"} <= set(links)
    assert [link for link in links if not (output / link).exists()] == []
    for sentence in results[evaluation]["verdicts"]:
        assert sentence.split(":")[0] in page
    champion = results["decision/apollo-v1"]["champion"]
    commands = [shlex.split(line, comments=True) for line in read_commands(page)]
    assert commands[0] == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{output}/mlflow.db"]
    assert commands[1] == ["export", f"MLFLOW_TRACKING_URI=sqlite:///{output}/mlflow.db"]
    name = f"models:/apollo@{'champion' if champion else 'candidate'}"
    assert [name in command for command in commands[2:]] == [True, True]

    before = evaluation_jobs.states(output)
    assert run_demo(config, settings(data)).code == Exit.DONE
    after = evaluation_jobs.states(output)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    pictures = {path.name for path in (output / "pictures").iterdir()}
    assert {Path(name).name for name in changed} <= {"result.json", "index.html", "mlflow.db", *pictures}


def test_a_locked_demo_is_left_alone_and_a_misconfigured_one_told(data: Path, tmp_path: Path) -> None:
    config = DemoConfig(output=str(tmp_path / "demo"), data=(str(data),))
    with lock_output(Folder(config.output)):
        held = run_demo(config, settings(data))
    assert (held.code, "another run" in held.message) == (Exit.USAGE, True)
    assert evaluation_jobs.states(tmp_path / "demo") == {}
    wrong = run_demo(config, settings(data) | {"evaluate": {"limit": 0}})
    assert (wrong.code, "limit is 0" in wrong.message) == (Exit.USAGE, True)
    assert set(evaluation_jobs.states(tmp_path / "demo")) == {"result.json"}


def test_interrupted_demo_writes_its_status(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(run, "preprocess", lambda config: os.kill(os.getpid(), signal.SIGTERM))
    config = DemoConfig(output=str(tmp_path / "demo"), data=(str(data),))
    assert run_demo(config, settings(data)).code == Exit.INTERRUPTED
    told = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert (told["status"], told["exit_code"]) == ("interrupted", 130)
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_output_must_be_a_local_folder() -> None:
    with pytest.raises(UsageError, match="must be a local folder"):
        DemoConfig(output="s3://bucket/demo")
    with pytest.raises(UsageError, match="song_seconds"):
        DemoConfig(song_seconds=0)
