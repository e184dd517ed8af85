"""Faults 1-4 and 8: whoever is killed, whenever, the next run ends where an undisturbed one does."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipelines.preprocess.recipes import RecipesConfig
from pipelines.preprocess.run import preprocess
from pipelines.runtime.outcome import Exit, Outcome
from tests.support import invariants
from tests.support.datasets import arguments, config
from tests.support.processes import descendants


def start(data: Path, output: Path, address: str) -> "subprocess.Popen[bytes]":
    """Start the job as users do, on a cluster that is there."""
    command = [sys.executable, "jobs/preprocess.py", *arguments(data, output)]
    environment = os.environ | {"RAY_ADDRESS": address}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def commits(output: Path) -> list[Path]:
    return list(output.glob("commits/*.json"))


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(30)


def finished(output: Path) -> dict[str, tuple[int, int]]:
    """Give inode and time of the shards that a commit stands for."""
    done = {
        f"{path.stem.rpartition('-')[0]}/shard-{path.stem.rpartition('-')[2]}.parquet"
        for path in commits(output)
    }
    return {name: value for name, value in invariants.times(output).items() if name in done}


def finish(data: Path, output: Path, before: dict[str, tuple[int, int]], undisturbed: Path) -> None:
    outcome = preprocess(config(data, output))
    assert outcome.code == Exit.DONE, outcome.message
    invariants.check(output, undisturbed)
    after = invariants.times(output)
    assert {name: after[name] for name in before} == before, "a finished shard was written again"


def test_1_a_driver_killed_while_rendering_loses_nothing(
    ray_address: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    process = start(data, output, ray_address)
    wait_for(lambda: len(commits(output)) >= 2)
    kill(process)
    assert not (output / "manifest.jsonl").exists()
    finish(data, output, finished(output), undisturbed)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_1_a_driver_killed_at_ten_random_points_loses_nothing(
    ray_address: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output, draw = tmp_path / "shards", random.Random(1)
    seen: dict[str, tuple[int, int]] = {}
    for _ in range(10):
        process = start(data, output, ray_address)
        time.sleep(draw.uniform(0.5, 7.0))
        kill(process)
        now = finished(output)
        assert {name: now[name] for name in seen} == seen
        seen = now
    finish(data, output, seen, undisturbed)


def parent_of(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:  # it has ended
        return 0


def test_2_an_actor_killed_during_an_encode_leaves_no_ffmpeg_and_loses_nothing(
    ray_address: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output, outcomes = tmp_path / "shards", list[Outcome]()
    run = threading.Thread(target=lambda: outcomes.append(preprocess(config(data, output))))
    run.start()
    killed = 0
    while killed < 2 and run.is_alive():
        renderers = {renderer.pid: renderer for renderer in descendants("ShardRenderer")}
        encoders = [one for one in descendants("libmp3lame") if parent_of(one) in renderers]
        if encoders and len(commits(output)) >= killed * 2:
            parent = renderers[parent_of(encoders[0])]
            parent.kill()
            wait_for(lambda encoder=encoders[0]: not encoder.is_running(), 10)  # type: ignore[misc]
            killed += 1
    run.join(240)
    assert killed == 2
    assert outcomes[0].code == Exit.DONE, outcomes[0].message
    invariants.check(output, undisturbed)


@pytest.mark.faults
@pytest.mark.ray_cluster
def test_3_a_node_removed_with_running_and_finished_tasks_loses_nothing(
    ray_address: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    output = tmp_path / "shards"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        process = start(data, output, cluster.address)
        wait_for(lambda: len(commits(output)) >= 3, 120)
        cluster.remove_node(node, allow_graceful=False)
        assert process.wait(200) == Exit.DONE
    finally:
        cluster.shutdown()
    invariants.check(output, undisturbed)


_DIE_AT_RENAME = """
import os, signal, sys
from pipelines.audio.codec import CodecConfig
from pipelines.dataset.plan import planned_shards
from pipelines.preprocess.render import RenderTask, ShardRenderer
from pipelines.runtime.versions import software_versions
from pipelines.dataset.shards import ShardsConfig
import json

output, kind, when = sys.argv[1:]
rename = os.replace

def dying(source, target):
    if kind in target and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
    if kind in target and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = dying
codec = CodecConfig(bitrates_bps=(24_000, 128_000))
shards = ShardsConfig(rows=4, row_group_rows=2)
renderer = ShardRenderer(RenderTask(output, output + "/cache", codec, shards, software_versions(None)))
renderer(planned_shards(json.load(open(output + "/plan.json")))[0])
"""


def without_first_shard(undisturbed: Path, output: Path) -> Path:
    """Copy an output as it was before its first shard and its reports were made."""
    reports = shutil.ignore_patterns("manifest.jsonl", "rejects.parquet", "report.*", "result.json")
    shutil.copytree(undisturbed, output, ignore=reports)
    for name in ("train/shard-00000.parquet", "commits/train-00000.json"):
        (output / name).unlink()
    return output


@pytest.mark.parametrize(
    "when, kind",
    [
        ("before", "shard-"),
        pytest.param("after", "shard-", marks=pytest.mark.faults),  # the same files as before the commit's
        ("before", "commits/"),
        ("after", "commits/"),
    ],
)
def test_4_a_kill_around_a_rename_leaves_nothing_half_done(
    kind: str, when: str, in_process_actors: None, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = without_first_shard(undisturbed, tmp_path / "shards")
    before = finished(output)
    command = [sys.executable, "-c", _DIE_AT_RENAME, str(output), kind, when]
    assert subprocess.run(command, timeout=120, check=False).returncode == -signal.SIGKILL
    assert len(commits(output)) == len(before) + (kind == "commits/" and when == "after")
    finish(data, output, before, undisturbed)


_DIE_WHILE_SCANNING = """
import os, signal, sys
from pipelines.preprocess.discovery import find_songs
from pipelines.runtime.versions import software_versions
from pipelines.preprocess.scan import SongScanner

scanner = SongScanner(sys.argv[2], sys.argv[2] + "/cache", 10**9, None, software_versions(None))
for song in find_songs([sys.argv[1]]).songs[:2]:
    scanner({"song": song.to_json()})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_8_a_scan_killed_after_some_songs_ends_with_all_segments(
    in_process_actors: None, data: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    few = RecipesConfig(train=4, valid=0, test_per_category=0)
    assert preprocess(config(data, whole, recipes=few)).code == Exit.DONE
    killed.mkdir()
    for name in ("fingerprint.json", "listing.json"):
        shutil.copy(whole / name, killed / name)
    done = subprocess.run(
        [sys.executable, "-c", _DIE_WHILE_SCANNING, str(data), str(killed)], timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(killed.glob("scan/*.json"))) == 2
    assert preprocess(config(data, killed, recipes=few)).code == Exit.DONE
    for name in ("segments.parquet", "sources.parquet", "recipes.parquet"):
        assert pq.read_table(killed / name).equals(pq.read_table(whole / name)), name
    invariants.check(killed, whole)
