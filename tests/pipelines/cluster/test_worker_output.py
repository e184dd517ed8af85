"""What of the output of Ray's processes is logged: warnings, errors and tracebacks, no chatter."""

import logging
from typing import Any

import pytest

from pipelines.cluster.worker_output import WorkerOutput


def _logged(caplog: pytest.LogCaptureFixture, *lines: str, **batch: Any) -> list[tuple[str, str]]:
    caplog.clear()
    WorkerOutput()({"pid": 7, "ip": "10.0.0.2", "localhost": "10.0.0.1", "lines": list(lines), **batch})
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    "line, level, text",
    [
        (
            "2026-11-27 12:56:36,814\tERROR state.py:745 -- An exception",
            "ERROR",
            "state.py:745 -- An exception",
        ),
        ("2026-11-27 12:56:36 WARNING ViSQOL is missing", "WARNING", "ViSQOL is missing"),
        ("/a/b.py:17: UserWarning: odd input", "WARNING", "/a/b.py:17: UserWarning: odd input"),
        ("[2026-11-27 12:56:38,206 E 20715 20715] (raylet) x.cc:5: lost", "ERROR", None),
        ("torch.OutOfMemoryError: CUDA out of memory", "ERROR", None),
        ("Fatal Python error: Segmentation fault", "ERROR", None),
        ("[FailurePolicy] RETRY", "WARNING", None),
    ],
)
def test_warnings_and_errors_are_logged_with_their_level(
    line: str, level: str, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert _logged(caplog, line, actor_name="Scorer") == [
        (level, f"(Scorer pid=7, ip=10.0.0.2) {text or line}")
    ]


def test_workers_killed_for_memory_are_an_error_of_their_node(caplog: pytest.LogCaptureFixture) -> None:
    """The line is Ray 2.60's, of a worker that was killed at a memory usage threshold of 0.35."""
    line = (
        "[2026-11-28 00:29:13,995 E 19196 19196] (raylet) node_manager.cc:3517: 4 Workers (tasks / actors) "
        "killed due to memory pressure (OOM), 0 Workers crashed due to other reasons at node (ID: 11525a8c, "
        "IP: 127.0.0.1) over the last time period."
    )
    assert _logged(caplog, line, pid="raylet") == [("ERROR", f"(raylet, ip=10.0.0.2) {line}")]


@pytest.mark.parametrize(
    "line",
    [
        "chatter",
        "2026-11-27 12:56:36 INFO step 7",
        "Started training worker group of size 1",
        "[2026-11-27 12:56:07,110 E 1 1] x.cc:1: Actor has constructor arguments in the object store",
        "Failed to query actor state. State API may be temporarily unavailable. Continuing to monitor.",
        "[2026-11-27 12:56:38,206 W 20715 20715] (raylet) slow",
    ],
)
def test_chatter_is_not_logged(line: str, caplog: pytest.LogCaptureFixture) -> None:
    assert _logged(caplog, line) == []


def test_a_traceback_is_logged_to_its_last_line(caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        "before",
        "Traceback (most recent call last):",
        '  File "x.py", line 1',
        "    f()",
        "Odd: why",
        "after",
    ]
    assert [text.partition(") ")[2] for _, text in _logged(caplog, *lines)] == lines[1:5]


def test_training_workers_log_by_the_coordinator_and_only_crash_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = ["2026-11-27 12:56:36 WARNING twice", "*** SIGSEGV received at time=1 ***"]
    found = _logged(caplog, *lines, actor_name="RayTrainWorker")
    assert found == [("ERROR", f"(RayTrainWorker pid=7, ip=10.0.0.2) {lines[1]}")]


def test_35_messages_of_ray_about_the_cluster_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    text = "A worker died or was killed while executing a task\nby an unexpected system error."
    WorkerOutput()({"lines": [text], "pid": "raylet", "is_err": False})  # as Ray sends them
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"Ray: {' '.join(text.split())}")
    ]


def test_the_address_of_this_machine_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert _logged(caplog, "X: UserWarning: y", ip="10.0.0.1", task_name="review")[0][1].startswith(
        "(review pid=7) "
    )
