"""The road on paper: numbers worked by hand, what limits, the command, and a run that it foretells."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from benchmarks.procfs import watch_actors
from benchmarks.rates import measure_preprocess, measure_start
from jobs.scale import main
from pipelines.capacity.plan import Plan, Prices
from pipelines.capacity.predict import bytes_per_example, predict
from pipelines.capacity.rates import Rates
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
ATTEMPTS = 3  # a machine whose speed changes between sample and run is no fault of the plan's
PLAN = Plan(songs=10, recipes=640, song_seconds=100.0, tracks=4, cores=4)


def test_preprocess_by_hand() -> None:
    costs = predict(PLAN, RATES)
    seconds = {part.name: part.core_hours * 3600 for part in costs.parts}
    wall = {part.name: (part.hours or 0) * 3600 for part in costs.parts}
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
    assert costs.source_gb == pytest.approx(10 * 100 * 4 * 176_400 / 1e9)
    assert costs.shard_gb == pytest.approx(640 * 480_000 / 1e9)
    assert costs.driver_gb == pytest.approx((1e8 + 10 * 300_000 + 640 * 100 + 10 * 2_000) / 1e9)
    assert costs.money == 0 and "no prices" in str(costs)


def test_cores_beyond_songs_and_shards_stand_idle() -> None:
    few, many = predict(replace(PLAN, cores=10), RATES), predict(replace(PLAN, cores=1_000), RATES)
    assert few.parts[0] == replace(many.parts[0], node_bytes=few.parts[0].node_bytes)
    assert many.core_hours == pytest.approx(few.core_hours)


def test_training_takes_as_long_as_gpus_or_their_food() -> None:
    fed = replace(PLAN, gpus=8, gpu_step_seconds=0.02, epochs=2, epoch_examples=800, cores=2)
    costs = predict(fed, RATES)  # 400 examples/s, 0.005 s of a core each
    train = costs.parts[-1]
    assert (costs.feeding_cores, train.name) == (2, "train")
    assert train.hours == pytest.approx(200 * 0.02 / 3600) and train.gpu_hours == 8 * train.hours
    assert costs.remarks[0].endswith("the GPUs limit")
    live = predict(replace(fed, source="live"), RATES)  # 0.1 s each: 40 cores wanted, 2 there
    assert live.feeding_cores == 40
    assert live.parts[-1].hours == pytest.approx(1_600 * 0.1 / 2 / 3600)
    assert live.remarks[0].endswith("there are 2, so the GPUs wait 95%")


def test_without_a_step_time_training_is_unknown_and_says_so() -> None:
    costs = predict(replace(PLAN, gpus=8), RATES)
    assert costs.parts[-1].hours is None and costs.feeding_cores is None
    assert "--gpu_step_seconds" in costs.remarks[0]


def test_a_worker_of_many_fetches_whole_row_groups() -> None:
    alone, two, many = (bytes_per_example(replace(PLAN, gpus=gpus), RATES) for gpus in (1, 2, 10_000))
    assert alone == pytest.approx(300_000 + 6 * (1 - (5 / 6) ** 8) * 30_000)  # all rows, some streams twice
    assert many == pytest.approx(8 * (300_000 + 30_000), rel=0.01)
    assert 1.6 * alone < two < 2 * alone
    assert bytes_per_example(replace(PLAN, gpus=8, source="live"), RATES) == 330_000


def test_gradients_cross_the_network_between_nodes_alone() -> None:
    one = replace(PLAN, gpus=8, gpu_step_seconds=1.0, source="live", epochs=1, epoch_examples=16)
    here = predict(one, RATES).parts[-1].node_bytes
    there = predict(replace(one, gpus_per_node=4), RATES).parts[-1].node_bytes
    assert there == pytest.approx(here / 2 + 2 * (1 / 2) * 19_310_811 * 4)


def test_scoring_restores_once_a_model_and_scores_the_untouched_too() -> None:
    costs = predict(replace(PLAN, score_items=10, models=2), RATES)
    assert costs.parts[-1].core_hours * 3600 == pytest.approx(60 * (3 * 0.5 + 2 * 3 * 4.0) + 4 * 2)


def test_money_is_by_the_prices_given() -> None:
    prices = Prices(core_hour=2.0, gpu_hour=10.0, gb_month=0.5)
    asked = replace(PLAN, gpus=1, gpu_step_seconds=0.01, epochs=1, months=3, prices=prices)
    costs = predict(asked, RATES)
    kept = 1.5 * (costs.source_gb + costs.shard_gb)
    assert costs.money == pytest.approx(2 * costs.core_hours + 10 * costs.gpu_hours + kept)


def test_splits_that_end_within_a_shard_have_one_more() -> None:
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
def test_wrong_plans_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(PLAN, **wrong)


def test_rates_come_back_as_they_were_and_others_are_refused() -> None:
    assert Rates.from_json(RATES.to_json()) == RATES
    for wrong in ("{", "[]", "{}", json.dumps(asdict(RATES) | {"load_seconds": -1.0})):
        with pytest.raises(UsageError, match="these are no rates"):
            Rates.from_json(wrong)


def test_the_command_says_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rates.json"
    file.write_text(RATES.to_json())
    arguments = ["--rates", str(file), "--songs", "10", "--recipes", "640", "--gpus", "8"]
    assert main([*arguments, "--gpu_step_seconds", "0.02", "--prices.gpu_hour", "1"]) == 0
    said = capsys.readouterr().out
    for word in ("scan", "render", "train", "disk", "driver", "money", "the GPUs limit", "a machine"):
        assert word in said
    assert main([*arguments, "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["shard_gb"] == pytest.approx(640 * 480_000 / 1e9) and costs["parts"][-1]["hours"] is None


def test_the_recorded_rates_are_read_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--songs", "390", "--recipes", "60500"]) == 0
    assert "measured on" in capsys.readouterr().out


def test_the_command_refuses_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    """Measure rates on a small sample of other recipes, where no thread of other tests counts."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        made = alone.submit(measure_preprocess, _config(data, folder, SAMPLE, seed=1)).result()
    return replace(RATES, **vars(made), start_seconds=measure_start())


def _ratio(data: Path, folder: Path) -> float:
    """Give what is predicted of a run over what its actors worked."""
    rates = _measured(data, folder / "sample")
    with watch_actors() as seconds:
        outcome = preprocess(_config(data, folder / "run", RECIPES, seed=0))
    assert outcome.code == Exit.DONE, outcome.message
    report = json.loads((folder / "run" / "report.json").read_text())
    plan = Plan(songs=4, song_seconds=9.0, tracks=5, recipes=RECIPES, shard_rows=ROWS, cores=ACTORS)
    costs = predict(plan, rates)
    predicted = sum(part.core_hours for part in costs.parts if part.name in ("scan", "render")) * 3600
    ratio = predicted / sum(seconds.values())
    print(f"predicted {predicted:.1f} s, worked {sum(seconds.values()):.1f} s: {ratio:.2f}")
    assert abs(costs.shard_gb * 1e9 / report["bytes"] - 1) < WITHIN
    return ratio


def test_a_run_works_as_long_as_its_plan_says(ray_address: str, data: Path, tmp_path: Path) -> None:
    ratios: list[float] = []
    while not ratios or (abs(ratios[-1] - 1) > WITHIN and len(ratios) < ATTEMPTS):
        ratios.append(_ratio(data, tmp_path / str(len(ratios))))
    assert abs(ratios[-1] - 1) <= WITHIN, ratios
