"""Fault 10: ffmpeg missing, not executable, hanging, failing, lying; never a short row in a shard."""

import stat
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from apollo.audio.ffmpeg import find_ffmpeg
from pipelines.audio.codec import CodecConfig
from pipelines.preprocess.run import preprocess
from pipelines.runtime.outcome import Exit
from tests.support import invariants
from tests.support.datasets import config

# Misbehaves for about a quarter of the excerpts, always the same ones: by a digit of their digest.
_WRAPPER = """#!/usr/bin/env bash
case "$*" in *-version*) exec "{real}" "$@";; esac
excerpt=$(mktemp); trap 'rm -f "$excerpt"' EXIT; cat > "$excerpt"
case $(sha256sum < "$excerpt") in [0-3]*) rm -f "$excerpt"; {misbehave};; esac
"{real}" "$@" < "$excerpt"
"""
_MISBEHAVIOUR = {
    "hangs": ("exec sleep 600", "timed out after"),
    "fails": ("echo 'out of luck' >&2; exit 7", "out of luck"),
    "writes nothing": ("exit 0", "no MPEG audio frame"),
    "writes half": ('head -c 26460 /dev/zero | "{real}" "$@"; exit 0', "samples for 132300"),
}


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def run(data: Path, output: Path, ffmpeg: str) -> Any:
    codec = CodecConfig(bitrates_bps=(24_000, 128_000), ffmpeg=ffmpeg, timeout_seconds=4)
    return preprocess(config(data, output, codec=codec))


@pytest.mark.parametrize(
    "kind",
    [
        "fails",
        *(pytest.param(k, marks=pytest.mark.faults) for k in ("hangs", "writes nothing", "writes half")),
    ],
)
def test_10_a_misbehaving_ffmpeg_costs_its_recipes_only(
    kind: str, in_process_actors: None, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    misbehave, reason = _MISBEHAVIOUR[kind]
    real = find_ffmpeg()
    text = _WRAPPER.replace("{misbehave}", misbehave).replace("{real}", real)
    outcome = run(data, tmp_path / "shards", program(tmp_path / "ffmpeg", text))
    assert outcome.code == Exit.REJECTS, outcome.message
    rejected = invariants.check(tmp_path / "shards")
    assert 0 < len(rejected) < 20
    assert all(reason in text for text in rejected.values()), rejected
    expected = {
        row["recipe_id"]: row
        for p in invariants.shards(undisturbed).values()
        for row in pq.read_table(p).to_pylist()
    }
    for path in invariants.shards(tmp_path / "shards").values():
        for row in pq.read_table(path).to_pylist():
            assert row == expected[row["recipe_id"]]


def test_10_rejected_recipes_are_made_when_asked_for_again(
    in_process_actors: None, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """An ffmpeg that fails while a file is there, as after an outage; the program itself stays the same."""
    trouble = tmp_path / "trouble"
    trouble.touch()
    real = find_ffmpeg()
    text = _WRAPPER.replace("[0-3]*)", f'[0-3]*) [ -e {trouble} ] || exec "{real}" "$@" < "$excerpt";')
    text = text.replace('rm -f "$excerpt"; {misbehave}', "exit 7").replace("{real}", real)
    wrapper, output = program(tmp_path / "ffmpeg", text), tmp_path / "shards"
    assert run(data, output, wrapper).code == Exit.REJECTS
    trouble.unlink()
    assert run(data, output, wrapper).code == Exit.REJECTS  # a second run alone changes nothing
    codec = CodecConfig(bitrates_bps=(24_000, 128_000), ffmpeg=wrapper, timeout_seconds=4)
    assert preprocess(config(data, output, codec=codec, retry_rejects=True)).code == Exit.DONE
    invariants.check(output, undisturbed)


@pytest.mark.parametrize("kind", ["missing", "not executable"])
def test_10_without_ffmpeg_nothing_begins(kind: str, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "ffmpeg"
    if kind == "not executable":
        path.write_text("#!/bin/sh\n")
    outcome = run(data, tmp_path / "shards", str(path))
    assert outcome.code == Exit.FAILED
    assert "does not exist or is not executable" in outcome.message
    assert not list((tmp_path / "shards").glob("*/shard-*"))
