"""Pools of actors: what workers log reaches the driver."""

import contextlib
import io
import logging
from typing import Any

import pytest

from pipelines.cluster.actor_pool import stream_actors
from pipelines.cluster.torch_trainer import BackgroundTask
from pipelines.cluster.worker_output import WorkerOutput


def test_35_warnings_of_workers_are_lines_that_the_driver_logs(
    ray_address: str, caplog: pytest.LogCaptureFixture
) -> None:
    def warn() -> str:  # in here, so that Ray's processes get it by value
        with contextlib.redirect_stderr(io.StringIO()) as written:
            logging.getLogger("pipelines.any").warning("odd row")
        return written.getvalue()

    class Worker:
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return {**row, "line": warn()}

    rows = stream_actors([{"number": 0}], Worker, (), actors=1, block_rows=1)
    lines = [row["line"] for row in rows]
    lines.append(BackgroundTask(warn).poll(60)[1])
    for line in lines:
        caplog.clear()
        WorkerOutput()(
            {"pid": 7, "ip": "here", "localhost": "here", "lines": [line.rstrip()], "actor_name": "A"}
        )
        assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
            ("WARNING", "(A pid=7) odd row")
        ]
