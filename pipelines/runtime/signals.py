"""Signal handling: SIGTERM, which `ray job stop` sends, raises KeyboardInterrupt."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM until the block ends."""
    before = signal.getsignal(signal.SIGTERM)
    install_sigterm_handler()
    try:
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
