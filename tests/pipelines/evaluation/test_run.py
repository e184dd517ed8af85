"""Evaluations on Ray Tune: complete, resumable and reported; invalid ones are refused."""

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from pipelines.errors import UsageError
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.items import find_cutoff_hz
from pipelines.evaluation.metrics import score
from pipelines.evaluation.run import _Evaluation, evaluate
from pipelines.evaluation.score_files import write_scores
from pipelines.evaluation.shard_items import ShardItems
from pipelines.evaluation.tune_trials import _scored_before
from pipelines.runtime.outcome import Exit
from pipelines.schema import METRICS, METRICS_VERSION, NOT_FINITE, SCORED, UNREADABLE, UNTOUCHED
from pipelines.storage.folder import Folder
from tests.support import datasets, evaluation_jobs, score_rows

_NAN = re.compile(r"(?<![\w-])nan(?!\w)", re.IGNORECASE)
_LONG = re.compile(r"[A-Za-z0-9+/=]{100,}")  # sound and pictures
ITEMS = 4
TABLES = ("table2", "figure2", "others", "differences", "counts")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models in it."""
    folder = tmp_path_factory.mktemp("evaluations")
    evaluation_jobs.write_model(folder / "noisy")
    evaluation_jobs.write_identity(folder / "identity")
    return folder


@pytest.fixture(scope="module")
def evaluated(ray_address: str, undisturbed: Path, shelf: Path) -> Path:
    """A finished evaluation of one model on the test split."""
    output = shelf / "evaluation"
    outcome = evaluate(settings(undisturbed, output, shelf))
    assert outcome.code == Exit.DONE, outcome.message
    return output


def settings(data: Path, output: Path, shelf: Path, **changes: Any) -> EvaluateConfig:
    """Return the configuration of the finished evaluation."""
    usual = {"models": (str(shelf / "noisy"),), "limit": ITEMS, "listening_items": 3}
    return evaluation_jobs.config(data, output, **usual | {"rtf_runs": 2, "rtf_seconds": 5.0} | changes)


def test_there_is_a_row_for_every_model_item_and_degradation(evaluated: Path, undisturbed: Path) -> None:
    rows = evaluation_jobs.rows(evaluated)
    items = ShardItems(str(undisturbed), "test", (), ITEMS)
    keys = {(row["model"], row["item"], row["degradation"]) for row in rows}
    names = {item.name for item in items.items}
    assert keys == {
        (model, name, f"mp3_{rate}")
        for model in (UNTOUCHED, "noisy")
        for name in names
        for rate in (24_000, 128_000)
    }
    assert len(rows) == len(keys) == 16
    assert {row["status"] for row in rows} == {SCORED}
    assert {row["bitrate_bps"] for row in rows} == {24_000, 128_000}


def test_the_untouched_codec_scores_what_its_decoded_stream_does(evaluated: Path, undisturbed: Path) -> None:
    items = ShardItems(str(undisturbed), "test", (), ITEMS)
    row = next(row for row in evaluation_jobs.rows(evaluated) if row["model"] == UNTOUCHED)
    number = [item.name for item in items.items].index(row["item"])
    (loaded,) = items.load([number], row["degradation"])
    assert not isinstance(loaded, str)
    cutoff = find_cutoff_hz(items, row["degradation"])
    expected = score(loaded.clean, loaded.degraded, gain=loaded.gain, cutoff_hz=cutoff)
    assert {name: row[name] for name in METRICS} == pytest.approx({name: expected[name] for name in METRICS})


def test_report_is_complete_and_has_no_nan(evaluated: Path) -> None:
    for name in TABLES:
        for ending in ("csv", "md"):
            text = (evaluated / f"{name}.{ending}").read_text()
            assert not _NAN.search(text)
            assert "noisy" in text
    page = _LONG.sub("", (evaluated / "report.html").read_text())
    assert not _NAN.search(page)
    assert "noisy" in page
    result = json.loads((evaluated / "result.json").read_text())
    assert (result["status"], result["items"][SCORED]) == ("done", 16)
    assert result["verdicts"]
    rtf = json.loads((evaluated / "rtf" / "noisy.json").read_text())
    assert rtf["cpu"]["runs"] == 2
    assert rtf["cpu"]["milliseconds"] > 0


def test_running_again_changes_nothing(evaluated: Path, undisturbed: Path, shelf: Path) -> None:
    before = evaluation_jobs.states(evaluated)
    config = settings(undisturbed, evaluated, shelf)
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    outcome = evaluate(config)
    assert outcome.code == Exit.DONE
    assert os.environ.get("MLFLOW_TRACKING_URI") == variable  # what follows has another registry
    assert variable is None or "evaluations" not in variable
    after = evaluation_jobs.states(evaluated)
    assert {name for name in after if before.get(name) != after[name]} == {"result.json"}


def test_mlflow_has_a_parent_and_a_child_a_trial_once(evaluated: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{evaluated.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("apollo")
    assert experiment is not None
    parent = json.loads((evaluated / "result.json").read_text())["mlflow_run"]
    children = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.mlflow.parentRunId = '{parent}'"
    )
    assert sorted(run.info.run_name for run in children) == sorted(
        f"{model}-mp3_{rate}" for model in (UNTOUCHED, "noisy") for rate in (24_000, 128_000)
    )
    one = next(run for run in children if run.info.run_name == "noisy-mp3_24000")
    rows = [
        row
        for row in evaluation_jobs.rows(evaluated)
        if (row["model"], row["degradation"]) == ("noisy", "mp3_24000")
    ]
    assert one.data.metrics["si_snr"] == pytest.approx(np.mean([row["si_snr"] for row in rows]))
    assert one.data.metrics["items/scored"] == ITEMS
    files = {found.path for found in client.list_artifacts(parent)}
    assert {"report.html", "scores.parquet", "table2.md", "figure2.png"} <= files


def test_a_model_can_be_added_and_what_is_damaged_is_scored_again(
    evaluated: Path, in_process_actors: None, undisturbed: Path, shelf: Path
) -> None:
    before = evaluation_jobs.states(evaluated)
    victim = evaluated / "scores" / "noisy" / "mp3_24000.parquet"
    content = victim.read_bytes()
    victim.write_bytes(content[:-20])
    models = (str(shelf / "noisy"), str(shelf / "identity"))
    outcome = evaluate(settings(undisturbed, evaluated, shelf, models=models, rtf_runs=0))
    assert outcome.code == Exit.DONE, outcome.message
    assert victim.read_bytes() == content
    kept = [name for name in before if name.startswith("scores/untouched")]
    after = evaluation_jobs.states(evaluated)
    assert [after[name] for name in kept] == [before[name] for name in kept]
    rows = {(row["model"], row["item"], row["degradation"]): row for row in evaluation_jobs.rows(evaluated)}
    assert len(rows) == 24
    for (model, item, degradation), row in rows.items():
        if model == "identity":
            untouched = rows[UNTOUCHED, item, degradation]
            assert row["si_snr"] == pytest.approx(untouched["si_snr"], abs=1e-3)


def test_other_items_or_other_weights_of_a_name_are_refused(
    evaluated: Path, undisturbed: Path, shelf: Path
) -> None:
    before = evaluation_jobs.states(evaluated)
    wrong = evaluate(settings(undisturbed, evaluated, shelf, split="valid"))
    assert wrong.code == Exit.USAGE
    assert "split was 'test', is 'valid'" in wrong.message
    swapped = evaluate(settings(undisturbed, evaluated, shelf, models=(f"noisy={shelf / 'identity'}",)))
    assert swapped.code == Exit.USAGE
    assert "other weights named 'noisy'" in swapped.message
    assert evaluation_jobs.states(evaluated) == before


def test_pairs_with_bad_ones_among_them(in_process_actors: None, tmp_path: Path) -> None:
    data = tmp_path / "pairs"
    samples = datasets.music(1, seconds=1.2)
    noise = 0.01 * np.random.default_rng(0).standard_normal(samples.shape)
    for name in ("48k/fine", "48k/silent", "48k/short", "48k/same", "48k/broken"):
        clean = {"48k/silent": 0 * samples, "48k/short": samples[:441]}.get(name, samples)
        made = clean + noise[: len(clean)] if name in ("48k/fine", "48k/short") else clean
        datasets.write(data / name / "clean.wav", clean)
        datasets.write(data / name / "degraded.wav", made)
        datasets.write(data / name / "ours.wav", clean, subtype="FLOAT")
    (data / "48k" / "broken" / "degraded.wav").write_bytes(b"nothing of the kind")
    nan = samples.copy()
    nan[100] = math.nan
    datasets.write(data / "48k" / "odd" / "clean.wav", samples)
    datasets.write(data / "48k" / "odd" / "degraded.wav", samples)
    datasets.write(data / "48k" / "odd" / "ours.wav", nan, subtype="FLOAT")
    output = tmp_path / "out"
    outcome = evaluate(evaluation_jobs.config(data, output))
    assert outcome.code == Exit.REJECTS, outcome.message
    rows = {(row["model"], row["item"].removeprefix("48k/")): row for row in evaluation_jobs.rows(output)}
    assert rows[UNTOUCHED, "fine"]["status"] == SCORED
    assert rows[UNTOUCHED, "silent"]["status"] == "silent"
    assert rows[UNTOUCHED, "short"]["visqol"] is None
    assert rows[UNTOUCHED, "same"]["snr"] == 100
    assert rows[UNTOUCHED, "broken"]["status"] == UNREADABLE
    assert rows[UNTOUCHED, "broken"]["reason"]
    assert rows["ours", "odd"]["status"] in (NOT_FINITE, UNREADABLE)
    for row in rows.values():
        assert all(row[name] is None or math.isfinite(row[name]) for name in METRICS)
    assert evaluate(evaluation_jobs.config(data, output, max_reject_share=0.5)).code == Exit.DONE
    before = evaluation_jobs.rows(output)
    again = evaluate(evaluation_jobs.config(data, output, retry_unreadable=True))
    assert again.code == Exit.REJECTS and "--retry_unreadable true tries again" in again.message
    assert evaluation_jobs.rows(output) == before
    decided = evaluate(evaluation_jobs.config(data, tmp_path / "decision", split="valid", promote=True))
    assert decided.code == Exit.USAGE
    assert "is not an output of preprocess" in decided.message


def test_31_what_cannot_be_read_is_tried_again_only_if_asked_and_alone(tmp_path: Path) -> None:
    for song in ("good", "bad"):
        for name in ("clean.wav", "degraded.wav"):
            datasets.write(tmp_path / "pairs" / "24k" / song / name, datasets.music(0, seconds=1.0))
    config = evaluation_jobs.config(tmp_path / "pairs", tmp_path / "out")
    run = _Evaluation(config)
    run.prepare()
    (trial,) = run.trials
    assert run._is_pending(trial)
    rows = [
        score_rows.row(UNTOUCHED, "24k/bad", "24k", status=UNREADABLE, reason="the file is empty"),
        score_rows.row(UNTOUCHED, "24k/good", "24k", snr=20.0) | {"lag": 7},
    ]
    write_scores(Folder(config.output), trial, rows, "cpu")
    assert not run._is_pending(trial)  # it is recorded with its reason
    retrying = _Evaluation(replace(config, retry_unreadable=True))
    retrying.prepare()
    assert retrying._is_pending(trial)
    (kept,) = _scored_before(Folder(config.output), trial)  # the others are not scored again
    assert (kept["item"], kept["snr"], kept["lag"]) == ("24k/good", 20.0, 7)
    write_scores(Folder(config.output), trial, rows[1:], "cpu")
    assert not retrying._is_pending(trial)


def test_the_old_name_of_listening_items_works_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = EvaluateConfig(data=str(tmp_path), output=str(tmp_path / "out"), heard_items=5)
    assert (config.listening_items, config.heard_items) == (5, None)
    assert replace(config, limit=3).listening_items == 5
    assert caplog.messages == ["--heard_items is deprecated: use --listening_items"]


def test_model_with_non_finite_output_is_reported(
    in_process_actors: None, undisturbed: Path, tmp_path: Path
) -> None:
    evaluation_jobs.write_model(tmp_path / "huge", scale=1e30)
    config = evaluation_jobs.config(
        undisturbed, tmp_path / "out", models=(str(tmp_path / "huge"),), limit=4, degradations=("mp3_24000",)
    )
    outcome = evaluate(config)
    assert outcome.code == Exit.DONE, outcome.message
    assert outcome.facts["items"][NOT_FINITE] == 4
    assert not _NAN.search(_LONG.sub("", (tmp_path / "out" / "report.html").read_text()))
    assert not _NAN.search((tmp_path / "out" / "table2.csv").read_text())


def test_an_output_of_another_version_of_the_metrics_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("clean.wav", "degraded.wav"):
        datasets.write(tmp_path / "pairs" / "24k" / "one" / name, datasets.music(0, seconds=1.0))
    config = evaluation_jobs.config(tmp_path / "pairs", tmp_path / "out")
    _Evaluation(config).prepare()
    file = tmp_path / "out" / "fingerprint.json"
    fingerprint = json.loads(file.read_text())
    assert {"zimtohrli", "visqol", "torch"} <= set(fingerprint["versions"])
    del fingerprint["versions"]["metrics"]  # as before metrics had a version
    file.write_text(json.dumps(fingerprint))
    outcome = evaluate(config)
    assert outcome.code == Exit.USAGE
    assert f"versions.metrics was None, is '{METRICS_VERSION}'" in outcome.message


def test_invalid_runs_are_refused_before_ray_starts(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    output = tmp_path / "out"

    def message(**changes: object) -> str:
        try:
            outcome = evaluate(evaluation_jobs.config(undisturbed, output, **changes))
        except UsageError as error:
            return str(error)
        assert outcome.code == Exit.USAGE
        return outcome.message

    assert "no such file" in message(models=(str(tmp_path / "nothing"),))
    assert "no degradation mp3_1" in message(degradations=("mp3_1",))
    assert "split is 'tset'" in message(split="tset")
    assert "--split valid" in message(promote=True)
    assert "limit is 0" in message(limit=0)
    assert "precision" in message(precision="float8")
    model = evaluation_jobs.write_model(tmp_path / "model")
    assert "two models are named model" in message(models=(str(model), str(model)))
    assert not (output / "fingerprint.json").exists()
    assert not os.path.exists(output / "scores")
