"""Runs: one holder per output, one configuration per output, and errors that say what differs."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UsageError, root_cause
from pipelines.runtime.outcome import RESULT, Exit, write_result
from pipelines.runtime.run import FINGERPRINT, absolute_location, check_fingerprint, lock_output
from pipelines.runtime.signals import sigterm_as_interrupt
from pipelines.runtime.versions import check_versions, software_versions
from pipelines.storage.folder import Folder

HOLDER = """
import sys
from pipelines.runtime.run import lock_output
from pipelines.storage.folder import Folder
with lock_output(Folder(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "output"))


def _holder(output: Folder) -> "subprocess.Popen[str]":
    """Start another process that holds the output until its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, output.location],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_relative_path_is_made_absolute_outside_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert absolute_location("shards", "--output") == str(tmp_path / "shards")


def test_relative_path_is_refused_inside_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UsageError, match=r"--output 'shards' is relative.*absolute path.*s3://"):
        absolute_location("shards", "--output")
    assert absolute_location("/data/x/../shards/", "--output") == "/data/shards"
    assert absolute_location("s3://bucket/shards/", "--output") == "s3://bucket/shards"


def test_second_process_is_refused_while_the_first_holds(output: Folder) -> None:
    process = _holder(output)
    try:
        with pytest.raises(UsageError, match="another run is writing to"), lock_output(output):
            pass
    finally:
        process.communicate("")
    with lock_output(output):
        pass


def test_killed_holder_holds_no_longer(output: Folder) -> None:
    process = _holder(output)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lock_output(output):
        pass


def test_holder_clears_what_a_killed_writer_left_and_a_refused_one_does_not(
    output: Folder, tmp_path: Path
) -> None:
    process = _holder(output)
    left = tmp_path / "output" / "train" / ".shard.0000.part"
    left.parent.mkdir()
    left.touch()
    try:
        with pytest.raises(UsageError), lock_output(output):
            pass
        assert left.exists()
    finally:
        process.communicate("")
    with lock_output(output):
        assert not left.exists()


def test_hold_is_given_up_when_the_run_fails(output: Folder) -> None:
    with pytest.raises(RuntimeError, match="broken"), lock_output(output):
        raise RuntimeError("broken")
    with lock_output(output):
        pass


def _terminate_inside() -> None:
    with sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)


def test_terminate_signal_interrupts_as_control_c_does_and_only_inside() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        _terminate_inside()
    assert signal.getsignal(signal.SIGTERM) is before


def test_interruptible_does_nothing_outside_the_main_thread() -> None:
    done: list[bool] = []

    def work() -> None:
        with sigterm_as_interrupt():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_root_cause_is_what_was_raised_first() -> None:
    error = RuntimeError("wrapped")
    error.__cause__ = OSError(28, "No space left on device")
    assert root_cause(error) == "OSError: [Errno 28] No space left on device"


def test_root_cause_is_one_line() -> None:
    assert root_cause(ValueError("\n  the reason  \nand more\n")) == "ValueError: the reason"


def test_root_cause_is_found_in_the_text_that_ray_brings_from_another_process() -> None:
    text = (
        "\x1b[36mray::MapWorker.submit()\x1b[39m (pid=7, ip=10.0.0.1)\n"
        '  File "storage.py", line 3, in write\n'
        "OSError: [Errno 28] No space left on device\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "ray.exceptions.UserCodeException: Failed to process the following data block\n"
    )
    assert root_cause(RuntimeError(text)) == "OSError: [Errno 28] No space left on device"


def test_root_cause_of_an_error_without_words_is_its_name() -> None:
    assert root_cause(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_versions_name_all_that_decides_the_bytes() -> None:
    found = software_versions(None)
    assert set(found) == {"package", "schema", "ffmpeg", "libsndfile", "arrow", "numpy", "soxr"}
    assert all(found.values())
    check_versions(found, None)


def test_version_that_differs_on_a_node_is_named() -> None:
    expected = software_versions(None) | {"libsndfile": "0.9.9", "arrow": "1.0"}
    with pytest.raises(
        RuntimeError, match=r"arrow was '1\.0', is .*; libsndfile was '0\.9\.9', is"
    ) as caught:
        check_versions(expected, None)
    assert "ffmpeg" not in str(caught.value)


def test_other_ffmpeg_is_another_version(tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'ffmpeg version 1.2.3 Copyright'\n")
    program.chmod(0o755)
    assert software_versions(str(program))["ffmpeg"].startswith("1.2.3 sha256:")
    with pytest.raises(RuntimeError, match=r"ffmpeg was .*, is '1\.2\.3 sha256:"):
        check_versions(software_versions(None), str(program))


def test_output_is_claimed_once_and_by_the_same_again(output: Folder) -> None:
    fingerprint = {"config": {"seed": 0, "rates": (1, 2)}, "versions": {"arrow": "1"}}
    check_fingerprint(output, fingerprint)
    before = output.entries()
    check_fingerprint(output, fingerprint)
    assert output.entries() == before  # not written again


def test_claim_names_what_differs_and_changes_nothing(output: Folder) -> None:
    check_fingerprint(
        output, {"config": {"seed": 0, "codec": {"quality": 5}, "gone": 1}, "versions": {"arrow": "1"}}
    )
    before = output.read(FINGERPRINT)
    with pytest.raises(UsageError) as caught:
        check_fingerprint(
            output, {"config": {"seed": 7, "codec": {"quality": 5}, "new": 2}, "versions": {"arrow": "1"}}
        )
    message = str(caught.value)
    for difference in ("config.seed was 0, is 7", "config.gone was 1, is None", "config.new was None, is 2"):
        assert difference in message
    assert "quality" not in message and "arrow" not in message
    assert output.read(FINGERPRINT) == before


def test_claim_with_many_differences_names_five_and_counts_the_others(output: Folder) -> None:
    check_fingerprint(output, {str(number): 0 for number in range(9)})
    with pytest.raises(UsageError, match="and 4 more"):
        check_fingerprint(output, {str(number): 1 for number in range(9)})


@pytest.mark.parametrize(
    "code, status",
    [
        (Exit.DONE, "done"),
        (Exit.FAILED, "failed"),
        (Exit.USAGE, "usage"),
        (Exit.REJECTS, "rejects"),
        (Exit.INTERRUPTED, "interrupted"),
    ],
)
def test_result_tells_status_code_message_and_facts(output: Folder, code: Exit, status: str) -> None:
    write_result(output, code, "why", planned=5)
    found: dict[str, Any] = json.loads(output.read(RESULT))
    assert found == {"status": status, "exit_code": int(code), "message": "why", "planned": 5}


def test_result_of_a_run_that_goes_on_has_no_code(output: Folder) -> None:
    write_result(output, None, "rendering")
    found = json.loads(output.read(RESULT))
    assert found == {"status": "running", "exit_code": None, "message": "rendering"}


def test_exit_codes_are_the_documented_ones() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "REJECTS": 3,
        "INTERRUPTED": 130,
    }
