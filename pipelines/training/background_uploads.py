"""Uploads of a training worker beside its steps."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundUploads:
    """One upload at a time, in a thread: training is at most one upload ahead of the store."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "upload")
        self._last: Future[None] | None = None

    def start(self, upload: Callable[[], None]) -> None:
        """Wait until the last upload has ended, then start one.

        Raises:
            Exception: what the last upload raised.
        """
        self.wait()
        self._last = self._pool.submit(upload)

    def try_start(self, upload: Callable[[], None]) -> bool:
        """Start an upload unless one is running; return whether it was started."""
        if self._last is not None and not self._last.done():
            return False
        self.start(upload)
        return True

    def wait(self) -> None:
        """Wait until the last upload has ended.

        Raises:
            Exception: what it raised.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Wait until the last upload has ended, whatever it raises, and end the thread."""
        self._pool.shutdown(wait=True)
