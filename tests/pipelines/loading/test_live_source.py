"""The live source: recipes of its own in every epoch, the same for any number of workers and actors."""

import itertools
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from apollo import rng
from apollo.training.augmentation import LevelsConfig, find_peak
from apollo.training.data import Example
from pipelines.audio import codec
from pipelines.cluster import actor_pool
from pipelines.dataset.bad_rows import CorruptDataError
from pipelines.errors import UsageError
from pipelines.loading import live_source
from pipelines.loading.config import LoaderConfig
from pipelines.loading.live_source import ExampleMixer, LiveSource
from pipelines.preprocess.mixing import read_sources
from pipelines.storage.folder import Folder

PLAIN = LevelsConfig(mode="paper")


def _source(output: Path, **changes: Any) -> LiveSource:
    given = {"config": LoaderConfig(levels=PLAIN, look_ahead=2), "epoch_examples": 6, "actors": 2} | changes
    return LiveSource(str(output), **given)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let tasks be done in this process, one after the other; gives the blocks' sizes asked for."""
    asked: list[int] = []

    def stream(items: list[Any], worker: type, arguments: tuple[Any, ...], **options: Any) -> Any:
        asked.append(options["block_rows"])
        made = worker(*arguments)
        return (made(item) for item in items)

    monkeypatch.setattr(live_source, "stream_actors", stream)
    return asked


def _names(examples: list[Example]) -> list[str]:
    return [example.name for example in examples]


def _ids(examples: list[Example]) -> list[str]:
    return [example.name.partition("/")[0] for example in examples]


def _planned(undisturbed: Path) -> list[str]:
    recipes = pq.read_table(undisturbed / "recipes.parquet", filters=[("split", "=", "train")])
    return list(recipes["recipe_id"].to_pylist())


@pytest.fixture
def as_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every epoch have the seed of the plan."""
    monkeypatch.setattr(LiveSource, "_recipes_seed", lambda source, epoch: 0)


@pytest.mark.usefixtures("as_planned")
def test_recipes_of_a_seed_are_those_that_preprocess_plans(here: list[int], undisturbed: Path) -> None:
    examples = list(_source(undisturbed).read(0, range(6)))
    assert _ids(examples) == _planned(undisturbed)[:6]


def test_no_epoch_of_any_seed_has_the_recipes_of_another_or_of_the_plan(
    here: list[int], undisturbed: Path
) -> None:
    drawn = [
        [task["recipe_id"] for task in _source(undisturbed, seed=seed)._tasks(epoch, iter(range(6)))]
        for seed in range(3)
        for epoch in range(3)
    ]
    drawn.append(_planned(undisturbed)[:6])
    assert len({tuple(ids) for ids in drawn}) == 10


@pytest.mark.usefixtures("as_planned")
def test_examples_equal_the_shards_rows_of_the_same_recipes(here: list[int], undisturbed: Path) -> None:
    shard = pq.read_table(undisturbed / "train/shard-00000.parquet").to_pylist()
    for example, row in zip(_source(undisturbed).read(0, range(4)), shard, strict=True):
        clean = codec.decode(row["clean"], frames=row["frames"]).T
        degraded = codec.decode(row[example.name.partition("/")[2]], frames=row["frames"]).T
        peak = max(np.abs(clean).max(), np.abs(degraded).max())
        np.testing.assert_allclose(example.clean, clean / peak, atol=1e-6)
        np.testing.assert_allclose(example.degraded, degraded / peak, atol=1e-6)
        assert example.bandwidth_hz == (row["bandwidth_hz"] or math.inf)


def test_examples_know_how_far_their_mix_is_known(
    here: list[int], undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = read_sources(Folder(str(undisturbed)))
    limited = {name: source._replace(bandwidth_hz=500.0) for name, source in known.items()}
    monkeypatch.setattr(live_source, "read_sources", lambda output: limited)
    assert {example.bandwidth_hz for example in _source(undisturbed).read(0, range(4))} == {500.0}


def test_epochs_have_recipes_of_their_own(here: list[int], undisturbed: Path) -> None:
    source = _source(undisturbed)
    epochs = [set(_ids(list(source.read(epoch, range(6))))) for epoch in range(3)]
    assert len(set.union(*epochs)) > 12  # of 18; so small a data set has few whole-song excerpts
    assert epochs[0] != epochs[1] != epochs[2]
    assert {name.partition("/")[2] for name in _names(list(source.read(0, range(12))))} == {
        "mp3_24000",
        "mp3_128000",
    }


def test_levels_are_drawn_as_for_shards(here: list[int], undisturbed: Path) -> None:
    levels = LevelsConfig(level_db=(-30, -10))
    source = _source(undisturbed, config=LoaderConfig(levels=levels), seed=5)
    for place, example in enumerate(source.read(2, range(4))):
        peak = max(find_peak(example.clean), find_peak(example.degraded))
        level_db = -30 + 20 * rng.uniform(2 * 6 + place, 5, "level")
        assert 20 * math.log10(peak) == pytest.approx(level_db, abs=1e-3)


def test_degradations_are_below_the_bitrates_of_lossy_sources(
    here: list[int], undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bitrates = dict.fromkeys(read_sources(Folder(str(undisturbed))), 100_000.0)
    monkeypatch.setattr(live_source, "read_source_bitrates", lambda output: bitrates)
    limited, free = (LoaderConfig(below_source_bitrate=flag, look_ahead=2) for flag in (True, False))
    drawn = [task["degradation"] for task in _source(undisturbed, config=limited)._tasks(0, iter(range(40)))]
    assert set(drawn) == {"mp3_24000"}
    drawn = [task["degradation"] for task in _source(undisturbed, config=free)._tasks(0, iter(range(40)))]
    assert set(drawn) == {"mp3_24000", "mp3_128000"}


def test_pieces_are_cut_as_those_of_shards(here: list[int], undisturbed: Path) -> None:
    config = LoaderConfig(levels=PLAIN, look_ahead=2, piece_seconds=1.5)
    whole = list(_source(undisturbed, seed=5).read(2, range(3)))
    pieces = list(_source(undisturbed, config=config, seed=5).read(2, range(3)))
    for position, (piece, example) in enumerate(zip(pieces, whole, strict=True)):
        starts = [
            rng.integer_below(132_300 - 66_150 + 1, 4 * (2 * 6 + position) + draw, 5, "piece")
            for draw in range(4)
        ]
        cuts = [(example.clean[:, s : s + 66_150], example.degraded[:, s : s + 66_150]) for s in starts]
        scaled = [clean / max(find_peak(clean), find_peak(degraded), 1e-9) for clean, degraded in cuts]
        assert any(torch.allclose(piece.clean, clean, atol=1e-5) for clean in scaled)
        assert piece.name == example.name


def test_workers_and_real_actors_make_what_one_process_makes(
    ray_address: str, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = [
        list(_source(undisturbed, actors=actors).read(1, range(rank, 11, 2)))
        for rank, actors in enumerate((1, 3))
    ]
    monkeypatch.setattr(
        live_source,
        "stream_actors",
        lambda items, worker, arguments, **options: map(worker(*arguments), items),
    )
    monkeypatch.setattr(live_source, "closing", lambda made: _Nothing())
    alone = list(_source(undisturbed).read(1, range(11)))
    for position, example in enumerate(alone):
        other = streamed[position % 2][position // 2]
        assert other.name == example.name
        assert torch.equal(other.clean, example.clean) and torch.equal(other.degraded, example.degraded)


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def test_results_keep_their_order_however_long_each_takes(ray_address: str) -> None:
    class Slow:  # in here, so that actors get it by value
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            time.sleep(row["seconds"])
            return row

    items = [{"number": number, "seconds": 0.0 if number % 4 else 0.5} for number in range(12)]
    streamed = actor_pool.stream_actors(items, Slow, (), actors=3, block_rows=1)
    assert [row["number"] for row in streamed] == list(range(12))


def _free_cpus(expected: float) -> float:
    """Return the CPUs that are free once there are as many as expected, or after 30 s."""
    import ray

    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    return float(ray.available_resources().get("CPU", 0))


def test_actors_hold_a_cpu_each_and_end_with_the_iterator(ray_address: str, undisturbed: Path) -> None:
    import ray

    free = _free_cpus(ray.cluster_resources()["CPU"])  # fewer where tests of other files left actors behind
    examples = _source(undisturbed, actors=1).read(0, range(400))
    next(examples)
    assert _free_cpus(free - 1) == free - 1
    examples.close()
    assert _free_cpus(free) == free


def test_positions_resumed_in_the_middle_are_the_rest(here: list[int], undisturbed: Path) -> None:
    source = _source(undisturbed)
    assert _names(list(source.read(2, range(3, 6)))) == _names(list(source.read(2, range(6))))[3:]


def _break_recipe(monkeypatch: pytest.MonkeyPatch, *broken: int) -> list[str]:
    """Let the recipes at these positions of epoch 0 fail; give their ids."""
    names: list[str] = []
    tasks = LiveSource._tasks

    def changed(self: LiveSource, epoch: int, positions: Any) -> Any:
        for task in tasks(self, epoch, positions):
            if task["number"] in broken:
                components = json.loads(task["components"])
                task["components"] = json.dumps([components[0] | {"gain_db": -400.0}])
                names.append(task["recipe_id"])
            yield task

    monkeypatch.setattr(LiveSource, "_tasks", changed)
    return names


def test_recipe_that_cannot_be_made_stops_the_run_or_is_replaced_by_the_next(
    here: list[int], undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _names(list(_source(undisturbed).read(0, range(6))))
    names = _break_recipe(monkeypatch, 2, 3)
    with pytest.raises(CorruptDataError, match="the mix is silent"):
        list(_source(undisturbed).read(0, range(6)))
    config = LoaderConfig(levels=PLAIN, corrupt="skip", max_corrupt_share=0.5)
    source = _source(undisturbed, config=config)
    made = _names(list(source.read(0, range(6))))
    assert made == [whole[k] for k in (0, 1, 4, 4, 4, 5)]
    assert [name for name, *_ in source.rejects] == list(dict.fromkeys(names))
    apart = [
        _names(list(_source(undisturbed, config=config).read(0, range(rank, 6, 2)))) for rank in range(2)
    ]
    assert list(itertools.chain(*zip(*apart, strict=True))) == made


def test_cluster_without_a_free_cpu_is_refused(
    ray_address: str, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "available_resources", dict)
    monkeypatch.setattr(actor_pool, "_FREE_CPU_SECONDS", 0.3)
    with pytest.raises(UsageError, match="CPUs of the cluster are in use"):
        next(_source(undisturbed).read(0, range(2)))


def test_numbers_below_one_are_refused(undisturbed: Path) -> None:
    for name in ("actors", "epoch_examples"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            _source(undisturbed, **{name: 0})


def test_no_positions_are_no_examples(here: list[int], undisturbed: Path) -> None:
    assert list(_source(undisturbed).read(0, [])) == []


def test_degradations_must_be_those_of_the_output(here: list[int], undisturbed: Path) -> None:
    config = LoaderConfig(degradations=("mp3_128000",), levels=PLAIN)
    names = _names(list(_source(undisturbed, config=config).read(0, range(4))))
    assert {name.partition("/")[2] for name in names} == {"mp3_128000"}
    with pytest.raises(UsageError, match="no degradation mp3_1; available: mp3_24000, mp3_128000"):
        _source(undisturbed, config=LoaderConfig(degradations=("mp3_1",)))


def test_output_without_a_plan_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no plan\.json"):
        _source(tmp_path)
    for name in ("plan.json", "fingerprint.json", "segments.parquet"):
        shutil.copy(undisturbed / name, tmp_path)
    table = pq.read_table(undisturbed / "sources.parquet")
    others = table.filter([split != "train" for split in table["split"].to_pylist()])
    pq.write_table(others, tmp_path / "sources.parquet")
    with pytest.raises(UsageError, match="no source for training"):
        _source(tmp_path)


def test_nodes_with_other_programs_are_refused(undisturbed: Path) -> None:
    source = _source(undisturbed)
    task = source._task
    other = live_source.MixTask(task.output, task.cache, task.codec, task.versions | {"numpy": "0.1"})
    with pytest.raises(RuntimeError, match=r"numpy was '0\.1'"):
        ExampleMixer(other)


def test_shards_are_not_read(here: list[int], undisturbed: Path, tmp_path: Path) -> None:
    for name in ("plan.json", "fingerprint.json", "segments.parquet", "sources.parquet"):
        shutil.copy(undisturbed / name, tmp_path)
    assert not Folder(str(tmp_path)).entries("train")
    names = _names(list(_source(undisturbed).read(0, range(2))))
    assert _names(list(_source(tmp_path, cache=str(undisturbed / "cache")).read(0, range(2)))) == names
