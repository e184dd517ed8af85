"""The report of an evaluation: tables and figures as files, and an HTML page with listening examples."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipelines.evaluation import listening_page
from pipelines.evaluation.analysis import figures, tables
from pipelines.evaluation.analysis.bootstrap import Bootstrap
from pipelines.evaluation.analysis.result_table import Cell, ScoreTable
from pipelines.evaluation.analysis.summary import summarize
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.scorer import Samples
from pipelines.schema import METRICS, SAMPLE_RATE, SCORED, UNTOUCHED
from pipelines.storage.folder import Folder

REPORT, SUMMARY = "report.html", "verdicts.json"
_STATE, _OLD_STATE = "report_state.json", "told.json"
_RANKS = ("worst", "median", "best")
_RECIPE = re.compile(r"^([0-9a-f]{12})[0-9a-f]{20,}$")  # a digest: its first digits identify it
_BY = ("visqol", "si_snr")  # items are ranked by; the second if the first is undefined


@dataclass(frozen=True)
class ListeningExample:
    """An item of the report's audio players.

    Args:
        item: Name of the item.
        degradation: Name of the degradation.
        rank: `worst`, `median` or `best`, by the first model's scores.
    """

    item: str
    degradation: str
    rank: str


def choose_listening_examples(scores: pa.Table, models: Sequence[str], items: int) -> list[ListeningExample]:
    """Choose items evenly from the worst to the best at every degradation.

    Args:
        scores: The table of scores.
        models: Names; items are ranked by the first one that is not the codec.
        items: Number of items per degradation.
    """
    ranked = next((name for name in models if name != UNTOUCHED), UNTOUCHED)
    rows = [row for row in scores.to_pylist() if row["model"] == ranked and row["status"] == SCORED]
    chosen: list[ListeningExample] = []
    for degradation in dict.fromkeys(row["degradation"] for row in rows):
        here = [row for row in rows if row["degradation"] == degradation]
        metric = next((name for name in _BY if any(row[name] is not None for row in here)), _BY[-1])
        here = sorted(
            (row for row in here if row[metric] is not None), key=lambda row: (row[metric], row["item"])
        )
        for place, row in _choose_evenly(here, items):
            rank = "" if len(here) == 1 else _RANKS[round(2 * place)] if 2 * place in (0, 1, 2) else ""
            chosen.append(ListeningExample(row["item"], degradation, rank))
    return chosen


def _choose_evenly(rows: list[dict[str, Any]], count: int) -> list[tuple[float, dict[str, Any]]]:
    """Choose rows evenly from the first to the last; return each with its position from 0 to 1."""
    count = min(count, len(rows))
    if count == 1:
        return [(0.5, rows[len(rows) // 2])]
    places = [number / (count - 1) for number in range(count)]
    return [(place, rows[round(place * (len(rows) - 1))]) for place in places]


def is_report_current(output: Folder, key: str) -> bool:
    """Return whether the report exists and was made from these inputs.

    Args:
        output: Of the evaluation.
        key: Hash of the inputs.
    """
    try:
        state = _read_state(output)
        return bool(state["key"] == key) and all(output.exists(name) for name in state["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def report_files(output: Folder) -> list[str]:
    """Return the names of the report's files."""
    files: list[str] = _read_state(output)["files"]
    return files


def _read_state(output: Folder) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(output.read_renamed(_STATE, old_name=_OLD_STATE))
    return state


def write_report(
    config: EvaluateConfig,
    output: Folder,
    scores: pa.Table,
    facts: dict[str, tables.ModelFacts],
    examples: Sequence[tuple[ListeningExample, dict[str, Samples]]],
    *,
    key: str,
    hardware: str,
) -> None:
    """Write tables, figures and the HTML page.

    Args:
        config: Of the evaluation.
        output: Of the evaluation.
        scores: All scores.
        facts: Size and speed of the models, by name.
        examples: Listening examples with their audio by version.
        key: Hash of the inputs.
        hardware: Description of the hardware, for the note of Table II.
    """
    bootstrap = Bootstrap(resamples=config.bootstrap_resamples, seed=config.bootstrap_seed)
    made = tables.build_tables(scores, facts, bootstrap=bootstrap)
    made["table2"] = replace(made["table2"], note=f"{made['table2'].note} {hardware}")
    sentences = summarize(scores, bootstrap=bootstrap)
    pictures = {
        "figure2": figures.draw_figure2(made["figure2"]),
        "bands": figures.draw_bands(made["differences"]),
    }
    files: dict[str, bytes] = {SUMMARY: json.dumps(sentences, indent=1).encode()}
    for name, table in made.items():
        files[f"{name}.csv"], files[f"{name}.md"] = table.to_csv().encode(), table.to_markdown().encode()
    files |= {f"{name}.png": png for name, png in pictures.items()}
    page = listening_page.Page(
        title="Evaluation",
        summary=tuple(sentences),
        tables=tuple(_html_table(table) for table in made.values()),
        figures=(
            listening_page.Figure(
                title=made["figure2"].title, note=made["figure2"].note, png=pictures["figure2"]
            ),
            listening_page.Figure(title="Error by band", note="", png=pictures["bands"]),
        ),
        comparisons=_comparisons(scores, examples),
        sample_rate=SAMPLE_RATE,
    )
    files[REPORT] = listening_page.write_page(page).encode()
    for name in (_STATE, _OLD_STATE):
        output.delete(name)  # the report is invalid until all files are written
    for name, content in files.items():
        output.write(name, content)
    output.write(_STATE, json.dumps({"key": key, "files": sorted(files)}, indent=1).encode())


def _html_table(table: ScoreTable) -> listening_page.Table:
    rows = tuple(tuple(_html_value(*cell) for cell in row) for row in table.display_rows())
    return listening_page.Table(title=table.title, note=table.note, columns=table.headings(), rows=rows)


def _html_value(text: str, first: Cell) -> listening_page.Value:
    """Return what the page shows for a group of cells, which it sorts by the first."""
    if isinstance(first, str) or first is None:
        return first if text == first else text
    return first if isinstance(first, int) else listening_page.MultiValueCell(text, first)


def _comparisons(
    scores: pa.Table, examples: Sequence[tuple[ListeningExample, dict[str, Samples]]]
) -> tuple[listening_page.Comparison, ...]:
    wanted = {(choice.item, choice.degradation) for choice, _ in examples}
    rows = {
        (row["item"], row["degradation"], row["model"]): row
        for row in scores.to_pylist()
        if (row["item"], row["degradation"]) in wanted
    }
    found = []
    for choice, versions in examples:
        if not versions:
            continue
        place = choice.item, choice.degradation
        own = {name: rows[(*place, name)] for name in versions if (*place, name) in rows}
        found.append(
            listening_page.Comparison(
                item=_RECIPE.sub(r"recipe \1", choice.item),
                degradation=choice.degradation,
                rank=choice.rank,
                category=next(iter(own.values()))["category"],
                versions=versions,
                scores={name: {metric: row[metric] for metric in METRICS} for name, row in own.items()},
            )
        )
    return tuple(found)
