"""A process that renders: a file that crashes a decoder, or takes all memory, ends it and not the server."""

import multiprocessing
import signal
import threading
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

from apollo.audio.child_processes import interrupts_blocked
from apollo.web.settings import ModelOptions

_END_SECONDS = 5.0


class ProcessDiedError(RuntimeError):
    """The process ended before it answered."""


class RenderProcess:
    """A process with a `Renderer`; it is started when it is needed, and again after it died.

    Args:
        model: As for `Renderer`.
        max_seconds: As for `Renderer`.
    """

    def __init__(self, model: ModelOptions, max_seconds: float) -> None:
        self._arguments = (model, max_seconds)
        self._lock = threading.Lock()  # one call at a time
        self._process: BaseProcess | None = None
        self._closed = False

    def call(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Call a method of the renderer, and return what it returns or raise what it raises.

        Args:
            method: Its name.
            arguments: What it takes.
            timeout: Seconds after which the process is killed; None waits for ever.

        Raises:
            ProcessDiedError: the process ended meanwhile, or was killed.
        """
        with self._lock:
            process = self._started()
            try:
                self._connection.send((method, arguments))
                if not self._connection.poll(timeout):
                    process.kill()
                    process.join()
                    self._process = None
                    raise ProcessDiedError(f"it took more than {timeout:g} s")
                error, value = self._connection.recv()
            except (EOFError, OSError) as ended:
                self._process = None
                raise ProcessDiedError(_describe_end(process)) from ended
            if isinstance(error, ProcessDiedError):
                self._process = None
                process.join(_END_SECONDS)
        if error is not None:
            raise error
        return value

    def start(self) -> None:
        """Start the process, which imports what it needs, before the first call."""
        with self._lock:
            self._started()

    def _started(self) -> BaseProcess:
        if self._process is not None:
            return self._process
        if self._closed:
            raise ProcessDiedError("the server is shutting down")
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        with interrupts_blocked():
            process.start()
        theirs.close()
        self._process = process
        return process

    def stop(self) -> None:
        """Have the process end, whatever it does, and start no other; return at once."""
        self._closed = True
        if self._process is not None:
            self._process.terminate()

    def close(self) -> None:
        """Stop, and wait for the end."""
        process = self._process
        self.stop()
        if process is not None:
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()


def _describe_end(process: BaseProcess) -> str:
    process.join(_END_SECONDS)
    code = process.exitcode
    if code == -signal.SIGKILL:
        return "the process was killed, as systems do that run out of memory"
    if code is not None and code < 0:
        return f"the process crashed ({signal.Signals(-code).name}): the file may be damaged"
    return f"the process ended (exit code {code})"


def _work(connection: Any, model: ModelOptions, max_seconds: float) -> None:
    """Answer calls until the connection is closed, as the parent is gone, or the device is unusable."""
    import torch

    from apollo.web.rendering import Renderer

    renderer = Renderer(model, max_seconds)
    with suppress(EOFError, OSError):
        error: Exception | None = None
        while not isinstance(error, ProcessDiedError):
            method, arguments = connection.recv()
            error, value = None, None
            try:
                value = getattr(renderer, method)(*arguments)
            except torch.AcceleratorError as raised:  # every later song would fail in this process
                first_line = str(raised).partition("\n")[0]
                error = ProcessDiedError(f"the device failed: {first_line}")
            except Exception as raised:  # for the caller, whatever it is
                error = raised
            connection.send((error, value))
