"""Compare finished shards with their commits; content is read by actors, never by the driver."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from pipelines import schema
from pipelines.cluster.actor_pool import run_actors
from pipelines.cluster.connection import Cluster
from pipelines.dataset.shards import ShardCommit, find_changed_shards, find_damaged_shards, sha256_hex
from pipelines.storage.folder import Folder

logger = logging.getLogger(__name__)

CHECKSUM, CONTENT, SIZE = "checksum", "content", "size"
WAYS = (CHECKSUM, CONTENT, SIZE)


def find_damaged(
    output: Folder,
    commits: Iterable[ShardCommit],
    way: str,
    *,
    actors: int | None,
    connect: Callable[[], Cluster],
) -> list[ShardCommit]:
    """Return the commits whose shard is missing or differs.

    Args:
        output: Folder of the data set.
        commits: Commits to check.
        way: CONTENT reads all shards, CHECKSUM those whose revision is not the committed one, SIZE none.
        actors: Maximum number of actors; unset uses all CPUs.
        connect: Return the cluster; not called where nothing is read.
    """
    listed = list(commits)
    damaged = find_damaged_shards(output, listed, content=False)
    if way == SIZE:
        return damaged
    missing = {commit.key for commit in damaged}
    present = {commit.key: commit for commit in listed if commit.rows and commit.key not in missing}
    unsure = find_changed_shards(output, present.values()) if way == CHECKSUM else [*present.values()]
    if not unsure:
        return damaged
    logger.info(
        f"reading {len(unsure)} of {len(present)} finished shards, to compare them with their commits"
    )
    items = [{"split": c.split, "shard": c.shard, "sha256": c.sha256} for c in unsure]
    rows = run_actors(items, ShardVerifier, (output.location,), actors=actors, cluster=connect())
    return damaged + [present[row["split"], row["shard"]] for row in rows if row["damaged"]]


class ShardVerifier:
    """Actor that compares the content of one shard at a time with its commit.

    Args:
        output: Path or URI of the data set.
    """

    def __init__(self, output: str) -> None:
        self._output = Folder(output)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Read the shard of a row: split, shard, sha256.

        Returns:
            `split`, `shard`, and `damaged`: whether it is missing or differs.
        """
        try:
            content = self._output.read(schema.shard_path(row["split"], row["shard"]))
        except FileNotFoundError:
            content = b""
        damaged = sha256_hex(content) != row["sha256"]
        return {"split": row["split"], "shard": row["shard"], "damaged": damaged}
