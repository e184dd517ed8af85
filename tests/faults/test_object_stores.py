"""Object stores that fail while jobs work with them: the same results as on a disk, or a clear end.

Data, cache and output lie on a real S3 server, behind a proxy that fails where it is told.
"""

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from apollo.__main__ import main
from apollo.cli.options import PARTLY
from pipelines.dataset.shards import find_damaged_shards, read_commits
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.run import evaluate
from pipelines.preprocess.run import preprocess
from pipelines.restoration.run import restore
from pipelines.runtime.outcome import Exit
from pipelines.storage.folder import Folder
from pipelines.tracking.run import TrackingConfig
from tests.support import datasets, evaluation_jobs, gloo_runs, invariants, restoration_jobs, training_jobs
from tests.support.processes import descendants
from tests.support.s3_server import Bucket

_EVER = float("inf")


def test_shards_made_through_a_store_that_fails_are_those_made_on_a_disk(
    undisturbed: Path, data: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """First with faults that pass and one that does not pass; then the same command with others that pass."""
    config = datasets.config(bucket.upload(data, "songs"), bucket.uri("out"))
    passing = [
        bucket.proxy.fail("refuse", r"PUT /\S+/out/\w+/shard", times=2),
        bucket.proxy.fail("cut_upload", r"PUT /\S+/out/\w+/shard", times=2),
        bucket.proxy.fail("cut_answer", r"PUT /\S+/out/commits/"),
        bucket.proxy.fail("cut_download", r"GET /\S+/songs/.*vocals", times=3),
        bucket.proxy.fail("refuse", r"GET /\S+\?.*list-type", times=2),
    ]
    gone = bucket.proxy.fail("cut_upload", r"PUT /\S+/out/\w+/shard", skip=3, times=_EVER)
    outcome = preprocess(config)
    assert [fault.struck for fault in passing] == [fault.times for fault in passing]
    assert gone.struck
    assert outcome.code == Exit.FAILED
    assert "cannot write s3://" in outcome.message and "PutObject" in outcome.message
    output = Folder(config.output)
    committed = read_commits(output)
    assert 0 < len(committed) < 9
    assert not find_damaged_shards(output, committed.values(), content=True)
    bucket.proxy.heal()
    passing = [
        bucket.proxy.fail("drop", r"PUT /\S+/out/commits/", times=3),
        bucket.proxy.fail("cut_download", r"GET /\S+/out/\w+/shard", times=3),
        bucket.proxy.fail("refuse", r"GET /\S+/songs/", times=3, status=500, code="InternalError"),
    ]
    outcome = preprocess(config)
    assert outcome.code == Exit.DONE, outcome.message
    assert [fault.struck for fault in passing] == [fault.times for fault in passing]
    invariants.check(bucket.download("out", tmp_path), undisturbed)
    before = bucket.objects("out/")
    assert preprocess(config).message.startswith("nothing to do")
    assert bucket.objects("out/") == before


def test_songs_restored_through_a_store_that_fails_are_those_restored_on_a_disk(
    in_process_actors: None, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Songs, weights and results in a bucket; one result is spoilt on its way, and made again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    songs, weights = tmp_path / "songs", restoration_jobs.save_generator(tmp_path / "weights")
    datasets.write(songs / "a.wav", datasets.music(1, 1.0))
    datasets.encode(songs / "a.wav", songs / "disc 1/ünd b.mp3", "-b:a", "64k")
    (songs / "text.mp3").write_text("This is no music.")
    expected = _restored_here(songs, weights, tmp_path / "here")
    config = restoration_jobs.config(
        bucket.upload(songs, "songs"),
        bucket.uri("out"),
        Path("unused"),
        checkpoint=bucket.upload(weights, "w"),
    )
    faults = [
        bucket.proxy.fail("cut_download", r"GET /\S+/songs/", times=2),
        bucket.proxy.fail("refuse", r"GET /\S+/w/weights.pt", times=2),
        bucket.proxy.fail("cut_upload", r"PUT /\S+/out/a.wav", times=2),
        bucket.proxy.fail("spoil_upload", r"PUT /\S+/out/disc%201/", times=1),
        bucket.proxy.fail("cut_answer", r"PUT /\S+/out/commits/", times=1),
    ]
    outcome = restore(config)
    assert [fault.struck for fault in faults] == [fault.times for fault in faults]
    assert (outcome.code, outcome.facts["failed"]) == (Exit.REJECTS, 2), outcome.message
    first = bucket.download("out", tmp_path / "first")
    assert [line["name"] for line in _rejects(first) if "differs from what" in line["reason"]] == [
        "disc 1/ünd b.wav"
    ]
    outcome = restore(config)
    assert (outcome.code, outcome.facts["failed"], outcome.facts["already"]) == (Exit.REJECTS, 1, 1)
    there = bucket.download("out", tmp_path / "there")
    found = restoration_jobs.samples(there)
    assert found.keys() == expected.keys()
    for name, samples in expected.items():
        np.testing.assert_array_equal(found[name], samples, err_msg=name)
    assert [line["name"] for line in _rejects(there)] == ["text.wav"]


def _rejects(output: Path) -> list[dict[str, Any]]:
    return [*restoration_jobs.outcomes(output, "rejects.jsonl").values()]


def _restored_here(songs: Path, weights: Path, output: Path) -> dict[str, NDArray[np.float32]]:
    """Restore songs with the command, with as many threads as an actor has: more may round otherwise."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    torch.set_num_threads(1)
    options = ["--checkpoint", str(weights), "--device", "cpu", "--precision", "float32"]
    try:
        assert main(["restore", str(songs), "-o", str(output), *options]) == PARTLY
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGTERM, handler)
    return restoration_jobs.samples(output)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_training_whose_machine_is_lost_goes_on_from_the_bucket_and_is_evaluated_there(
    ray_address: str, undisturbed: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """Real jobs: the driver killed, its disk lost, the store failing meanwhile; then scores in the bucket."""
    alone, mine = tmp_path / "alone", tmp_path / "mine"
    assert training_jobs.start(ray_address, undisturbed, alone).wait(300) == 0, training_jobs.log(alone)
    shards = bucket.upload(undisturbed, "shards")
    more = (
        "--output",
        bucket.uri("run"),
        "--scratch",
        str(mine),
        "--tracking.uri",
        f"sqlite:///{tmp_path}/m.db",
    )

    def there(name: str) -> bool:
        return name in bucket.objects("run/checkpoints/")

    bucket.proxy.fail("refuse", r"PUT /\S+/run/checkpoints/", skip=1, times=2)
    bucket.proxy.fail("cut_download", r"GET /\S+/shards/train/", times=2)
    driver = training_jobs.start(ray_address, shards, mine, *more)
    training_jobs.wait_for(lambda: there("step-00000006/MANIFEST.json"), mine)
    driver.kill()
    driver.wait(30)
    training_jobs.wait_for(lambda: not descendants("RayTrainWorker"), mine)
    shutil.rmtree(mine)
    bucket.proxy.fail("cut_upload", r"PUT /\S+/run/checkpoints/.*/weights.pt", times=2)
    assert training_jobs.start(ray_address, shards, mine, *more).wait(300) == 0, training_jobs.log(mine)
    assert "resuming from step" in training_jobs.log(mine)
    back = bucket.download("run", tmp_path / "back")
    ours, theirs = (gloo_runs.weights(gloo_runs.Run(run), training_jobs.LAST) for run in (back, alone))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(value, ours[name]) if isinstance(value, torch.Tensor) else value == ours[name], (
            name
        )
    assert not [name for name in bucket.objects("run/") if name.startswith(".ray")]

    config = EvaluateConfig(
        data=shards,
        output=bucket.uri("scores"),
        models=(bucket.uri("run"),),
        limit=2,
        scorers=2,
        rtf_runs=0,
        bootstrap_resamples=200,
        tracking=TrackingConfig(uri=f"sqlite:///{tmp_path}/m.db"),
    )
    bucket.proxy.fail("cut_upload", r"PUT /\S+/scores/", times=3)
    outcome = evaluate(config)
    assert outcome.code == Exit.DONE, outcome.message
    rows = evaluation_jobs.rows(bucket.download("scores", tmp_path / "scores"))
    assert {row["model"] for row in rows} == {"untouched", "run"}
