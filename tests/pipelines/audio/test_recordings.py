"""Real recordings in all three layouts go through with nothing lost."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.run import preprocess
from pipelines.preprocess.sources import SourcesConfig
from pipelines.runtime.outcome import Exit
from tests.support import invariants
from tests.support.datasets import config


def test_real_recordings_in_all_layouts_are_complete(
    in_process_actors: None, recordings: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, str(recordings / "unpack.py"), str(tmp_path / "data")], check=True)
    outcome = preprocess(
        config(
            tmp_path / "data",
            tmp_path / "shards",
            recipes=RecipesConfig(train=40, valid=8, test_per_category=4),
            sources=SourcesConfig(allow_lossy=True),
        )
    )
    assert outcome.code == Exit.DONE, outcome.message
    assert invariants.check(tmp_path / "shards") == {}
    rows = pq.read_table(tmp_path / "shards" / "sources.parquet").to_pylist()
    assert {row["dataset"] for row in rows} == {"musdb18hq", "moisesdb", "data"}
    caesium = {row["group_id"] for row in rows if row["title"] == "Caesium"}
    assert len(caesium) == 1, "the AAC copy of a song is the same recording"
    assert {row["left_out"] for row in rows} == {None, "silent"}
    assert {row["split"] for row in rows if row["title"] == "Potassium"} == {"test"}
