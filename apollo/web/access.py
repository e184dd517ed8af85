"""Who may ask what: the header Host, the origin of writes, the access token, and the browser session.

ASGI middleware, so that bodies of requests and answers stay streams.
"""

import hmac
import json
import secrets
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apollo.web.settings import WebSettings

TOKEN_COOKIE, SESSION_COOKIE = "apollo-token", "apollo-session"
_READING = ("GET", "HEAD")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Access:
    """Refuse requests that may not be answered; give the others a session and security headers.

    Args:
        app: What answers.
        settings: Token and names of hosts.
    """

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cookies = cookie_parser(headers.get("cookie", ""))
        new_cookies: dict[str, str] = {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found[name] = value
                found.setdefault("cache-control", "no-store")
                for name, value in new_cookies.items():
                    found.append("set-cookie", f"{name}={value}; HttpOnly; SameSite=Lax; Path=/")
            await send(message)

        refusal = self._refuse(scope, headers)
        if refusal is not None:
            await _answer(send_with_headers, *refusal)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = [*query.get("token", []), cookies.get(TOKEN_COOKIE, ""), _bearer(headers)]
        if not self._knows_token(given):
            await _answer(send_with_headers, 401, "open the address with the token that the server printed")
            return
        if "token" in query and self._settings.token is not None and not scope["path"].startswith("/api/"):
            new_cookies[TOKEN_COOKIE] = self._settings.token
            rest = urlencode({name: values for name, values in query.items() if name != "token"}, doseq=True)
            location = "/" + quote(scope["path"].lstrip("/\\")) + (f"?{rest}" if rest else "")
            await _answer(send_with_headers, 303, "", location=location)
            return
        session = cookies.get(SESSION_COOKIE, "")
        if len(session) < 32:
            session = new_cookies[SESSION_COOKIE] = secrets.token_urlsafe(32)
        scope.setdefault("state", {})["session"] = session
        await self._app(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Return status and reason for a request of another site, None for others."""
        host = headers.get("host", "")
        if self._settings.hosts and _host_name(host) not in self._settings.hosts:
            return 403, "this server is not called by that name"
        if scope["method"] in _READING:
            return None
        origin = headers.get("origin")
        is_own = origin is None or origin.partition("://")[2] == host
        if not is_own or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "requests of other sites are refused"
        return None

    def _knows_token(self, given: list[str]) -> bool:
        token = self._settings.token
        if token is None:
            return True
        # all are compared, each in constant time
        return any([hmac.compare_digest(one.encode(), token.encode()) for one in given])  # noqa: C419


def _host_name(host: str) -> str:
    """Return a host without its port; an IPv6 address without its brackets."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _bearer(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value if scheme.lower() == "bearer" else ""


async def _answer(send: Send, status: int, reason: str, **headers: str) -> None:
    """Answer without the application."""
    body = json.dumps({"error": reason}).encode() if reason else b""
    named: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    named += [(name.encode(), value.encode()) for name, value in headers.items()]
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": named}
    await send(start)
    await send({"type": "http.response.body", "body": body})
