"""A proxy between a client and an HTTP server that fails where it is told."""

import http.client
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Kind = Literal["refuse", "stall", "drop", "cut_upload", "cut_answer", "cut_download", "spoil_upload", "slow"]
_BLOCK = 1 << 16
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "te", "upgrade"}


@dataclass
class Fault:
    """What goes wrong, where, and how often.

    Args:
        kind: `refuse`: an error answer; `stall`: nothing for some seconds, then the connection ends; `drop`:
            the connection ends before anything is read; `cut_upload`: it ends in the middle of the body that
            is sent; `cut_answer`: the server does what it is asked, and the connection ends before it says
            so; `cut_download`: it ends in the middle of the body that is received; `spoil_upload`: a byte of
            the body changes on its way; `slow`: the answer waits for some seconds and comes.
        request: Pattern found in "METHOD /path?query".
        times: How many requests, from the first that fits; beyond counting for all.
        skip: How many fitting requests pass before.
        status: Of the error answer.
        code: Of the error answer, as S3 calls it.
        seconds: How long a stall or slowness lasts.
    """

    kind: Kind
    request: str
    times: float = 1
    skip: int = 0
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 30.0
    met: int = field(default=0, init=False)

    def strikes(self, request: str) -> bool:
        """Tell whether a request fails, and count it."""
        if not re.search(self.request, request):
            return False
        self.met += 1
        return self.skip < self.met <= self.skip + self.times

    @property
    def struck(self) -> float:
        """How many requests have failed."""
        return max(min(self.met - self.skip, self.times), 0)


class Proxy:
    """A proxy on loopback; a context manager.

    Args:
        port: Of the server behind it, on loopback.

    Attributes:
        requests: Every request so far, as "METHOD /path?query", and when it came.
    """

    def __init__(self, port: int) -> None:
        self.behind, self.faults = port, list[Fault]()
        self.requests: list[tuple[float, str]] = []
        self._lock, self.closing = threading.Lock(), threading.Event()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, kind: Kind, request: str, **how: float | str) -> Fault:
        """Add a fault."""
        fault = Fault(kind, request, **how)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Take all faults away, and forget the requests."""
        self.faults.clear()
        self.requests.clear()

    def count(self, pattern: str) -> int:
        """Count the requests so far that a pattern is found in."""
        return sum(re.search(pattern, request) is not None for _, request in self.requests)

    def meet(self, request: str) -> Fault | None:
        """Note a request, and give what goes wrong with it."""
        with self._lock:
            self.requests.append((time.monotonic(), request))
            for fault in self.faults:
                if fault.strikes(request):
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _answer(self) -> None:
        fault = self.proxy.meet(f"{self.command} {self.path}")
        kind = fault.kind if fault else ""
        if kind == "drop":
            return self._hang_up()
        body = self._body(cut=kind == "cut_upload")
        if kind == "cut_upload":
            return self._hang_up()
        if fault and kind in ("stall", "slow"):
            self.proxy.closing.wait(fault.seconds)
            if kind == "stall":
                return self._hang_up()
        if fault and kind == "refuse":
            text = f"<Error><Code>{fault.code}</Code><Message>told to fail</Message></Error>"
            return self._send(fault.status, [("Content-Type", "application/xml")], text.encode())
        if kind == "spoil_upload" and body:
            middle = len(body) // 2  # ends are framing
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        status, headers, content = self._ask(body)
        if kind == "cut_answer":
            return self._hang_up()
        self._send(status, headers, content, cut=kind == "cut_download")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def _body(self, *, cut: bool) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(length // 2 if cut else length)
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
            if cut:
                break
        else:
            while self.rfile.readline().strip():
                pass
        return b"".join(parts)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.behind, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            answer = upstream.getresponse()
            kept = [pair for pair in answer.getheaders() if pair[0].lower() not in _HOP]
            if self.command == "HEAD" and (length := answer.getheader("Content-Length")):
                kept.append(("Content-Length", length))
            return answer.status, kept, answer.read()
        finally:
            upstream.close()

    def _send(
        self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        """End the connection without a farewell."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
