"""Tell load balancers whether the service restores, and refuse new songs while it does not."""

from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HEALTH_PATH = "/health"


class Readiness:
    """Answer GET /health without a token: 200, or 503 with the reason; ASGI middleware.

    Args:
        app: What answers everything else.
        problem: Returns why nothing is restored now, None if all is well.
        retry_seconds: When a refused client may try again.
    """

    def __init__(self, app: ASGIApp, problem: Callable[[], str | None], retry_seconds: int) -> None:
        self._app, self._problem, self._retry_seconds = app, problem, retry_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        answer = self._answer(scope) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    def _answer(self, scope: Scope) -> JSONResponse | None:
        asked = scope["path"] == HEALTH_PATH and scope["method"] in ("GET", "HEAD")
        if not asked and scope["method"] != "POST":
            return None
        problem = self._problem()
        if problem is not None:
            headers = {"Retry-After": str(self._retry_seconds)}
            return JSONResponse({"error": problem}, 503, headers)
        return JSONResponse({"status": "ready"}) if asked else None
