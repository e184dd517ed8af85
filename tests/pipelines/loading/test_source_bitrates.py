"""Bitrates of lossy sources: values worked out by hand, and no degradation drawn that is not below them."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from apollo.training.augmentation import LevelsConfig
from apollo.training.example_file import ExampleFileSource, ExampleFileValidation
from pipelines import schema
from pipelines.dataset.shards import ShardCommit, commit_shard, encode_shard, sha256_hex
from pipelines.dataset.split import CommittedSplit
from pipelines.loading.config import LoaderConfig
from pipelines.loading.export import ExportConfig, export
from pipelines.loading.shard_source import ShardSource, ValidationSource
from pipelines.loading.source_bitrates import read_row_bitrates, read_source_bitrates, usable_degradations
from pipelines.storage.folder import Folder
from pipelines.storage.parquet import parquet_bytes
from tests.support import shard_outputs

NAMES = shard_outputs.DEGRADATIONS  # 24, 64 and 128 kbps
SOURCES = {"whole": None, "low": 64_000, "high": 100_000}  # bitrates of the lossy ones
COMPONENTS = (["whole"], ["low"], ["whole", "high"], ["high", "low"])  # of rows 0 to 3


def _components(row: int) -> list[dict[str, Any]]:
    names = COMPONENTS[row]
    return [{"stem": "bass", "source_id": name, "start": 0, "gain_db": 0.0} for name in names]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train shards 0 and 1 of two rows, the first of shard 1 rejected, and a valid shard of all four."""
    folder = tmp_path_factory.mktemp("bitrates")
    output = Folder(str(folder))
    sources = [
        {
            "source_id": name,
            "lossy": bitrate is not None,
            "files": [
                {"size": (bitrate or 9) * 10 // 8, "frames": 441_000},  # 10 s
                {"size": 10**9, "frames": 441_000},
            ],
        }
        for name, bitrate in SOURCES.items()
    ]
    output.write("sources.parquet", parquet_bytes(pa.Table.from_pylist(sources, schema.SOURCES)))
    recipes = []
    for split, shard, rows in (("train", 0, (0, 1)), ("train", 1, (2, 3)), ("valid", 0, (0, 1, 2, 3))):
        made = [shard_outputs.make_row(split, shard, row, components=_components(row)) for row in rows]
        recipes += [{**row, "shard": shard} for row in made]
        if shard:
            _commit_without_first(output, made)
        else:
            shard_outputs.write_shard(folder, split, shard, made)
    output.write("recipes.parquet", parquet_bytes(pa.Table.from_pylist(recipes, schema.RECIPES)))
    return folder


def _commit_without_first(output: Folder, rows: list[dict[str, Any]]) -> None:
    content = encode_shard(rows[1:], NAMES, 2)
    rejected = [{"recipe_id": rows[0]["recipe_id"], "reason": "silent", "kind": "silent"}]
    bitrates = {name: [bitrate] for name, bitrate in zip(NAMES, shard_outputs.BITRATES, strict=True)}
    commit = ShardCommit(
        split="train",
        shard=1,
        rows=len(rows) - 1,
        bytes=len(content),
        sha256=sha256_hex(content),
        rejected=rejected,
        bitrates_bps=bitrates,
    )
    commit_shard(output, content, commit)


def _drawn(source: Any, reads: int, epochs: int = 1) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for epoch in range(epochs):
        for example in source.read(epoch, range(reads)):
            recipe, _, degradation = example.name.partition("/")
            found.setdefault(recipe, set()).add(degradation)
    return found


@pytest.mark.parametrize(
    "bitrate_bps, expected",
    [(math.inf, NAMES), (128_001, NAMES), (128_000, NAMES[:2]), (64_000, NAMES[:1]), (8_000, NAMES[:1])],
)
def test_degradations_below_the_bitrate_are_usable_and_the_lowest_always(
    bitrate_bps: float, expected: tuple[str, ...]
) -> None:
    assert tuple(usable_degradations(NAMES, bitrate_bps)) == expected
    assert list(usable_degradations(NAMES[::-1], bitrate_bps)) == list(expected)[::-1]


def test_degradation_without_a_bitrate_is_always_usable() -> None:
    assert usable_degradations(["mp3_64000", "tape"], 64_000) == ["tape"]


def test_bitrates_are_those_of_the_files_and_of_lossy_sources_alone(output: Path) -> None:
    assert read_source_bitrates(Folder(str(output))) == {"low": 64_000, "high": 100_000}


def test_rows_have_the_lowest_bitrate_of_their_sources_whatever_was_rejected(output: Path) -> None:
    folder = Folder(str(output))
    assert read_row_bitrates(folder, CommittedSplit(str(output), "train", ())) == {
        (0, 1): 64_000,
        (1, 0): 64_000,
    }
    valid = read_row_bitrates(folder, CommittedSplit(str(output), "valid", ()))
    assert valid == {(0, 1): 64_000, (0, 2): 100_000, (0, 3): 64_000}


def test_rows_are_drawn_with_degradations_below_their_sources(output: Path) -> None:
    limited = _drawn(ShardSource(str(output), epoch_examples=60), 60)
    assert limited == {"train.0.0": set(NAMES), "train.0.1": {NAMES[0]}, "train.1.3": {NAMES[0]}}
    free = LoaderConfig(below_source_bitrate=False)
    assert set(map(frozenset, _drawn(ShardSource(str(output), free, epoch_examples=60), 60).values())) == {
        frozenset(NAMES)
    }


def test_validation_has_degradations_below_its_sources(output: Path) -> None:
    found = _drawn(ValidationSource(str(output)), 4)
    assert found == {
        "valid.0.0": {NAMES[0]},
        "valid.0.1": {NAMES[0]},
        "valid.0.2": {NAMES[0]},  # example 2 of two usable ones
        "valid.0.3": {NAMES[0]},
    }
    assert _drawn(ValidationSource(str(output), LoaderConfig(below_source_bitrate=False)), 3) == {
        f"valid.0.{row}": {NAMES[row]} for row in range(3)
    }


def test_exported_examples_have_the_same_ones(output: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "x.pt")
    export(ExportConfig(data=str(output), file=path, examples=3, valid=4))
    found = _drawn(ExampleFileSource(path, LevelsConfig(), epoch_examples=60), 60)
    assert found == {"train.0.0": set(NAMES), "train.0.1": {NAMES[0]}, "train.1.3": {NAMES[0]}}
    assert _drawn(ExampleFileValidation(path), 4) == _drawn(ValidationSource(str(output)), 4)
    stored = torch.load(path, weights_only=True)
    assert stored["valid"]["usable"].tolist() == [
        [True, True, True],
        [True, False, False],
        [True, True, False],
        [True, False, False],
    ]
    only = ExampleFileSource(path, epoch_examples=9, degradations=NAMES[1:])
    assert _drawn(only, 60)["train.0.1"] == {NAMES[1]}  # the lowest of those requested


def test_output_without_its_plan_has_no_known_bitrates(
    output: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard_outputs.write(tmp_path, 2)
    assert read_row_bitrates(Folder(str(tmp_path)), CommittedSplit(str(tmp_path), "train", ())) == {}
    assert "no sources.parquet: bitrates of lossy sources are not known" in caplog.text
