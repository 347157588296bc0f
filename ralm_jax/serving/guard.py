"""What stands before every route: who may ask, what is logged, and that no error says more than it should."""

import hmac
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ralm_jax.serving.requests import Refused, Serving, refusal

# Texts of the corpus are behind the key; these have none.
OPEN = frozenset(("/", "/page.css", "/page.js", "/health", "/metrics", "/openapi.json"))
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
# The client closed the connection: nginx's number, for nothing is sent.
GONE = 499


class Guard:
    """Middleware around the routes; `paths` are theirs, as they are declared."""

    def __init__(self, app: ASGIApp, serving: Serving, paths: frozenset[str]):
        self._app, self._serving, self._paths = app, serving, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            try:
                self._check(scope)
                await self._app(scope, receive, noted)
            except ClientDisconnect:
                status = GONE
            except Exception as error:
                # Too late for another answer once one has begun.
                if not status:
                    await refusal(scope["path"], self._as_refused(error))(scope, receive, noted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else _declared(scope["path"])
            self._serving.metrics.request(path, status, time.perf_counter() - began)

    def _as_refused(self, error: Exception) -> Refused:
        if isinstance(error, Refused):
            return error
        if isinstance(error, HTTPException):
            kind = {404: "NotFound", 405: "Method"}.get(error.status_code, "Validation")
            return Refused(error.status_code, kind, str(error.detail))
        self._serving.metrics.log_failure(error)
        return Refused(500, "Backend", "the server failed at this; its log says where")

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts, key = self._serving.hosts, self._serving.key
        if hosts is not None and _host(headers.get("host", "")) not in hosts:
            # A page of another site whose name was pointed at this machine.
            raise Refused(421, "Host", "this server is asked by another name than its own")
        if key is None or scope["path"] in OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Bytes of a header, as they came.
        if not hmac.compare_digest(given.encode("latin-1"), key):
            raise Refused(401, "Unauthorized", "give the key: Authorization: Bearer KEY")


def _host(header: str) -> str:
    """A Host header without its port."""
    name, colon, port = header.lower().rpartition(":")
    return name if colon and port.isdigit() else header.lower()


def _declared(path: str) -> str:
    """What stands for a path that may hold a text, or anything."""
    return "/passages/{id}" if path.startswith("/passages/") else "other"
