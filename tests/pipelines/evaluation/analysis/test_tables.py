"""Tables and sentences of an evaluation, from tables of scores that were worked out by hand."""

import csv
import dataclasses
import io
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.audio.degradations import describe
from pipelines.evaluation.analysis import published_results, tables
from pipelines.evaluation.analysis.bootstrap import Bootstrap
from pipelines.evaluation.analysis.result_table import ScoreTable
from pipelines.evaluation.analysis.scores import LOWER_IS_BETTER, PAPER_METRICS, label, read_scores
from pipelines.evaluation.analysis.summary import summarize
from pipelines.evaluation.analysis.tables import ModelFacts, build_tables
from pipelines.schema import CATEGORIES, METRICS, SCORES, UNTOUCHED
from tests.support import score_rows
from tests.support.score_rows import row

FACTS = {"ours": ModelFacts(parameters=16_539_308, rtf_ms={"cpu": 2000.5}, rtf_runs={"cpu": 30})}


def _every_category() -> list[dict[str, Any]]:
    """Two models, two degradations, an item in each category, the fifth a whole song."""
    rows = []
    for place, category in enumerate(CATEGORIES):
        for bitrate in (128_000, 24_000):
            for model, better in ((UNTOUCHED, 0.0), ("ours", 0.5)):
                value = 10.0 * place + bitrate / 24_000 + better
                rows.append(
                    row(
                        model,
                        f"item {place}",
                        f"mp3_{bitrate}",
                        category=category,
                        sdr=value,
                        si_snr=value - 1,
                        visqol=value / 10,
                        snr=value - 2,
                        lsd_high=9.0 - better,
                        si_snr_side=value - 3,
                        error_0_4000_hz=-value,
                    )
                )
    return rows


def _records(rows: list[dict[str, Any]], name: str, **settings: Any) -> list[dict[str, Any]]:
    return build_tables(score_rows.table(rows), FACTS, **settings)[name].records()


def test_table2_by_hand() -> None:
    untouched, ours, *published = _records(_every_category(), "table2")
    assert (untouched["model"], ours["model"]) == (UNTOUCHED, "ours")
    # 24 and 128 kbps give 1 and 5.3333: their mean is 3.16667, plus 10 a category
    for place, category in enumerate(CATEGORIES):
        assert untouched[f"{category}_sdr"] == pytest.approx(10 * place + 19 / 6)
        assert untouched[f"{category}_items"] == 1
    assert untouched["overall_sdr"] == pytest.approx(15 + 19 / 6)  # of four: the whole song stands outside
    assert ours["overall_si_snr"] == pytest.approx(15 + 19 / 6 - 0.5)
    assert ours["overall_visqol"] == pytest.approx((15 + 19 / 6 + 0.5) / 10)
    assert (ours["parameters_millions"], ours["rtf_cpu_ms"], ours["rtf_cpu_runs"]) == (16.539308, 2000.5, 30)
    assert ours["rtf_cuda_ms"] is None and untouched["parameters_millions"] is None
    assert ours["missing"] is None
    assert [one["model"] for one in published] == [
        "SR-GAN, paper (its own test set)",
        "Apollo, paper (its own test set)",
        *(f"{name}, MPASCNet's authors (MedleyDB)" for name in ("MP3", "AEROMambaPS", "Apollo", "MPASCNet")),
    ]
    assert published[5]["overall_si_snr"] == 17.27 and published[5]["vocal_si_snr"] is None
    assert published[1]["overall_visqol"] == 4.12 and published[1]["song_sdr"] is None
    assert len(_records(_every_category(), "table2", with_paper=False)) == 2


def test_overall_needs_all_four_categories_and_says_what_it_lacks() -> None:
    rows = [one for one in _every_category() if one["category"] != "vocal"]
    for one in rows:
        if one["category"] == "multi_stems":
            one["visqol"] = None
    found = _records(rows, "table2")[0]
    assert [found[f"overall_{metric}"] for metric in PAPER_METRICS] == [None, None, None]
    assert found["missing"] == "no overall without vocal, multi_stems (ViSQOL)"
    assert found["vocal_items"] == 0 and found["multi_stems_sdr"] is not None


def test_the_papers_overall_is_the_mean_of_its_categories() -> None:
    for model in published_results.PAPER:
        assert set(model.table2) == set(tables.OVERALL)
        for place, overall in enumerate(model.overall):
            mean = math.fsum(values[place] for values in model.table2.values()) / 4
            assert mean == pytest.approx(overall, abs=0.0051)  # printed with two digits
        assert {len(values) for values in model.figure2.values()} == {len(published_results.BITRATES_BPS)}


def test_figure2_is_sorted_by_bitrate_and_counts_what_is_left_out() -> None:
    rows = [
        row(UNTOUCHED, f"{number}", name, sdr=float(number), visqol=None if number == 2 else 2.0)
        for name in ("vinyl", "mp3_128000", "mp3_24000", "aac_24000", "air")
        for number in range(3)
    ]
    found = _records(rows, "figure2")
    assert [one["degradation"] for one in found] == ["aac_24000", "mp3_24000", "mp3_128000", "air", "vinyl"]
    first = found[0]
    assert (first["sdr"], first["visqol"], first["items"], first["songs"]) == (1.0, 2.0, 3, 3)
    assert (first["visqol_low"], first["visqol_high"]) == (2.0, 2.0)
    assert first["sdr_low"] < 0 and first["sdr_high"] > 2  # three songs tell little
    assert first["left_out"] == "SI-SNR: 3, ViSQOL: 1"
    assert first["no_interval"] == "no item has this score"


def test_differences_are_paired_and_know_which_way_is_better() -> None:
    found = {
        (one["degradation"], one["category"], one["metric"]): one
        for one in _records(_every_category(), "differences")
    }
    parts = {key[:2] for key in found}
    assert parts == {
        ("all", "all"),
        ("mp3_24000", "all"),
        ("mp3_128000", "all"),
        *(("all", category) for category in CATEGORIES),
    }
    for metric, expected in (("sdr", 0.5), ("visqol", 0.05), ("lsd_high", -0.5), ("error_0_4000_hz", -0.5)):
        one = found["all", "all", metric]
        assert one["difference"] == pytest.approx(expected)
        assert (one["better_share"], one["pairs"], one["items"], one["songs"]) == (1.0, 10, 5, 5)
    assert found["all", "vocal", "sdr"]["no_interval"] == "all items are of one song"
    undefined = found["all", "all", "si_snr_mid"]
    assert (undefined["difference"], undefined["better_share"], undefined["left_out"]) == (None, None, 10)


def test_ties_are_not_better() -> None:
    rows = [row(UNTOUCHED, str(n), sdr=1.0) for n in range(4)]
    rows += [row("ours", str(n), sdr=value) for n, value in enumerate((1.0, 1.0 + 4e-9, 2.0, 0.5))]
    one = next(one for one in _records(rows, "differences") if one["metric"] == "sdr")
    assert one["better_share"] == 0.25


def test_flatness_has_no_better_share() -> None:
    rows = [row(UNTOUCHED, str(n), flatness_high=1.0) for n in range(4)]
    rows += [row("ours", str(n), flatness_high=3.0) for n in range(4)]
    one = next(one for one in _records(rows, "differences") if one["metric"] == "flatness_high")
    assert (one["difference"], one["better_share"]) == (2.0, None)


def test_only_items_that_both_models_have_are_compared() -> None:
    rows = [row(UNTOUCHED, str(n), sdr=float(n)) for n in (0, 1, 2, 4, 5)]
    rows += [row("ours", str(n), sdr=n + 10.0 * n) for n in (1, 2, 3, 4)] + [
        row("ours", "5", status="silent")
    ]
    one = next(one for one in _records(rows, "differences") if one["metric"] == "sdr")
    assert one["difference"] == pytest.approx((10 + 20 + 40) / 3)
    assert (one["pairs"], one["items"], one["songs"], one["left_out"]) == (3, 3, 3, 0)


def test_counts_of_every_status() -> None:
    rows = [row(UNTOUCHED, str(n), snr=9.0, visqol=2.0) for n in range(6)]
    rows += [
        row("ours", "0", snr=100.0, visqol=4.0),
        row("ours", "1", snr=99.9),
        row("ours", "2", status="silent"),
        row("ours", "3", status="not_finite", snr=1.0),
        row("ours", "4", status="unreadable", songs=[]),
        row("ours", "4", "mp3_32000", snr=8.0, visqol=3.0),
    ]
    found = _records(rows, "counts")[1]
    assert found == {
        "model": "ours",
        "scores": 6,
        "items": 5,
        "scored": 3,
        "silent": 1,
        "not_finite": 1,
        "unreadable": 1,
        "identical": 1,
        "without_visqol": 1,
    }
    means = [one["snr"] for one in _records(rows, "others") if one["model"] == "ours"]
    assert means == [pytest.approx(99.95), 8.0]  # means ignore items that are not scored


def test_identity_limit_equals_that_of_the_metrics() -> None:
    from apollo import metrics

    assert tables.IDENTICAL_DB == metrics.LIMIT_DB


def test_lower_is_better_names_metrics() -> None:
    assert set(METRICS) > LOWER_IS_BETTER
    assert [label(metric) for metric in ("si_snr_mid", "error_16000_22050_hz")] == [
        "SI-SNR mid",
        "error 16–22.05 kHz",
    ]
    assert (describe("mp3_24000"), describe("24k")) == ("MP3 at 24 kbps", "codec's output (24k)")


def test_order_of_rows_does_not_matter() -> None:
    generator = random.Random(1)
    rows = _every_category()
    for number, one in enumerate(rows):
        one["songs"] = [f"song {number % 5}", f"song {number % 3}"]
        one["sdr"] += generator.random()
    first = build_tables(score_rows.table(rows), FACTS)
    sentences = summarize(score_rows.table(rows))
    generator.shuffle(rows)
    halves = pa.concat_tables([score_rows.table(rows[:7]), score_rows.table(rows[7:])])
    assert build_tables(halves, FACTS) == first
    assert summarize(halves) == sentences
    other = build_tables(halves, FACTS, bootstrap=Bootstrap(seed=1))
    assert other["figure2"] != first["figure2"] and other["table2"] == first["table2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "is in the table of scores twice"),
        ({"item": "new", "sdr": math.nan}, "sdr holds scores that are not finite"),
        ({"item": "new", "status": "fine"}, "'fine' in the scores is none of scored"),
        ({"item": "new", "category": "opera"}, "'opera' in the scores is none of vocal"),
        ({"item": None}, "must be given in every row"),
        ({"item": "new", "songs": []}, "'new' is scored and names no song"),
        ({"item": "new", "songs": None}, "'new' is scored and names no song"),
    ],
)
def test_invalid_tables_are_refused(changes: dict[str, Any], message: str) -> None:
    rows = [row(UNTOUCHED, "item", sdr=1.0), row(UNTOUCHED, "item", sdr=2.0) | changes]
    with pytest.raises(ValueError, match=message):
        build_tables(score_rows.table(rows), {})


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="no column visqol"):
        read_scores(SCORES.empty_table().drop_columns(["visqol"]))


@pytest.mark.parametrize("models", [(), (UNTOUCHED,), ("ours",)])
@pytest.mark.parametrize("songs", ["one", "many"])
def test_degenerate_tables_have_headings_and_no_numbers(models: tuple[str, ...], songs: str) -> None:
    rows = [
        row(model, str(n), songs=["a" if songs == "one" else str(n)]) for model in models for n in range(3)
    ]
    made = build_tables(score_rows.table(rows), {}, with_paper=False)
    for table in made.values():
        numbers = [cell for line in table.rows for cell in line if isinstance(cell, float)]
        assert not numbers
        assert "nan" not in (table.to_csv() + table.to_markdown()).lower().replace("untouched", "")
    assert len(made["counts"].rows) == len(models)
    assert summarize(score_rows.table(rows))


def _awkward() -> ScoreTable:
    name = 'a,b|c "quoted"\nsecond <script>`*[x]\\'
    columns = ("model", "x", "x_low", "x_high", "y_sdr", "y_si_snr", "y_visqol", "items")
    rows: Any = (
        (name, 0.1 + 0.2, -0.001, 1 / 3, 1.0, None, 3.456, 7),
        ("plain", 2.0, None, None, None, None, None, 0),
        (None, None, None, None, 1.0, 2.0, 3.0, None),
    )
    return ScoreTable("name", "Title", "Note.", columns, rows)


def test_csv_keeps_every_digit_and_every_letter() -> None:
    heading, *lines = csv.reader(io.StringIO(_awkward().to_csv()))
    assert tuple(heading) == _awkward().columns
    for line, expected in zip(lines, _awkward().rows, strict=True):
        assert line[0] == (expected[0] or "")
        assert [float(cell) if cell else None for cell in line[1:]] == list(expected[1:])


def test_markdown_is_rounded_and_nothing_escapes_its_cell() -> None:
    title, _, heading, rule, *lines, _, note = _awkward().to_markdown().splitlines()
    assert (title, note) == ("### Title", "Note.")
    assert heading == "| model | x | y (SDR / SI-SNR / ViSQOL) | items |"
    assert rule == "| --- | --- | --- | --- |"
    assert lines == [
        r'| a,b\|c "quoted" second &lt;script&gt;\`\*\[x\]\\ | 0.30 [0.00, 0.33] | 1.00 / – / 3.46 | 7 |',
        "| plain | 2.00 | – | 0 |",
        "| – | – | 1.00 / 2.00 / 3.00 | – |",
    ]


def test_every_row_has_every_column() -> None:
    for table in build_tables(score_rows.table(_every_category()), FACTS).values():
        assert {len(line) for line in table.rows} == {len(table.columns)}
        assert len(set(table.columns)) == len(table.columns)
        assert table.note


def test_30_an_unchanged_signal_is_equal_in_the_summary_too() -> None:
    rows = [row(UNTOUCHED, str(n), visqol=2.0 + n / 4, si_snr=10.0) for n in range(8)]
    rows += [one | {"model": "same", "visqol": one["visqol"] + 4e-9, "si_snr": 10.0 - 4e-9} for one in rows]
    (line, *_) = summarize(score_rows.table(rows))
    assert "by ViSQOL equal: 0.00" in line and "by SI-SNR equal: 0.00 dB" in line


def test_summary_sentences() -> None:
    rows = []
    for number in range(8):
        for bitrate in (24_000, 64_000):
            name, shift = f"mp3_{bitrate}", 0.1 * (-1) ** number
            rows.append(row(UNTOUCHED, str(number), name, visqol=2.0, si_snr=10.0))
            rows.append(row("good", str(number), name, visqol=2.5 + shift, si_snr=9.0))
            rows.append(row("unsure", str(number), name, visqol=2.02 + shift, si_snr=10.0))
    lines = summarize(score_rows.table(rows))
    assert len(lines) == 6
    assert lines[0].startswith(
        "good against the untouched codec, over all degradations (16 pairs, 8 songs): by ViSQOL better: +0.50"
    )
    assert lines[0].endswith("by SI-SNR not better (worse): -1.00 dB [-1.00, -1.00].")
    assert lines[1].startswith("good: ViSQOL 2.50, +0.50 [+0.4")
    assert lines[1].endswith(
        "against the untouched MP3 at 24 kbps over 8 items of 8 songs; SI-SNR -1.00 dB [-1.00, -1.00]."
    )
    assert "by ViSQOL inconclusive, the interval contains 0: +0.02 [-0.0" in lines[3]
    assert lines[3].endswith("by SI-SNR equal: 0.00 dB [0.00, 0.00].")


def test_summary_without_an_interval_or_without_visqol() -> None:
    rows = [row(UNTOUCHED, "a", visqol=2.0, si_snr=1.0), row("ours", "a", visqol=4.0, si_snr=2.0)]
    conclusion, sentence = summarize(score_rows.table(rows))
    assert "by ViSQOL inconclusive: +2.00 (no interval: all items are of one song)" in conclusion
    assert sentence.startswith("ours: ViSQOL 4.00, +2.00 (no interval: all items are of one song) against")
    rows = [one | {"visqol": None} for one in rows] + [row("ours", "b", status="not_finite")]
    conclusion, sentence = summarize(score_rows.table(rows))
    assert "by ViSQOL inconclusive: not known (no item has this score)" in conclusion
    assert conclusion.endswith("1 of its results are not finite and left out.")
    assert sentence.startswith("ours: no ViSQOL; SI-SNR +1.00 dB")
    alone = summarize(score_rows.table([row("ours", "a", visqol=4.0)]))
    assert alone[0] == "ours: inconclusive, no item was scored with it and with the untouched codec."
    assert summarize(score_rows.table(rows[:1])) == (
        "Only the untouched codec was scored: there is nothing to compare.",
    )


def test_the_published_demo_clips(golden: Path) -> None:
    scores = score_rows.demo_scores(golden)
    made = build_tables(scores, {})
    found = {one["metric"]: one for one in made["differences"].records() if one["degradation"] == "all"}
    # by hand: the mean of restored - degraded over the five clips
    assert found["visqol"]["difference"] == pytest.approx(1.67052, abs=1e-9)
    assert found["si_snr"]["difference"] == pytest.approx(-0.41378, abs=1e-9)
    assert (found["visqol"]["better_share"], found["si_snr"]["better_share"]) == (1.0, 0.4)
    conclusion = summarize(scores)[0]
    assert "by ViSQOL better: +1.67" in conclusion and "by SI-SNR inconclusive" in conclusion


def test_facts_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FACTS["ours"].parameters = 1  # type: ignore[misc]
