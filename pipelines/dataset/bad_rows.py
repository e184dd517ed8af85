"""Policy for corrupt rows: stop, or skip them up to a limit and list each."""

import threading
from collections.abc import Callable
from typing import Literal, NamedTuple

from pipelines.dataset.shard_reader import CorruptRowError


class CorruptDataError(RuntimeError):
    """Corrupt rows, with the policy `stop` or above the limit; with name, reason and remedy."""


class Reject(NamedTuple):
    """A skipped row.

    Args:
        name: Recipe id, or name of the shard if the whole shard is corrupt.
        reason: Why.
        kind: Kind of the reason.
    """

    name: str
    reason: str
    kind: str


class BadRowLog:
    """The rows that one process has skipped.

    Args:
        output: Location of the data set, for messages.
        num_rows: Number of rows in the data set.
        corrupt: `stop` or `skip`.
        max_corrupt_share: Largest share of the rows that may be skipped.
        on_reject: Called once with each.
    """

    def __init__(
        self,
        output: str,
        num_rows: int,
        *,
        corrupt: Literal["stop", "skip"],
        max_corrupt_share: float,
        on_reject: Callable[[Reject], None] | None,
    ) -> None:
        self.rejects: list[Reject] = []
        self._num_rows, self._corrupt, self._max_share = num_rows, corrupt, max_corrupt_share
        self._on_reject = on_reject
        self._rows: dict[str, int] = {}
        self._lock = threading.Lock()
        self._remedy = f"Run preprocess on {output} again: it renders damaged shards again"

    def add(self, error: CorruptRowError) -> None:
        """Add a corrupt row or shard, once.

        Raises:
            CorruptDataError: the policy is `stop`, or the share of corrupt rows exceeds the limit.
        """
        if self._corrupt == "stop":
            raise CorruptDataError(
                f"{error}. {self._remedy}. Or set loader.corrupt to skip, to continue without such rows"
            ) from error
        with self._lock:
            if error.name in self._rows:
                return
            self._rows[error.name] = error.rows
            reject = Reject(error.name, error.reason, error.kind)
            self.rejects.append(reject)
            corrupt = sum(self._rows.values())
        if self._on_reject:
            self._on_reject(reject)
        if corrupt > self._max_share * self._num_rows:
            raise CorruptDataError(
                f"{corrupt} of {self._num_rows} rows are corrupt, more than loader.max_corrupt_share "
                f"{self._max_share:g} allows; the last: {error}. {self._remedy}"
            ) from error
