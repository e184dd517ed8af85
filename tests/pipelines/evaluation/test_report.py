"""The state of a report: whether its files are those that the scores give."""

import json
import warnings
from pathlib import Path

import pytest

from pipelines.evaluation.report import is_report_current, report_files
from pipelines.storage.folder import Folder


@pytest.mark.parametrize(("name", "num_warnings"), [("report_state.json", 0), ("told.json", 1)])
def test_report_is_current_with_the_same_key_and_all_files(
    tmp_path: Path, name: str, num_warnings: int
) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        _check_state(tmp_path, name)
    assert [one.category for one in seen] == [FutureWarning] * num_warnings
    assert all("told.json is now called report_state.json" in str(one.message) for one in seen)


def _check_state(tmp_path: Path, name: str) -> None:
    output = Folder(str(tmp_path))
    assert not is_report_current(output, "key")
    (tmp_path / name).write_text(json.dumps({"key": "key", "files": ["table2.csv"]}))
    assert not is_report_current(output, "key")
    (tmp_path / "table2.csv").write_text("model\n")
    assert is_report_current(output, "key")
    assert not is_report_current(output, "another key")
    assert report_files(output) == ["table2.csv"]
