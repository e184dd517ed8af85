"""Signal handling: SIGTERM, which `ray job stop` sends, raises KeyboardInterrupt.

Jobs import this module first, so it imports nothing that takes time.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def defer_signals() -> None:
    """Keep SIGTERM and SIGINT pending until `sigterm_as_interrupt`: a job can then write its result.json."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM until the block ends, and on signals that were deferred."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        install_sigterm_handler()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def install_sigterm_handler() -> None:
    """Raise KeyboardInterrupt on SIGTERM; call it again after ray.init, which installs its own handler."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
