"""Actor between the driver of a training and its workers: log records, failures, stop requests."""

import threading
import time
from typing import Any

_POLL_SECONDS = 0.5


class Coordinator:
    """Actor that the driver polls and the workers call."""

    def __init__(self) -> None:
        self._stop, self._records, self._failure = False, list[dict[str, Any]](), ""
        self._heartbeat = time.monotonic()

    def heartbeat(self) -> bool:
        """Record that the first worker is alive, and return whether a stop was requested."""
        self._heartbeat = time.monotonic()
        return self._stop

    def fail(self, text: str) -> None:
        """Report a non-retryable error; the first report wins."""
        self._failure = self._failure or text

    def failure(self) -> str:
        """Return the reported error, or an empty text."""
        return self._failure

    def log(self, record: dict[str, Any]) -> None:
        """Keep a log record of a worker until the driver polls."""
        self._records.append(record)

    def poll(self, *, stop: bool) -> tuple[float, list[dict[str, Any]]]:
        """Return the seconds since the last heartbeat and the log records since the last poll.

        Args:
            stop: Whether the workers are to stop with a checkpoint.
        """
        self._stop = self._stop or stop
        records, self._records = self._records, []
        return time.monotonic() - self._heartbeat, records


class CoordinatorClient:
    """A worker's side of the coordinator."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator, self._stop = coordinator, False

    def start_heartbeat(self) -> None:
        """Send heartbeats and receive stop requests in a thread until this process ends."""
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()

    def _send_heartbeats(self) -> None:
        import ray

        try:
            while True:
                self._stop = ray.get(self._coordinator.heartbeat.remote()) or self._stop
                time.sleep(_POLL_SECONDS)
        except ray.exceptions.RayError:  # the driver has ended, and its coordinator with it
            return

    def log(self, record: dict[str, Any]) -> None:
        """Send a log record to the driver; does not wait."""
        self._coordinator.log.remote(record)

    def fail(self, text: str) -> None:
        """Report a non-retryable error, and wait until the coordinator has it."""
        import ray

        ray.get(self._coordinator.fail.remote(text))

    def failure(self) -> str:
        """Return the non-retryable error of any worker, or of this one before its restart."""
        import ray

        return str(ray.get(self._coordinator.failure.remote()))

    def stop_requested(self) -> bool:
        """Return whether the driver asked for a stop; only known after `start_heartbeat`."""
        return self._stop
