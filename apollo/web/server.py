"""Run the server on this machine: `apollo web`."""

import contextlib
import secrets
import socket
import tempfile
import webbrowser
from dataclasses import replace
from pathlib import Path

import uvicorn

from apollo.web.application import create_application
from apollo.web.settings import LOOPBACK_HOSTS, ModelOptions, WebSettings
from apollo.web.song_folder import SongStore
from apollo.web.worker import LocalWorker

_MAX_CONNECTIONS = 200
_CLOSE_SECONDS = 5


def serve(
    model: ModelOptions, settings: WebSettings, *, host: str, port: int, folder: str | None, open_page: bool
) -> None:
    """Serve until interrupted; print the address first.

    Args:
        model: What restores.
        settings: Limits and access.
        host: Address to listen on.
        port: Its port; 0 takes a free one.
        folder: Where the temporary folder is made; None for the system's.
        open_page: Whether to open the browser.

    Raises:
        ValueError: the model cannot be loaded, or there is no such device or precision.
        OSError: the address cannot be listened on, or the folder not be made.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(host, port))
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix="apollo-web-", dir=folder))
        songs = SongStore(Path(path))
        worker = LocalWorker(songs, model, settings)
        stack.callback(worker.close)
        config = uvicorn.Config(
            create_application(songs, worker, settings),
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
        address = _address(host, listener.getsockname()[1], settings.token)
        print(f"apollo web: {address}\nCtrl-C ends it; songs and results are deleted then", flush=True)
        if open_page:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when it has closed
            _Server(config, worker).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Refuse new jobs from the first signal on."""

    def __init__(self, config: uvicorn.Config, worker: LocalWorker) -> None:
        super().__init__(config)
        self._worker = worker

    def handle_exit(self, sig: int, frame: object) -> None:
        self._worker.stop()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def choose_access(limits: WebSettings, host: str, token: str | None) -> WebSettings:
    """Return the settings for an address to listen on: beyond loopback, there is always a token."""
    if host in LOOPBACK_HOSTS:
        return replace(limits, token=token)
    return replace(limits, token=token or secrets.token_urlsafe(24), hosts=())


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def _address(host: str, port: int, token: str | None) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
