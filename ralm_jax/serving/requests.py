"""From the bytes of a request to its turn at the devices, and back: limits, refusals, clients that leave."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ralm_jax.serving import bodies
from ralm_jax.serving.device import BATCH, DeviceThread, Operation
from ralm_jax.serving.metrics import Metrics
from ralm_jax.serving.operations import NoSuchPassage

# Requests that wait or are worked on, their bodies in memory; and seconds that a body may take to come.
MOST, PATIENCE = 256, 30.0
# Seconds after which a client that was refused for want of room may try again.
RETRY = 1


class Refused(Exception):
    """What a client is told; the kind is a word that programs can tell apart."""

    def __init__(self, status: int, kind: str, message: str):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


@dataclasses.dataclass
class Serving:
    """What all requests share; `names` are those of the runs, the default first."""

    device: DeviceThread
    metrics: Metrics
    names: Sequence[str]
    key: bytes | None = None
    hosts: frozenset[str] | None = None  # that a Host header may name; None: any
    admitted: int = 0


class Endpoint(NamedTuple):
    """A route of the API; `call` is given the request and its body, decoded."""

    method: str
    path: str
    call: Callable[[Request, Any], Awaitable[Any]]
    takes: Any
    gives: Any
    says: str

    async def __call__(self, request: Request) -> Response:
        """Refuses what there is no room for before it reads a body."""
        serving: Serving = request.app.state.serving
        if serving.admitted >= MOST:
            raise Refused(429, "Overloaded", f"{MOST} requests are waiting; try again later")
        serving.admitted += 1
        try:
            body = None if self.takes is None else decoded(await _body(request), self.takes)
            return _json(await self.call(request, body))
        finally:
            serving.admitted -= 1


def _json(given: Any) -> Response:
    return Response(msgspec.json.encode(given), media_type="application/json")


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "Validation", "send JSON, with content-type: application/json")
    too_large = Refused(413, "Validation", f"a body has at most {bodies.BODY:,} bytes")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > bodies.BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > bodies.BODY:
                    raise too_large
    except TimeoutError:
        raise Refused(408, "Timeout", f"the body did not come in {PATIENCE:.0f} s") from None
    return bytes(body)


def decoded(body: bytes, kind: Any) -> Any:
    """JSON, checked. What is said of a mistake may quote a word of it, and goes to the client alone."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message = str(error)
        if "of length <=" in message:
            raise Refused(413, "Validation", message) from None
        if "of length >=" in message:
            raise Refused(400, "Empty", message) from None
        raise Refused(422, "Validation", message) from None
    # Also bytes that are no text, and numbers and nesting beyond what can be held.
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Refused(400, "Validation", "the body is not JSON") from None


def chosen(request: Request, model: str | None) -> str:
    """The name of the run that a request is for."""
    names = request.app.state.serving.names
    if model is None:
        return names[0]
    if model not in names:
        raise Refused(404, "NotFound", f"no such model; served here: {', '.join(names)}")
    return model


def stripped(text: str, name: str) -> str:
    """A question that says something."""
    if not text.strip():
        raise Refused(400, "Empty", f"{name} is blank")
    return text


async def worked(
    request: Request, run: str, operation: Operation, items: Sequence[Any]
) -> list[Any]:
    """A result for each item. A client that goes away while it waits loses its turn.

    Pieces of one request are submitted one after the other, so that others have their turn between them.
    """
    device: DeviceThread = request.app.state.serving.device
    if not device.ready.is_set():
        raise Refused(503, "Unhealthy", "the server is getting ready")
    gone = asyncio.ensure_future(_gone(request))
    results = []
    try:
        for start in range(0, len(items), BATCH):
            work = asyncio.wrap_future(device.submit(run, operation, items[start : start + BATCH]))
            done, _ = await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work not in done:
                work.cancel()
                raise ClientDisconnect
            results += _result(work)
    finally:
        gone.cancel()
    return results


def _result(work: "asyncio.Future[list[Any]]") -> list[Any]:
    try:
        return work.result()
    except NoSuchPassage:
        raise Refused(404, "NotFound", "the corpus has no passage of that id") from None
    except (CancelledError, asyncio.CancelledError):
        raise Refused(503, "Unhealthy", "the server is stopping") from None
    except Exception:
        # The thread of the devices has logged it.
        raise Refused(500, "Backend", "the server failed at this; its log says where") from None


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refusal(path: str, refused: Refused) -> Response:
    """In the form of OpenAI under /v1/, elsewhere in that of text-embeddings-inference."""
    given: dict[str, Any] = {"error": refused.message, "error_type": refused.kind}
    if path.startswith("/v1/"):
        kind = "server_error" if refused.status >= 500 else "invalid_request_error"
        about = {"type": kind, "param": None, "code": refused.kind.lower()}
        given = {"error": {"message": refused.message, **about}}
    headers = {"retry-after": str(RETRY)} if refused.status in (429, 503) else {}
    headers |= {"www-authenticate": "Bearer"} if refused.status == 401 else {}
    return Response(
        json.dumps(given), refused.status, headers=headers, media_type="application/json"
    )
