"""Log lines: time, level and rank; levels of ours and of libraries; no passwords; forwarding from workers."""

import logging
import re
import warnings
from typing import Any

import pytest

from pipelines.runtime import logs

logger = logging.getLogger("pipelines.some.module")
_LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def test_a_line_has_time_and_level_and_goes_to_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    logger.info("hello")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(_LINE + "INFO hello\n", err)


def test_the_level_is_of_this_project_and_libraries_are_shown_from_warning_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    library = logging.getLogger("some_library")
    library.info("chatter")
    logs.configure("DEBUG")
    logger.debug("detail")
    library.debug("chatter")
    library.warning("trouble")
    logs.configure("ERROR")
    logger.warning("not shown")
    logger.error("broken")
    err = capsys.readouterr().err
    assert re.sub(_LINE, "", err).splitlines() == ["DEBUG detail", "WARNING trouble", "ERROR broken"]


def test_passwords_are_hidden_in_messages_and_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("cannot reach http://me:secret@host:5000")
    except RuntimeError:
        logger.exception("http://me:secret@host:5000 failed")
    err = capsys.readouterr().err
    assert "secret" not in err
    assert err.count("http://me:***@host:5000") == 3  # the message, the line of code, the error


def test_warnings_of_python_are_records(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # pytest has put its own there since
        logs.configure()
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    assert "WARNING" in (err := capsys.readouterr().err)
    assert "DeprecationWarning: old way" in err


def test_a_forwarded_record_keeps_level_time_logger_and_gets_its_rank(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[dict[str, Any]] = []
    logs.forward(sent.append, rank=3, level="INFO")
    logger.debug("not sent")
    try:
        raise ValueError("http://me:secret@host")
    except ValueError:
        logger.exception("step %d failed", 7)
    assert capsys.readouterr().err == ""
    (record,) = sent
    assert "secret" not in repr(record)
    logs.configure("INFO")
    caplog.clear()
    logs.emit_forwarded({**record, "created": 0.0})
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"19(69|70)-\d\d-\d\d \d\d:\d\d:\d\d ERROR \[rank 3\] step 7 failed", lines[0])
    assert lines[1].startswith("Traceback")
    assert [(one.name, one.levelname) for one in caplog.records] == [("pipelines.some.module", "ERROR")]
    logs.configure("CRITICAL")
    logs.emit_forwarded(record)
    assert capsys.readouterr().err == ""


def test_the_level_shown_is_known(caplog: pytest.LogCaptureFixture) -> None:
    for level in logs.LEVELS:
        logs.configure(level)
        assert logs.current_level() == level
