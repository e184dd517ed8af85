"""A table of results: plain cells, as CSV with every digit and as Markdown for people."""

import csv
import html
import io
import re
from dataclasses import dataclass

Cell = str | int | float | None

_JOINED_METRICS = ("sdr", "si_snr", "visqol")
_HEADINGS = {"sdr": "SDR", "si_snr": "SI-SNR", "visqol": "ViSQOL", "snr": "SNR", "rtf": "RTF"}
_MISSING = "–"


@dataclass(frozen=True)
class ScoreTable:
    """A table whose cells are text, numbers, or None where there is nothing to say.

    In Markdown, columns `x`, `x_low`, `x_high` are one cell, `x [low, high]`, and columns `x_sdr`,
    `x_si_snr`, `x_visqol` are one, `a / b / c`, as the paper prints them.

    Args:
        name: Of its files, without ending.
        title: For people.
        note: What the columns mean and how they were made.
        columns: Names.
        rows: Cells, one a column.
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def records(self) -> list[dict[str, Cell]]:
        """Give every row by the columns' names."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def headings(self) -> tuple[str, ...]:
        """Name the columns as Markdown shows them, some of them together."""
        return tuple(heading for heading, _ in _groups(self.columns))

    def display_rows(self) -> tuple[tuple[tuple[str, Cell], ...], ...]:
        """Give every row below these headings: what is shown, and the first of the cells it stands for."""
        groups = _groups(self.columns)
        return tuple(
            tuple(
                (_join_cells(names, [record[name] for name in names]), record[names[0]])
                for _, names in groups
            )
            for record in self.records()
        )

    def to_csv(self) -> str:
        """Write the table with a heading; numbers with every digit, None as nothing."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([repr(cell) if isinstance(cell, float) else cell for cell in row])
        return stream.getvalue()

    def to_markdown(self) -> str:
        """Write title, table and note; numbers rounded to two digits, None as a dash."""
        headings = self.headings()
        lines = [_line(list(headings)), _line(["---"] * len(headings))]
        for row in self.display_rows():
            lines.append(_line([_escape(text) if isinstance(first, str) else text for text, first in row]))
        return "\n".join((f"### {_escape(self.title)}", "", *lines, "", _escape(self.note), ""))


def _groups(columns: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Give the headings of Markdown, each with the columns that are shown below it."""
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
    shown = [_format_cell(cell) for cell in cells]
    if all(cell is None for cell in cells[1:]):  # one column, or a mean without bounds, or nothing
        return shown[0]
    if names[1].endswith("_low"):
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"
    return " / ".join(shown)


def _format_cell(cell: Cell) -> str:
    if cell is None or cell == "":
        return _MISSING
    if isinstance(cell, float):
        return f"{round(cell, 2) + 0.0:.2f}"  # and never -0.00
    return str(cell)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Give text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(line, quote=False))
