"""A split of an output: which of its shards count, how many rows they have, and with which degradations."""

import hashlib
import json
import re

from pipelines import schema
from pipelines.dataset.plan import PLAN, planned_shards
from pipelines.dataset.shard_reader import ShardReader
from pipelines.dataset.shards import find_damaged_shards, read_commits
from pipelines.errors import UsageError
from pipelines.storage.folder import Folder

_DEGRADATION = re.compile(r"[A-Za-z0-9][\w.-]*")


class CommittedSplit:
    """The committed shards of a split, by their number.

    Args:
        output: Path or URI of an output of preprocess.
        split: Which split.
        degradations: Names of those to read; none takes all.

    Attributes:
        commits: Of its shards, which are numbered by their place here.
        rows: Of every shard.
        degradations: By bitrate.
        damaged: Shards that are gone, or not as large as their commits say.
        reader: Reads their rows.

    Raises:
        UsageError: there are no such shards, they are not finished, or they lack a degradation.
    """

    def __init__(self, output: str, split: str, degradations: tuple[str, ...]) -> None:
        folder = Folder(output)
        commits = read_commits(folder)
        self.commits = [commits[key] for key in sorted(commits) if key[0] == split]
        self.rows = [commit.rows for commit in self.commits]
        self.num_rows = sum(self.rows)
        _check_complete(folder, split, {commit.shard for commit in self.commits})
        if not self.num_rows:
            raise UsageError(
                f"{output} has no committed row of the split {split}: name the output of a preprocess run "
                "that made some"
            )
        there = {name for commit in self.commits for name in commit.bitrates_bps if commit.rows}
        if odd := [name for name in there if not _DEGRADATION.fullmatch(name)]:
            raise UsageError(
                f"the shards of {output} name a degradation {odd[0]!r}: it becomes part of files' names, and "
                "may have letters, digits, dots, dashes and underscores, beginning with a letter or digit"
            )
        if unknown := [name for name in degradations if name not in there]:
            raise UsageError(
                f"the shards of {output} have no degradation {', '.join(unknown)}; there is "
                f"{', '.join(sorted(there, key=_bitrate_key))}"
            )
        self.degradations = degradations or tuple(sorted(there, key=_bitrate_key))
        damaged = {commit.key for commit in find_damaged_shards(folder, self.commits, content=False)}
        self.damaged = {number for number, commit in enumerate(self.commits) if commit.key in damaged}
        self.reader = ShardReader(folder, self.commits, self.damaged)

    @property
    def fingerprint(self) -> str:
        """A hash of the shards' bytes and the degradations; with another one, other examples come."""
        lines = [f"{commit.split} {commit.shard} {commit.sha256}" for commit in self.commits]
        return hashlib.sha256("\n".join([*lines, *self.degradations]).encode()).hexdigest()


def _check_complete(folder: Folder, split: str, committed: set[int]) -> None:
    """Refuse shards that are still being made, because the order would change with each new one."""
    if not folder.exists(PLAN):
        return
    tasks = planned_shards(json.loads(folder.read(PLAN)))
    planned = [task["shard"] for task in tasks if task["split"] == split]
    if missing := [shard for shard in planned if shard not in committed]:
        raise UsageError(
            f"{len(missing)} of {len(planned)} shards of the split {split} in {folder.location} are not "
            f"committed, the first is {schema.shard_name(split, missing[0])}: let preprocess finish, or run "
            "it again"
        )


def _bitrate_key(name: str) -> tuple[str, int, str]:
    codec, _, bitrate = name.rpartition("_")
    return codec, int(bitrate) if bitrate.isdigit() else 0, name
