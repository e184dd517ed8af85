"""The state of a report: whether its files are those that the scores give."""

import json
from pathlib import Path

import pytest

from pipelines.evaluation.report import is_report_current, report_files
from pipelines.storage.folder import Folder


@pytest.mark.parametrize("name", ["report_state.json", "told.json"])
def test_report_is_current_with_the_same_key_and_all_files(tmp_path: Path, name: str) -> None:
    output = Folder(str(tmp_path))
    assert not is_report_current(output, "key")
    (tmp_path / name).write_text(json.dumps({"key": "key", "files": ["table2.csv"]}))
    assert not is_report_current(output, "key")
    (tmp_path / "table2.csv").write_text("model\n")
    assert is_report_current(output, "key")
    assert not is_report_current(output, "another key")
    assert report_files(output) == ["table2.csv"]
