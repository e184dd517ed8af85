"""Faults 5-7 and 9: damaged, finished, foreign, full and read-only outputs."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.audio.codec import CodecConfig
from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.run import preprocess
from pipelines.preprocess.sources import SourcesConfig
from pipelines.runtime.outcome import Exit
from pipelines.runtime.run import lock_output
from pipelines.storage.folder import Folder
from tests.support import invariants
from tests.support.datasets import config, encode, music, write


@pytest.fixture
def output(undisturbed: Path, tmp_path: Path) -> Path:
    """A finished output of one's own."""
    return Path(shutil.copytree(undisturbed, tmp_path / "shards"))


def test_5_damaged_shards_are_found_and_only_these_are_made_again(
    in_process_actors: None, data: Path, undisturbed: Path, output: Path
) -> None:
    names = sorted(invariants.shards(output))
    truncated, emptied, flipped, missing = (output / name for name in names[:4])
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    emptied.write_bytes(b"")
    content = bytearray(flipped.read_bytes())
    content[len(content) // 3] ^= 1
    flipped.write_bytes(content)
    missing.unlink()
    before = invariants.times(output)
    outcome = preprocess(config(data, output))
    assert outcome.code == Exit.DONE, outcome.message
    invariants.check(output, undisturbed)
    after = invariants.times(output)
    assert {name for name in names if before.get(name) != after[name]} == set(names[:4])


def test_5_a_damaged_commit_object_is_made_again(
    in_process_actors: None, data: Path, undisturbed: Path, output: Path
) -> None:
    (output / "commits/train-00001.json").write_text('{"split": "train", "sh')
    assert preprocess(config(data, output)).code == Exit.DONE
    invariants.check(output, undisturbed)


def test_6_a_run_after_success_touches_nothing(data: Path, output: Path) -> None:
    before = invariants.times(output)
    outcome = preprocess(config(data, output))
    assert (outcome.code, outcome.message[:13]) == (Exit.DONE, "nothing to do")
    assert invariants.times(output) == before


def test_6_a_second_run_on_one_output_is_refused(data: Path, output: Path) -> None:
    before = invariants.times(output)
    code = f"""
import sys, time
from pipelines.runtime.run import lock_output
from pipelines.preprocess.sources import SourcesConfig
from pipelines.storage.folder import Folder
with lock_output(Folder({str(output)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        outcome = preprocess(config(data, output))
        holder.kill()
    assert outcome.code == Exit.USAGE
    assert "another run is writing" in outcome.message
    assert invariants.times(output) == before
    with lock_output(Folder(str(output))):  # the lock ended with its process
        pass


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 7}, "config.seed was 0, is 7"),
        (
            {"recipes": RecipesConfig(train=21, valid=4, test_per_category=3)},
            "config.recipes.train was 20, is 21",
        ),
        ({"codec": CodecConfig(bitrates_bps=(24_000,))}, "config.codec.bitrates_bps"),
    ],
)
def test_7_another_configuration_is_refused_and_named(
    changes: dict[str, object], named: str, data: Path, output: Path
) -> None:
    before = invariants.times(output)
    outcome = preprocess(replace(config(data, output), **changes))
    assert outcome.code == Exit.USAGE
    assert named in outcome.message
    assert invariants.times(output) == before


def test_7_changed_source_files_are_refused_and_named(
    in_process_actors: None, data: Path, tmp_path: Path
) -> None:
    copy, output = Path(shutil.copytree(data, tmp_path / "data")), tmp_path / "shards"
    small = RecipesConfig(train=2, valid=0, test_per_category=0)
    assert preprocess(config(copy, output, recipes=small)).code == Exit.DONE
    before = invariants.times(output)
    changed = copy / "musdb18hq/train/Artist 0 - Song 0/bass.wav"
    write(changed, music(99, seconds=10))
    outcome = preprocess(config(copy, output, recipes=small))
    assert outcome.code == Exit.USAGE
    assert f"{changed} had" in outcome.message
    changed.unlink()
    assert f"{changed} is missing" in preprocess(config(copy, output, recipes=small)).message
    assert invariants.times(output) == before


def test_9_a_full_disk_fails_clearly_and_loses_nothing(
    ray_address: str, data: Path, undisturbed: Path, small_disk: Path
) -> None:
    output = small_disk / "shards"
    outcome = preprocess(config(data, output))
    assert outcome.code == Exit.FAILED
    assert "No space left on device" in outcome.message
    assert "Traceback" not in outcome.message
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)  # noqa: S607 - the system's
    assert preprocess(config(data, output)).code == Exit.DONE
    invariants.check(output, undisturbed)


def test_9_a_read_only_output_fails_clearly(data: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: S607 - the system's
    outcome = preprocess(config(data, small_disk / "shards"))
    assert outcome.code == Exit.FAILED
    assert "Read-only file system" in outcome.message


def test_9_an_output_without_permission_fails_clearly(data: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    outcome = preprocess(config(data, tmp_path / "closed" / "shards"))
    assert outcome.code == Exit.FAILED
    assert "Permission denied" in outcome.message


def test_7_a_command_mended_after_an_error_goes_on_in_the_same_output(
    in_process_actors: None, data: Path, tmp_path: Path
) -> None:
    """Before there is a plan, nothing binds the output to a configuration."""
    output = tmp_path / "shards"
    refused = preprocess(config(data, output, sources=SourcesConfig(min_bandwidth_hz=23_000)))
    assert refused.code == Exit.USAGE
    assert "--sources.min_bandwidth_hz 0" in refused.message
    assert json.loads((output / "result.json").read_text())["status"] == "usage"
    small = RecipesConfig(train=2, valid=0, test_per_category=0)
    assert preprocess(config(data, output, recipes=small)).code == Exit.DONE
    invariants.check(output)


def test_9_a_lost_cache_is_filled_again(in_process_actors: None, tmp_path: Path) -> None:
    """The cache was deleted, and is elsewhere now: rendering continues with the same bytes."""
    data = tmp_path / "data"
    for number in range(3):
        encode(
            write(tmp_path / "wav" / f"{number}.wav", music(number)),
            data / f"song {number}.mp3",
            "-b:a",
            "192k",
        )
    changes = {"recipes": RecipesConfig(train=8, valid=0, test_per_category=0)}
    lossy = SourcesConfig(allow_lossy=True)
    assert preprocess(config(data, tmp_path / "shards", sources=lossy, **changes)).code == Exit.DONE
    before = invariants.digests(tmp_path / "shards")
    (tmp_path / "shards" / "commits" / "train-00001.json").unlink()
    shutil.rmtree(tmp_path / "shards" / "cache")
    elsewhere = replace(lossy, cache=str(tmp_path / "cache"))
    outcome = preprocess(config(data, tmp_path / "shards", sources=elsewhere, **changes))
    assert outcome.code == Exit.DONE, outcome.message
    assert invariants.digests(tmp_path / "shards") == before
    invariants.check(tmp_path / "shards")
