"""What happens at rows that cannot be used: stop, or go on without them, listing each and up to a limit."""

import threading
from collections.abc import Callable
from typing import Literal, NamedTuple

from pipelines.dataset.shard_reader import CorruptRowError


class CorruptDataError(RuntimeError):
    """Rows cannot be used, and the configuration says to stop; the text says which, why, and what to do."""


class Reject(NamedTuple):
    """What was left out.

    Args:
        name: Recipe id, or the shard where all of it is lost.
        reason: Why.
    """

    name: str
    reason: str


class BadRowLog:
    """The rows that one process has left out.

    Args:
        output: Where the rows are from, for messages.
        num_rows: How many there are.
        corrupt: `stop` or `skip`.
        max_corrupt_share: Largest share of the rows that may be left out.
        on_reject: Called with each, once.
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
        self._remedy = f"Run preprocess on {output} again, which makes damaged shards anew"

    def add(self, error: CorruptRowError) -> None:
        """List what cannot be used, once.

        Raises:
            CorruptDataError: it is not to be skipped, or there is too much of it.
        """
        if self._corrupt == "stop":
            raise CorruptDataError(
                f"{error}. {self._remedy}, or let loader.corrupt be skip to go on without such rows"
            ) from error
        with self._lock:
            if error.name in self._rows:
                return
            self._rows[error.name] = error.rows
            reject = Reject(error.name, error.reason)
            self.rejects.append(reject)
            corrupt = sum(self._rows.values())
        if self._on_reject:
            self._on_reject(reject)
        if corrupt > self._max_share * self._num_rows:
            raise CorruptDataError(
                f"{corrupt} of {self._num_rows} rows cannot be used, more than loader.max_corrupt_share "
                f"{self._max_share:g} allows; the last: {error}. {self._remedy}"
            ) from error
