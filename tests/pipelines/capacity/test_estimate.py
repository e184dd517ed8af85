"""The estimate against numbers computed by hand and against a run, and its command."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measurement import measure_actors
from benchmarks.rates import measure_preprocess, measure_start
from jobs.scale import main
from pipelines.capacity.estimate import Plan, Prices, Rates, bytes_per_example, estimate
from pipelines.dataset.plan import count_shards
from pipelines.dataset.shards import ShardsConfig
from pipelines.errors import UsageError
from pipelines.preprocess.config import PreprocessConfig
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.run import preprocess
from pipelines.runtime.outcome import Exit
from tests.support import datasets

RATES = Rates(
    machine="a machine",
    degradations=6,
    scan_seconds=0.01,
    render_seconds=0.25,
    start_seconds=2.0,
    plan_song_seconds=0.004,
    plan_seconds=1e-5,
    shard_seconds=0.01,
    load_seconds=0.005,
    mix_seconds=0.095,
    score_seconds=0.5,
    restore_seconds=4.0,
    clean_bytes=300_000,
    recipe_bytes=480_000,
    driver_bytes=1e8,
    driver_song_bytes=300_000,
    driver_recipe_bytes=100,
    driver_shard_bytes=2_000,
)
SAMPLE, RECIPES, ROWS, ACTORS = 24, 96, 8, 2
WITHIN = 0.2
ATTEMPTS = 3  # a machine whose speed changes between sample and run does not fail the test
PLAN = Plan(songs=10, recipes=640, song_seconds=100.0, tracks=4, cores=4)


def test_preprocess_by_hand() -> None:
    estimated = estimate(PLAN, RATES)
    seconds = {part.name: part.core_hours * 3600 for part in estimated.parts}
    wall = {part.name: (part.hours or 0) * 3600 for part in estimated.parts}
    assert seconds == pytest.approx(
        {
            "scan": 10 * 100 * 4 * 0.01 + 4 * 2,
            "plan": 10 * 0.004 + 640 * 1e-5,
            "render": 640 * 0.25 + 4 * 2,
            "close": 10 * 0.01,
        }
    )
    assert wall["scan"] == pytest.approx(3 * 4 + 2)  # 10 songs on 4 cores: three one after the other
    assert wall["render"] == pytest.approx(3 * 16 + 2)
    assert estimated.source_gb == pytest.approx(10 * 100 * 4 * 176_400 / 1e9)
    assert estimated.shard_gb == pytest.approx(640 * 480_000 / 1e9)
    assert estimated.driver_gb == pytest.approx((1e8 + 10 * 300_000 + 640 * 100 + 10 * 2_000) / 1e9)
    assert estimated.money == 0 and "no prices" in str(estimated)


def test_cores_beyond_songs_and_shards_are_idle() -> None:
    few, many = estimate(replace(PLAN, cores=10), RATES), estimate(replace(PLAN, cores=1_000), RATES)
    assert few.parts[0] == replace(many.parts[0], node_bytes=few.parts[0].node_bytes)
    assert many.core_hours == pytest.approx(few.core_hours)


def test_training_waits_for_gpus_or_for_loading() -> None:
    fed = replace(PLAN, gpus=8, gpu_step_seconds=0.02, epochs=2, epoch_examples=800, cores=2)
    estimated = estimate(fed, RATES)  # 400 examples/s, 0.005 s of a core each
    train = estimated.parts[-1]
    assert (estimated.feeding_cores, train.name) == (2, "train")
    assert train.hours == pytest.approx(200 * 0.02 / 3600) and train.gpu_hours == 8 * train.hours
    assert estimated.remarks[0].endswith("the GPUs limit")
    live = estimate(replace(fed, source="live"), RATES)  # 0.1 s each: 40 cores wanted, 2 there
    assert live.feeding_cores == 40
    assert live.parts[-1].hours == pytest.approx(1_600 * 0.1 / 2 / 3600)
    assert live.remarks[0].endswith("there are 2, so the GPUs wait 95% of the time")


def test_training_time_is_unknown_without_a_step_time() -> None:
    estimated = estimate(replace(PLAN, gpus=8), RATES)
    assert estimated.parts[-1].hours is None and estimated.feeding_cores is None
    assert "--gpu_step_seconds" in estimated.remarks[0]


def test_one_of_many_workers_fetches_whole_row_groups() -> None:
    alone, two, many = (bytes_per_example(replace(PLAN, gpus=gpus), RATES) for gpus in (1, 2, 10_000))
    assert alone == pytest.approx(300_000 + 6 * (1 - (5 / 6) ** 8) * 30_000)  # all rows, some streams twice
    assert many == pytest.approx(8 * (300_000 + 30_000), rel=0.01)
    assert 1.6 * alone < two < 2 * alone
    assert bytes_per_example(replace(PLAN, gpus=8, source="live"), RATES) == 330_000


def test_only_gradients_between_nodes_cross_the_network() -> None:
    one = replace(PLAN, gpus=8, gpu_step_seconds=1.0, source="live", epochs=1, epoch_examples=16)
    here = estimate(one, RATES).parts[-1].node_bytes
    there = estimate(replace(one, gpus_per_node=4), RATES).parts[-1].node_bytes
    assert there == pytest.approx(here / 2 + 2 * (1 / 2) * 19_310_811 * 4)


def test_scoring_includes_the_degraded_input() -> None:
    estimated = estimate(replace(PLAN, score_items=10, models=2), RATES)
    assert estimated.parts[-1].core_hours * 3600 == pytest.approx(60 * (3 * 0.5 + 2 * 3 * 4.0) + 4 * 2)


def test_money_follows_the_prices() -> None:
    prices = Prices(core_hour=2.0, gpu_hour=10.0, gb_month=0.5)
    plan = replace(PLAN, gpus=1, gpu_step_seconds=0.01, epochs=1, months=3, prices=prices)
    estimated = estimate(plan, RATES)
    storage = 1.5 * (estimated.source_gb + estimated.shard_gb)
    assert estimated.money == pytest.approx(2 * estimated.core_hours + 10 * estimated.gpu_hours + storage)


def test_a_split_ends_with_a_partial_shard() -> None:
    assert count_shards([100, 10, 12], 8) == 13 + 2 + 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"songs": 0},
        {"cores": 0},
        {"gpu_step_seconds": 0.0},
        {"song_seconds": float("inf")},
        {"source": "tape"},
    ],
)
def test_an_invalid_plan_is_refused_by_the_field_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(PLAN, **wrong)


def test_rates_are_read_from_json_and_checked() -> None:
    assert Rates.from_json(json.dumps(asdict(RATES))) == RATES
    for wrong in ("{", "[]", "{}", json.dumps(asdict(RATES) | {"load_seconds": -1.0})):
        with pytest.raises(UsageError, match="not a rates file"):
            Rates.from_json(wrong)


def test_the_command_prints_every_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rates.json"
    file.write_text(json.dumps(asdict(RATES)))
    arguments = ["--rates", str(file), "--songs", "10", "--recipes", "640", "--gpus", "8"]
    assert main([*arguments, "--gpu_step_seconds", "0.02", "--prices.gpu_hour", "1"]) == 0
    printed = capsys.readouterr().out
    for word in ("scan", "render", "train", "disk", "driver", "money", "the GPUs limit", "a machine"):
        assert word in printed
    assert main([*arguments, "--json"]) == 0
    estimated = json.loads(capsys.readouterr().out)
    assert (
        estimated["shard_gb"] == pytest.approx(640 * 480_000 / 1e9)
        and estimated["parts"][-1]["hours"] is None
    )


def test_the_recorded_rates_are_read_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--songs", "390", "--recipes", "60500"]) == 0
    assert "measured on" in capsys.readouterr().out


def test_the_command_exits_with_2_on_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--songs", "0", "--recipes", "1"]) == 2
    assert main(["--songs", "1", "--recipes", "1", "--rates", str(tmp_path / "none.json")]) == 2
    assert "songs is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--songs", "one", "--recipes", "1"])
    assert stopped.value.code == 2


def _config(data: Path, output: Path, recipes: int, seed: int) -> PreprocessConfig:
    return datasets.config(
        data,
        output,
        seed=seed,
        actors=ACTORS,
        recipes=RecipesConfig(train=recipes, valid=0, test_per_category=0),
        shards=ShardsConfig(rows=ROWS),
    )


def _measured(data: Path, folder: Path) -> Rates:
    """Measure rates on a small sample of other recipes, in a process without threads of other tests."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        measured = process.submit(measure_preprocess, _config(data, folder, SAMPLE, seed=1)).result()
    return replace(RATES, **measured, start_seconds=measure_start())


def _ratio(data: Path, folder: Path) -> float:
    """Return the ratio of estimated to measured CPU time of a run's actors."""
    rates = _measured(data, folder / "sample")
    with measure_actors() as seconds:
        outcome = preprocess(_config(data, folder / "run", RECIPES, seed=0))
    assert outcome.code == Exit.DONE, outcome.message
    report = json.loads((folder / "run" / "report.json").read_text())
    plan = Plan(songs=4, song_seconds=9.0, tracks=5, recipes=RECIPES, shard_rows=ROWS, cores=ACTORS)
    estimated = estimate(plan, rates)
    expected = sum(part.core_hours for part in estimated.parts if part.name in ("scan", "render")) * 3600
    ratio = expected / sum(seconds.values())
    print(f"estimated {expected:.1f} s, measured {sum(seconds.values()):.1f} s: {ratio:.2f}")
    assert abs(estimated.shard_gb * 1e9 / report["bytes"] - 1) < WITHIN
    return ratio


def test_a_run_takes_the_estimated_cpu_time(ray_address: str, data: Path, tmp_path: Path) -> None:
    ratios: list[float] = []
    while not ratios or (abs(ratios[-1] - 1) > WITHIN and len(ratios) < ATTEMPTS):
        ratios.append(_ratio(data, tmp_path / str(len(ratios))))
    assert abs(ratios[-1] - 1) <= WITHIN, ratios
