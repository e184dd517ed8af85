"""The exported file: the first examples of the training order, whole or absent, as good as the shards."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from apollo.training.augmentation import LevelsConfig
from apollo.training.example_file import ExampleFileSource, ExampleFileValidation
from pipelines.audio import codec
from pipelines.dataset.bad_rows import CorruptDataError
from pipelines.dataset.sampling import ShuffledOrder
from pipelines.errors import UsageError
from pipelines.loading.config import LoaderConfig
from pipelines.loading.export import ExportConfig, export
from pipelines.loading.shard_source import ShardSource, ValidationSource
from pipelines.storage.atomic import temporary_files
from tests.support import shard_outputs

ROOT = Path(__file__).parents[3]
LOADER = LoaderConfig(window_shards=2)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shard_outputs.write(tmp_path_factory.mktemp("export"), 3, 0)
    rows = [shard_outputs.make_row("train", 2, row, bandwidth_hz=(None, 17_000)[row % 2]) for row in range(4)]
    shard_outputs.write_shard(folder, "train", 2, rows)
    return shard_outputs.write(folder, 3, split="valid")


@pytest.fixture(scope="module")
def file(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "examples.pt"
    export(ExportConfig(data=str(output), file=str(path), examples=5, valid=2, seed=4, loader=LOADER))
    return path


def test_names_are_the_first_of_the_training_order(file: Path) -> None:
    stored = torch.load(file, weights_only=True, mmap=True)
    order = ShuffledOrder([3, 0, 4], seed=4, window_shards=2)
    assert stored["names"] == [shard_outputs.recipe_id("train", *order.at(k)[1:]) for k in range(5)]
    assert stored["valid"]["names"] == ["valid.0.0", "valid.0.1"]
    assert stored["degradations"] == stored["valid"]["degradations"] == list(shard_outputs.DEGRADATIONS)
    assert (stored["format"], stored["sample_rate"]) == (2, 44_100)
    assert stored["clean"].dtype == stored["degraded"].dtype == torch.int16


def test_clean_is_exact_and_degraded_within_half_a_step(file: Path) -> None:
    stored = torch.load(file, weights_only=True, mmap=True)
    for number, name in enumerate(stored["names"]):
        row = shard_outputs.make_row("train", *map(int, name.split(".")[1:]))
        clean = codec.decode(row["clean"], frames=row["frames"]).T
        assert np.array_equal(stored["clean"][number].numpy() / np.float32(32_768), clean)
        for kind, degradation in enumerate(shard_outputs.DEGRADATIONS):
            decoded = codec.decode(row[degradation], frames=row["frames"]).T / row[f"{degradation}_gain"]
            step = stored["steps"][number, kind].item()
            given = stored["degraded"][number, kind].numpy() * step
            assert step == pytest.approx(np.abs(decoded).max() / 32_767, rel=1e-5)
            np.testing.assert_allclose(given, decoded, atol=0.51 * step)
            assert stored["gains"][number, kind] == pytest.approx(row[f"{degradation}_gain"])


def test_exported_examples_are_those_of_the_shards(output: Path, file: Path) -> None:
    """Levels and augmentation are one implementation: with as many draws alike, the pairs are alike."""
    levels = LevelsConfig(level_db=(0, 0), polarity_share=0, swap_share=0)
    names = {name.partition("/")[0] for name in torch.load(file, weights_only=True)["names"]}
    config = LoaderConfig(degradations=("mp3_64000",), levels=levels)
    shards = {e.name: e for e in ShardSource(str(output), config, epoch_examples=7).read(0, range(7))}
    exported = ExampleFileSource(file, levels, epoch_examples=5, degradations=("mp3_64000",))
    for example in exported.read(0, range(5)):
        assert example.name.partition("/")[0] in names
        torch.testing.assert_close(example.clean, shards[example.name].clean, atol=1e-6, rtol=0)
        torch.testing.assert_close(example.degraded, shards[example.name].degraded, atol=4e-5, rtol=0)
        assert example.bandwidth_hz == shards[example.name].bandwidth_hz
    assert {example.bandwidth_hz for example in shards.values()} == {math.inf, 17_000}


def test_exported_validation_is_that_of_the_shards(output: Path, file: Path) -> None:
    shards, exported = ValidationSource(str(output)).read(0, range(2)), ExampleFileValidation(file)
    for ours, theirs in zip(exported.read(0, range(len(exported))), shards, strict=True):
        assert ours.name == theirs.name
        assert torch.equal(ours.clean, theirs.clean)
        torch.testing.assert_close(ours.degraded, theirs.degraded, atol=4e-5, rtol=0)


def test_command_writes_the_same_file(output: Path, file: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs/export.py"), "--data", str(output)]
    options = ["--examples", "5", "--valid", "2", "--seed", "4", "--loader.window_shards", "2"]
    target = tmp_path / "here" / "examples.pt"
    subprocess.run([*command, "--file", str(target), *options], check=True, cwd=ROOT)
    first, second = torch.load(file, weights_only=True), torch.load(target, weights_only=True)
    assert first["names"] == second["names"]
    assert torch.equal(first["degraded"], second["degraded"])
    for wrong in ("99", "many"):  # more than there are, and not a number
        refused = subprocess.run([*command, f"--file={target}", "--examples", wrong], check=False, cwd=ROOT)
        result = json.loads(target.with_name("examples.pt.result.json").read_text())
        assert (refused.returncode, result["exit_code"], result["status"]) == (2, 2, "usage")
        assert wrong in result["message"]


def test_more_examples_than_available_is_an_error_and_writes_no_file(output: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="7 of these examples, 8 were requested"):
        export(ExportConfig(data=str(output), file=str(tmp_path / "x.pt"), examples=8))
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_file_before(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"before")

    def fail(content: object, stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        export(ExportConfig(data=str(output), file=str(path), examples=1, valid=0))
    assert path.read_bytes() == b"before"
    assert not list(temporary_files(str(tmp_path)))


def test_corrupt_rows_stop_or_are_left_out(tmp_path: Path) -> None:
    rows = [
        shard_outputs.make_row("train", 0, row, **({"mp3_24000": b"x"} if row == 1 else {}))
        for row in range(3)
    ]
    shard_outputs.write_shard(tmp_path, "train", 0, rows)
    config = {"data": str(tmp_path), "file": str(tmp_path / "x.pt"), "examples": 2, "valid": 0}
    for seed in range(3):  # so that some order meets the row among its first two
        skipping = LoaderConfig(corrupt="skip", max_corrupt_share=0.5)
        export(ExportConfig(**config, seed=seed, loader=skipping))
        assert set(torch.load(tmp_path / "x.pt", weights_only=True)["names"]) == {"train.0.0", "train.0.2"}
    with pytest.raises(CorruptDataError, match=r"train\.0\.1"):
        export(ExportConfig(**(config | {"examples": 3})))
    with pytest.raises(UsageError, match="2 valid examples, 3 were requested"):
        export(ExportConfig(**(config | {"examples": 3}), loader=skipping))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"data": ""}, "--data"),
        ({"file": ""}, "--file"),
        ({"file": "s3://bucket/x.pt"}, "a path on this machine"),
        ({"examples": 0}, "examples is 0"),
        ({"valid": -1}, "valid -1"),
    ],
)
def test_configuration_that_makes_no_sense_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ExportConfig(**({"data": "/data", "file": "/x.pt"} | wrong))
