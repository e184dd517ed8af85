"""The README's road through `ray job submit`: shards, training, decision, restored songs, a job each."""

import json
from pathlib import Path

import pytest
import soundfile

from tests.support import datasets, evaluation_jobs, ray_heads
from tests.support.training_jobs import training

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_every_part_of_the_road_is_a_job(data: Path, tmp_path: Path) -> None:
    home, road = tmp_path / "home", tmp_path / "road"
    home.mkdir()
    shards, run, uri = road / "shards", road / "run", f"sqlite:///{road}/mlflow.db"
    song = datasets.write(tmp_path / "songs" / "song.wav", datasets.music(5, seconds=3.0))
    datasets.encode(song, tmp_path / "mp3" / "song.mp3", "-b:a", "64k")
    tracking = ["--tracking.uri", uri]
    few = ["--limit", "3", "--rtf_runs", "1", "--bootstrap_resamples", "100", "--listening_items", "1"]
    jobs = {
        "preprocess": datasets.arguments(data, shards),
        "train": [*training(shards, run), *tracking],
        "evaluate": [
            *(
                "--data",
                str(shards),
                "--output",
                str(road / "decision"),
                "--split",
                "valid",
                "--promote",
                "true",
            ),
            *(*few, *tracking),
        ],
        "restore": [
            *("--data", str(tmp_path / "mp3"), "--output", str(road / "restored")),
            *("--checkpoint", "models:/apollo@champion", "--format", "flac16"),
        ],
    }
    settings = json.dumps({"env_vars": {"MLFLOW_TRACKING_URI": uri, "XDG_CACHE_HOME": str(home / "cache")}})
    options = ("--working-dir", ".", "--runtime-env-json", settings)
    with ray_heads.head(home, cpus=4) as environment:
        for name, job in jobs.items():
            done = ray_heads.submit(environment, *options, script=f"jobs/{name}.py", job=job, seconds=600)
            assert done.returncode == 0, done.stdout + done.stderr
    for part in ("shards", "run", "decision", "restored"):
        assert json.loads((road / part / "result.json").read_text())["exit_code"] == 0
    decision = json.loads((road / "decision" / "result.json").read_text())
    assert decision["reasons"]
    assert {row["model"] for row in evaluation_jobs.rows(road / "decision")} == {"untouched", "apollo-v1"}
    assert soundfile.info(road / "restored" / "song.flac").frames == 132_300
