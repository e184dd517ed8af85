"""Faults of preprocess with AAC, Opus, Vorbis, a filter and a chain; their shards are loaded and scored."""

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from apollo.training.augmentation import LevelsConfig
from pipelines.audio.codec import CodecConfig
from pipelines.dataset.plan import planned_shards
from pipelines.evaluation.items import EvaluationItem
from pipelines.evaluation.shard_items import ShardItems
from pipelines.loading.config import LoaderConfig
from pipelines.loading.shard_source import ShardSource, ValidationSource
from pipelines.preprocess import run
from pipelines.preprocess.run import preprocess
from pipelines.runtime.outcome import Exit
from tests.support import invariants
from tests.support.datasets import arguments, config

NAMES = ("mp3_24000", "aac_64000", "opus_48000", "vorbis_64000", "bits_8", "mp3_64000>aac_96000")
COLUMNS = tuple(name.replace(">", "-") for name in NAMES)
CODEC = CodecConfig(degradations=NAMES)


@pytest.fixture(scope="module")
def whole(ray_address: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("degradations") / "shards"
    outcome = preprocess(config(data, output, codec=CODEC))
    assert outcome.code == Exit.DONE, outcome.message
    invariants.check(output)
    return output


def _start(data: Path, output: Path, address: str) -> "subprocess.Popen[bytes]":
    options = arguments(data, output, "--codec.degradations", json.dumps(list(NAMES)))
    command = [sys.executable, "jobs/preprocess.py", *options]
    environment = os.environ | {"RAY_ADDRESS": address}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_36_actors_in_any_order_give_the_same_bytes_of_every_codec(
    ray_address: str, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "planned_shards", lambda plan: planned_shards(plan)[::-1])
    output = tmp_path / "shards"
    assert preprocess(config(data, output, codec=CODEC, actors=1)).code == Exit.DONE
    invariants.check(output, whole)


def test_36_a_driver_killed_while_other_codecs_encode_loses_nothing(
    ray_address: str, data: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    process = _start(data, output, ray_address)
    end = time.monotonic() + 180
    while len(list(output.glob("commits/*.json"))) < 3:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait(30)
    assert not (output / "manifest.jsonl").exists()
    assert preprocess(config(data, output, codec=CODEC)).code == Exit.DONE
    invariants.check(output, whole)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_36_a_driver_killed_again_and_again_loses_nothing(
    ray_address: str, data: Path, whole: Path, tmp_path: Path
) -> None:
    output, draw = tmp_path / "shards", random.Random(2)
    for _ in range(8):
        process = _start(data, output, ray_address)
        time.sleep(draw.uniform(0.5, 9.0))
        process.kill()
        process.wait(30)
    assert preprocess(config(data, output, codec=CODEC)).code == Exit.DONE
    invariants.check(output, whole)


def test_36_another_set_of_degradations_is_refused_and_named(whole: Path, data: Path) -> None:
    before = invariants.times(whole)
    other = CodecConfig(degradations=(*NAMES, "bits_6"))
    outcome = preprocess(config(data, whole, codec=other))
    assert outcome.code == Exit.USAGE
    assert "config.codec.degradations" in outcome.message
    lacking = CodecConfig(degradations=("heaac_32000",))
    outcome = preprocess(config(data, whole, codec=lacking))
    assert outcome.code == Exit.USAGE
    assert "heaac_32000 needs ffmpeg's encoder libfdk_aac" in outcome.message
    after = invariants.times(whole)
    assert {name: after[name] for name in before if name != "result.json"} == {
        name: time for name, time in before.items() if name != "result.json"
    }


def test_36_the_report_and_the_commits_know_every_degradation(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_text())
    rates = report["real_bitrates_bps"]
    assert set(rates) == set(COLUMNS)
    assert rates["bits_8"] == [] and rates["mp3_24000"] == [32_000]
    assert all(30_000 < rate < 130_000 for name in COLUMNS if name != "bits_8" for rate in rates[name])
    page = (whole / "report.html").read_text()
    assert all(f"data:audio/{kind};" in page for kind in ("mpeg", "mp4", "ogg", "flac"))
    row = pq.read_table(whole / "train" / "shard-00000.parquet").to_pylist()[0]
    assert row["bits_8_bitrate_bps"] is None and row["aac_64000_bitrate_bps"] > 0


def test_36_every_degradation_is_loaded_by_its_weight(whole: Path) -> None:
    weights = {name: 0.0 for name in COLUMNS if name not in ("aac_64000", "opus_48000")}
    levels = LevelsConfig(channels="mono")
    loader = LoaderConfig(degradation_weights=weights, piece_seconds=1.0, levels=levels)
    source = ShardSource(str(whole), loader, epoch_examples=24)
    examples = list(source.read(0, range(24)))
    kinds = {example.name.rpartition("/")[2] for example in examples}
    assert kinds == {"aac_64000", "opus_48000"}
    assert all(torch.isfinite(example.degraded).all() for example in examples)
    validation = ValidationSource(str(whole), LoaderConfig())
    assert set(validation.degradations) == set(COLUMNS)
    seen = [one.name.rpartition("/")[2] for one in validation.read(0, range(len(validation)))]
    assert seen == list(validation.degradations[: len(validation)])


def test_36_every_degradation_is_an_item_of_an_evaluation(whole: Path) -> None:
    items = ShardItems(str(whole), "test", (), 2)
    assert {one.name: one.bitrate_bps for one in items.degradations} == {
        "mp3_24000": 24_000,
        "aac_64000": 64_000,
        "opus_48000": 48_000,
        "vorbis_64000": 64_000,
        "bits_8": None,
        "mp3_64000-aac_96000": 64_000,
    }
    for name in COLUMNS:
        (item,) = items.load([0], name)
        assert isinstance(item, EvaluationItem) and item.degraded.shape == item.clean.shape
        error = np.square(item.degraded / item.gain - item.clean).mean() / np.square(item.clean).mean()
        assert 10 * math.log10(float(error)) < -2, name  # noise in the test music costs AAC most
