"""Object stores that fail while jobs work with them: the same results as on a disk, or a clear end.

Data, cache and output lie on a real S3 server, behind a proxy that fails where it is told.
"""

from pathlib import Path

import material
import oracle
from buckets import Bucket

from pipelines.preprocess import preprocess
from pipelines.runs import Exit
from pipelines.shards import find_damaged, read_commits
from pipelines.storage import Folder

_EVER = float("inf")


def test_shards_made_through_a_store_that_fails_are_those_made_on_a_disk(
    undisturbed: Path, data: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """First with faults that pass and one that does not pass; then the same command with others that pass."""
    config = material.config(bucket.upload(data, "songs"), bucket.uri("out"))
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
    assert not find_damaged(output, committed.values(), content=True)
    bucket.proxy.heal()
    passing = [
        bucket.proxy.fail("drop", r"PUT /\S+/out/commits/", times=3),
        bucket.proxy.fail("cut_download", r"GET /\S+/out/\w+/shard", times=3),
        bucket.proxy.fail("refuse", r"GET /\S+/songs/", times=3, status=500, code="InternalError"),
    ]
    outcome = preprocess(config)
    assert outcome.code == Exit.DONE, outcome.message
    assert [fault.struck for fault in passing] == [fault.times for fault in passing]
    oracle.check(bucket.download("out", tmp_path), undisturbed)
    before = bucket.objects("out/")
    assert preprocess(config).message.startswith("nothing to do")
    assert bucket.objects("out/") == before
