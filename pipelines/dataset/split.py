"""A split of a data set: its committed shards, their rows and degradations."""

import hashlib
import json
import re

from pipelines import schema
from pipelines.audio.degradations import sort_key
from pipelines.dataset.manifest import read_committed
from pipelines.dataset.plan import PLAN, planned_shards
from pipelines.dataset.shard_reader import ShardReader
from pipelines.dataset.shards import find_damaged_shards
from pipelines.errors import UsageError
from pipelines.storage.folder import Folder

_DEGRADATION = re.compile(r"[A-Za-z0-9][\w.-]*")


class CommittedSplit:
    """The committed shards of a split, by number.

    Args:
        output: Path or URI of an output of preprocess.
        split: Which split.
        degradations: Names of those to read; empty for all.

    Attributes:
        commits: Commits of its shards; a shard's number is its index here.
        rows: Number of rows of every shard.
        degradations: Names, sorted by bitrate.
        damaged: Numbers of shards that are missing or differ in size from their commits.
        reader: Reads their rows.

    Raises:
        UsageError: the split has no rows, is not complete, or lacks a degradation.
    """

    def __init__(self, output: str, split: str, degradations: tuple[str, ...]) -> None:
        folder = Folder(output)
        commits = read_committed(folder)
        self.commits = [commits[key] for key in sorted(commits) if key[0] == split]
        self.rows = [commit.rows for commit in self.commits]
        self.num_rows = sum(self.rows)
        _check_complete(folder, split, {commit.shard for commit in self.commits})
        if not self.num_rows:
            raise UsageError(
                f"{output} has no committed row of the split {split}: choose the output of a preprocess run "
                "with such rows"
            )
        available = {name for commit in self.commits for name in commit.bitrates_bps if commit.rows}
        if invalid := [name for name in available if not _DEGRADATION.fullmatch(name)]:
            raise UsageError(
                f"the shards of {output} have a degradation {invalid[0]!r}: it becomes part of file names, "
                "and may have letters, digits, dots, dashes and underscores, starting with a letter or digit"
            )
        if unknown := [name for name in degradations if name not in available]:
            raise UsageError(
                f"the shards of {output} have no degradation {', '.join(unknown)}; available: "
                f"{', '.join(sorted(available, key=sort_key))}"
            )
        self.degradations = degradations or tuple(sorted(available, key=sort_key))
        damaged = {commit.key for commit in find_damaged_shards(folder, self.commits, content=False)}
        self.damaged = {number for number, commit in enumerate(self.commits) if commit.key in damaged}
        self.reader = ShardReader(folder, self.commits, self.damaged)

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' bytes and the degradations, which decide the examples."""
        lines = [f"{commit.split} {commit.shard} {commit.sha256}" for commit in self.commits]
        return hashlib.sha256("\n".join([*lines, *self.degradations]).encode()).hexdigest()


def _check_complete(folder: Folder, split: str, committed: set[int]) -> None:
    """Check that all planned shards are committed: the order would change with each new one."""
    if not folder.exists(PLAN):
        return
    tasks = planned_shards(json.loads(folder.read(PLAN)))
    planned = [task["shard"] for task in tasks if task["split"] == split]
    if missing := [shard for shard in planned if shard not in committed]:
        raise UsageError(
            f"{len(missing)} of {len(planned)} shards of the split {split} in {folder.location} are not "
            f"committed, the first is {schema.shard_name(split, missing[0])}: wait for preprocess to finish, "
            "or run it again"
        )
