"""`apollo web` on loopback: the application behind a real server, a client, a worker that does nothing."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote, urlencode

import uvicorn
from fastapi import FastAPI

from apollo.web.song_folder import SongFolder, SongStore
from apollo.web.worker import ClosingError

INSPECTION = {"problem": None, "kind": None, "seconds": 1.0, "channels": 2}


@dataclass
class Answer:
    """Status, headers in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass
class Client:
    """One visitor of a server, who keeps cookies."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, path, body, {"Cookie": cookies} | (headers or {}))
            answer = connection.getresponse()
            for line in answer.headers.get_all("set-cookie", []):
                self.cookies |= {name: one.value for name, one in SimpleCookie(line).items()}
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def upload(self, name: str, content: bytes) -> Answer:
        return self.ask("POST", f"/api/songs?name={quote(name, safe='')}", content)

    def song(self, song_id: str) -> Any:
        return self.ask("GET", f"/api/songs/{song_id}").json

    def finish(self, song_id: str) -> Any:
        """Wait until nothing of a song is being done."""
        done = {"ready", "failed"}
        return self.until(
            song_id, lambda song: {one["status"] for one in [song["listening"], *song["results"]]} <= done
        )

    def until(self, song_id: str, reached: Callable[[Any], bool]) -> Any:
        end = time.monotonic() + 60
        while not reached(song := self.song(song_id)):
            assert time.monotonic() < end, song
            time.sleep(0.02)
        return song

    def result(self, song_id: str, **choice: Any) -> bytes:
        path = f"/api/songs/{song_id}/results?{urlencode(choice)}"
        assert self.ask("POST", path).status == 202
        states = self.finish(song_id)["results"]
        assert {state["status"] for state in states} == {"ready"}, states
        return self.ask("GET", path).body


@contextmanager
def serve(application: FastAPI) -> Iterator[int]:
    """Serve an application on a free port of loopback, and yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))  # it listens before the server runs
    config = uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class IdleWorker:
    """Takes everything for audio and does no job."""

    def __init__(self, songs: SongStore) -> None:
        self.songs, self.closing = songs, False
        self.inspection: dict[str, Any] = INSPECTION

    def describe(self) -> dict[str, Any]:
        return {"name": "idle", "has_noise": False, "strength": None}

    def inspect(self, path: str) -> dict[str, Any]:
        return self.inspection

    def submit(self, song: SongFolder, job: str) -> None:
        if self.closing:
            raise ClosingError
        self.songs.enqueue(song, job)

    def close(self) -> None:
        """Have nothing to end."""
