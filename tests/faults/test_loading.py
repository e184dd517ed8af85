"""Faults 20 to 22, the loader's half: workers come and go, counts are uneven, shards are damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from apollo.training.data import Example
from pipelines import schema
from pipelines.audio import codec
from pipelines.dataset.bad_rows import CorruptDataError, Reject
from pipelines.loading.config import LoaderConfig
from pipelines.loading.shard_source import ShardSource, ValidationSource
from tests.support import shard_outputs

ROWS = {0: 4, 1: 3, 2: 4, 3: 0, 4: 4}
TOTAL = sum(ROWS.values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard_outputs.write(tmp_path_factory.mktemp("whole"), *ROWS.values())


@pytest.fixture
def output(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "shards")


def _source(output: Path, **changes: object) -> ShardSource:
    config = {"window_shards": 2, "look_ahead": 2, "max_corrupt_share": 0.5} | changes
    return ShardSource(str(output), LoaderConfig(**config), epoch_examples=TOTAL, seed=2)


def _read(source: ShardSource, workers: int, first: int, last: int) -> list[Example]:
    """Let so many workers read positions, and put together what they read."""
    shares = [list(source.read(0, range(first + rank, last, workers))) for rank in range(workers)]
    return [shares[place % workers][place // workers] for place in range(last - first)]


def _same(first: list[Example], second: list[Example]) -> bool:
    return [e.name for e in first] == [e.name for e in second] and all(
        torch.equal(a.clean, b.clean) and torch.equal(a.degraded, b.degraded)
        for a, b in zip(first, second, strict=True)
    )


def test_20_four_two_and_four_workers_see_the_order_of_one(whole: Path) -> None:
    alone = _read(_source(whole), 1, 0, 28)
    elastic = [
        example
        for workers, first, last in ((4, 0, 9), (2, 9, 17), (4, 17, 28))
        for example in _read(_source(whole), workers, first, last)
    ]
    assert _same(elastic, alone)
    assert {e.name.partition("/")[0] for e in elastic[:TOTAL]} == shard_outputs.ids(ROWS)


@pytest.mark.parametrize("workers", [3, 4, 7, 16])
def test_21_remainders_and_more_workers_than_rows_lose_nothing(whole: Path, workers: int) -> None:
    """15 rows, one shard empty: no number of workers divides them, and 16 are more than there are."""
    source = _source(whole)
    assert _same(_read(source, workers, 0, TOTAL), _read(source, 1, 0, TOTAL))
    shares = [len(list(source.read(0, range(rank, TOTAL, workers)))) for rank in range(workers)]
    assert sum(shares) == TOTAL and max(shares) - min(shares) <= 1


def test_21_workers_may_ask_for_more_than_there_is(whole: Path) -> None:
    """So that all of them make as many steps: after a pass comes the next."""
    assert all(len(list(_source(whole).read(0, range(rank, 32, 8)))) == 4 for rank in range(8))


def _damage(output: Path, kind: str) -> set[str]:
    """Damage a shard or a row; give the rows that are lost."""
    path = output / schema.shard_path("train", 1)
    if kind == "gone":
        path.unlink()
        return shard_outputs.ids(ROWS) & {f"train.1.{row}" for row in range(3)}
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
        return {f"train.1.{row}" for row in range(3)}
    if kind == "footer":
        content = bytearray(path.read_bytes())
        content[-200:-100] = bytes(100)
        path.write_bytes(content)
        return {f"train.1.{row}" for row in range(3)}
    if kind == "checksum":  # in the clean column of the first row group, which holds two rows
        content = bytearray(path.read_bytes())
        content[content.find(shard_outputs.excerpt(1)["clean"]) + 5_000] ^= 1
        path.write_bytes(content)
        return {"train.1.0", "train.1.1"}
    changes: dict[str, object] = {
        "undecodable": {"clean": b"fLaC" + bytes(500)},
        "empty": dict.fromkeys(shard_outputs.DEGRADATIONS, b""),
        "short": {**shard_outputs.excerpt(0, seconds=1.0)},
        "another length": {
            name: shard_outputs.excerpt(0, seconds=1.0)[name] for name in shard_outputs.DEGRADATIONS
        },
        "gain": {f"{name}_gain": float("nan") for name in shard_outputs.DEGRADATIONS},
        "no gain": {f"{name}_gain": None for name in shard_outputs.DEGRADATIONS},
    }[kind]
    rows = [shard_outputs.make_row("train", 1, row, **(changes if row == 1 else {})) for row in range(3)]
    shard_outputs.write_shard(output, "train", 1, rows)
    return {"train.1.1"}


KINDS = [
    "gone", "truncated", "footer", "checksum", "undecodable", "empty", "short", "another length", "gain",
    "no gain",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_22_corrupt_rows_stop_the_run_with_their_name_and_reason(output: Path, kind: str) -> None:
    lost = _damage(output, kind)
    with pytest.raises(CorruptDataError, match=r"Run preprocess on .* again") as caught:
        list(_source(output).read(0, range(TOTAL)))
    assert "train-00001" in str(caught.value)
    if kind not in ("gone", "truncated", "footer"):
        assert any(name in str(caught.value) for name in lost)


@pytest.mark.parametrize("kind", KINDS)
def test_22_corrupt_rows_are_skipped_listed_once_and_alike_for_all_workers(
    output: Path, whole: Path, kind: str
) -> None:
    sound = _read(_source(whole), 1, 0, 2 * TOTAL)
    lost = _damage(output, kind)
    heard: list[Reject] = []
    source = ShardSource(
        str(output),
        LoaderConfig(window_shards=2, corrupt="skip", max_corrupt_share=0.5),
        epoch_examples=TOTAL,
        seed=2,
        on_reject=heard.append,
    )
    alone = _read(source, 1, 0, 2 * TOTAL)
    assert source.rejects == heard
    listed = [name for name, *_ in source.rejects]
    assert len(set(listed)) == len(listed)
    assert set(listed) == ({"train-00001"} if kind in ("gone", "truncated", "footer") else lost)
    for workers in (2, 3):
        assert _same(_read(_source(output, corrupt="skip"), workers, 0, 2 * TOTAL), alone)
    expected = [example.name for example in sound] + [example.name for example in sound]
    for place, example in enumerate(alone[:TOTAL]):
        later = next(name for name in expected[place:] if name.partition("/")[0] not in lost)
        assert example.name == later


def test_22_decoded_samples_that_are_no_numbers_are_corrupt(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = codec.decode

    def decode_badly(stream: bytes, *, frames: int, piece: slice | None = None) -> NDArray[np.float32]:
        samples = decode(stream, frames=frames, piece=piece)
        samples[-1] = np.inf if stream == shard_outputs.excerpt(0)["mp3_64000"] else samples[-1]
        return samples

    monkeypatch.setattr(codec, "decode", decode_badly)
    with pytest.raises(CorruptDataError, match="mp3_64000 contains non-finite samples"):
        list(_source(output, degradations=("mp3_64000",)).read(0, range(TOTAL)))
    with pytest.raises(CorruptDataError, match="mp3_64000 contains non-finite samples"):
        list(ValidationSource(str(output), split="train").read(0, range(TOTAL)))


def test_22_damage_in_one_degradation_costs_only_the_examples_that_drew_it(output: Path) -> None:
    """Which rows are lost must not depend on what else a worker reads from the row group."""
    path = output / schema.shard_path("train", 0)
    content = bytearray(path.read_bytes())
    content[content.find(shard_outputs.excerpt(0)["mp3_24000"]) + 5_000] ^= 1
    path.write_bytes(content)
    alone = _read(_source(output, corrupt="skip"), 1, 0, 4 * TOTAL)
    for workers in (2, 5):
        assert _same(_read(_source(output, corrupt="skip"), workers, 0, 4 * TOTAL), alone)
    names = {example.name for example in alone if example.name.startswith("train.0.0")}
    assert names and "train.0.0/mp3_24000" not in names
    unharmed = ShardSource(
        str(output), LoaderConfig(degradations=("mp3_64000",)), epoch_examples=TOTAL, seed=2
    )
    assert len(list(unharmed.read(0, range(TOTAL)))) == TOTAL


def test_22_too_many_corrupt_rows_stop_the_run_whatever_the_policy(output: Path) -> None:
    _damage(output, "checksum")
    with pytest.raises(CorruptDataError, match=r"2 of 15 rows .*max_corrupt_share 0.1"):
        list(_source(output, corrupt="skip", max_corrupt_share=0.1).read(0, range(TOTAL)))


def test_22_lost_shards_beyond_the_limit_stop_the_run_before_it_begins(output: Path) -> None:
    _damage(output, "gone")
    with pytest.raises(CorruptDataError, match="3 of 15 rows"):
        _source(output, corrupt="skip", max_corrupt_share=0.1)


def test_22_no_sound_row_at_all_ends_with_an_error(tmp_path: Path) -> None:
    rows = [shard_outputs.make_row("train", 0, row, clean=b"nothing") for row in range(2)]
    shard_outputs.write_shard(tmp_path, "train", 0, rows)
    with pytest.raises(CorruptDataError):
        list(_source(tmp_path, corrupt="skip", max_corrupt_share=0.99).read(0, range(2)))


def test_22_storage_that_fails_is_no_corrupt_row(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other workers may not see such an error, so nothing may be skipped for it."""
    from pipelines.storage import parquet

    def fail(stream: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(parquet, "open_file", fail)
    source = _source(output, corrupt="skip")
    with pytest.raises(OSError, match="Input/output"):
        list(source.read(0, range(TOTAL)))
    assert source.rejects == []


def test_22_storage_that_fails_once_is_asked_again(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.storage import parquet

    opened, failed = parquet.open_file, []

    def fail_once(stream: object, **options: bool) -> object:
        if not failed:
            failed.append(True)
            raise OSError(5, "Input/output error")
        return opened(stream, **options)

    monkeypatch.setattr(parquet, "open_file", fail_once)
    assert len(list(_source(output).read(0, range(TOTAL)))) == TOTAL
    assert failed


def test_22_corrupt_validation_rows_follow_the_same_policy(tmp_path: Path) -> None:
    rows = [
        shard_outputs.make_row("valid", 0, row, **({"clean": b"x"} if row == 1 else {})) for row in range(4)
    ]
    shard_outputs.write_shard(tmp_path, "valid", 0, rows)
    with pytest.raises(CorruptDataError, match=r"valid\.0\.1"):
        list(ValidationSource(str(tmp_path)).read(0, range(4)))
    source = ValidationSource(str(tmp_path), LoaderConfig(corrupt="skip", max_corrupt_share=0.3))
    names = [example.name.partition("/")[0] for example in source.read(0, range(4))]
    assert names == ["valid.0.0", "valid.0.2", "valid.0.2", "valid.0.3"]
    assert [name for name, *_ in source.rejects] == ["valid.0.1"]
