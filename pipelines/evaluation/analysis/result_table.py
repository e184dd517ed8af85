"""A table of results: CSV with all digits, Markdown with rounded values."""

import csv
import html
import io
import re
from dataclasses import dataclass

Cell = str | int | float | None

_JOINED_METRICS = ("sdr", "si_snr", "visqol")
METRIC_NAMES = {
    "sdr": "SDR",
    "si_snr": "SI-SNR",
    "visqol": "ViSQOL",
    "zimtohrli": "Zimtohrli",
    "two_f": "2f-model",
    "snr": "SNR",
}
_HEADINGS = {**METRIC_NAMES, "rtf": "RTF"}
_MISSING = "–"


@dataclass(frozen=True)
class ScoreTable:
    """A table whose cells are text, numbers, or None for missing values.

    In Markdown, columns `x`, `x_low`, `x_high` are one cell, `x [low, high]`, and columns `x_sdr`,
    `x_si_snr`, `x_visqol` are one, `a / b / c`, as in the paper.

    Args:
        name: Of its files, without extension.
        title: Heading.
        note: Description of the columns.
        columns: Names.
        rows: Cells, one per column.
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def records(self) -> list[dict[str, Cell]]:
        """Return every row as a dictionary by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def headings(self) -> tuple[str, ...]:
        """Return the headings of the Markdown table, in which some columns are joined."""
        return tuple(heading for heading, _ in _groups(self.columns))

    def display_rows(self) -> tuple[tuple[tuple[str, Cell], ...], ...]:
        """Return the rows below these headings: the text of each cell and the first value in it."""
        groups = _groups(self.columns)
        return tuple(
            tuple(
                (_join_cells(names, [record[name] for name in names]), record[names[0]])
                for _, names in groups
            )
            for record in self.records()
        )

    def to_csv(self) -> str:
        """Return the table as CSV; numbers with all digits, None as an empty field."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([repr(cell) if isinstance(cell, float) else cell for cell in row])
        return stream.getvalue()

    def to_markdown(self) -> str:
        """Return title, table and note as Markdown; numbers with two decimals, None as a dash."""
        headings = self.headings()
        lines = [_line(list(headings)), _line(["---"] * len(headings))]
        for row in self.display_rows():
            lines.append(_line([_escape(text) if isinstance(first, str) else text for text, first in row]))
        return "\n".join((f"### {_escape(self.title)}", "", *lines, "", _escape(self.note), ""))


def _groups(columns: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the headings of the Markdown table, each with its columns."""
    groups: list[tuple[str, tuple[str, ...]]] = []
    taken: set[str] = set()
    for column in columns:
        if column in taken:
            continue
        kind = column.removesuffix("_sdr")
        names: tuple[str, ...] = (column,)
        heading = _heading(column)
        if f"{column}_low" in columns and f"{column}_high" in columns:
            names = (column, f"{column}_low", f"{column}_high")
        elif kind != column and all(f"{kind}_{metric}" in columns for metric in _JOINED_METRICS):
            names = tuple(f"{kind}_{metric}" for metric in _JOINED_METRICS)
            heading = f"{_heading(kind)} (SDR / SI-SNR / ViSQOL)"
        taken.update(names)
        groups.append((heading, names))
    return groups


def _heading(column: str) -> str:
    return _HEADINGS.get(column, column.replace("_", " "))


def _join_cells(names: tuple[str, ...], cells: list[Cell]) -> str:
    texts = [_format_cell(cell) for cell in cells]
    if all(cell is None for cell in cells[1:]):  # one column, or a mean without bounds, or nothing
        return texts[0]
    if names[1].endswith("_low"):
        return f"{texts[0]} [{texts[1]}, {texts[2]}]"
    return " / ".join(texts)


def _format_cell(cell: Cell) -> str:
    if cell is None or cell == "":
        return _MISSING
    if isinstance(cell, float):
        return f"{round(cell, 2) + 0.0:.2f}"  # + 0.0 avoids -0.00
    return str(cell)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Escape text for a Markdown cell."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(line, quote=False))
