"""SIGTERM as KeyboardInterrupt: `ray job stop` sends it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which `ray job stop` sends, end the run as Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    install_sigterm_handler()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def install_sigterm_handler() -> None:
    """Turn SIGTERM into KeyboardInterrupt; to be done again after Ray has put its own handler there."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
