"""manifest.jsonl: the facts of all commit objects of a finished output, in one file.

A data set of 10,000 shards has 10,000 commit objects, which every worker would read at its start. The
manifest has one line a shard; report.json, which is written after it, has its SHA-256.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from functools import lru_cache

from pipelines import schema
from pipelines.dataset.shards import ShardCommit, read_commits
from pipelines.storage.folder import Folder

logger = logging.getLogger(__name__)

MANIFEST, REPORT = "manifest.jsonl", "report.json"
DIGEST = "manifest_sha256"  # in report.json


def encode_manifest(commits: Iterable[ShardCommit]) -> bytes:
    """Return the content of manifest.jsonl."""
    lines = (
        json.dumps(
            {
                "path": schema.shard_path(*commit.key) if commit.rows else None,
                "split": commit.split,
                "shard": commit.shard,
                "rows": commit.rows,
                "bytes": commit.bytes,
                "sha256": commit.sha256,
                "rejected": len(commit.rejected),
                "degradations": sorted(commit.bitrates_bps),
            }
        )
        for commit in commits
    )
    return "".join(f"{line}\n" for line in lines).encode()


def read_committed(output: Folder) -> dict[tuple[str, int], ShardCommit]:
    """Read what is committed, by split and number: two files of a finished output, else all commit objects.

    Commits from the manifest have no rejected recipes and no bitrates, only the names of degradations.
    """
    try:
        digest = json.loads(output.read(REPORT))[DIGEST]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return read_commits(output)  # unfinished, or of an earlier release
    try:
        return _read_manifest(output.location, digest)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning(f"{MANIFEST} of {output.location} is not used, all commit objects are read: {error}")
        return read_commits(output)


@lru_cache(maxsize=4)
def _read_manifest(location: str, digest: str) -> dict[tuple[str, int], ShardCommit]:
    content = Folder(location).read(MANIFEST)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"its SHA-256 is not that of {REPORT}")
    commits = {}
    for line in map(json.loads, content.splitlines()):
        commit = ShardCommit(
            split=line["split"],
            shard=line["shard"],
            rows=line["rows"],
            bytes=line["bytes"],
            sha256=line["sha256"],
            bitrates_bps={name: [] for name in line["degradations"]},
        )
        if commit.split not in schema.SPLITS or type(commit.shard) is not int:
            raise ValueError(f"{commit.split!r} {commit.shard!r} is no shard")
        commits[commit.key] = commit
    return commits
