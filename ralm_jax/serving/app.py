"""The application: its routes, the page, and what begins and ends with it."""

import contextlib
from collections.abc import Callable
from importlib import metadata, resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ralm_jax.serving import asking, embedding_clients, openapi
from ralm_jax.serving.guard import Guard
from ralm_jax.serving.requests import Endpoint, Refused, Serving

ENDPOINTS = (*asking.ENDPOINTS, *embedding_clients.ENDPOINTS)
PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css")}
PAGE["/page.js"] = ("page.js", "text/javascript")


def application(serving: Serving) -> Starlette:
    """The thread of the devices starts with it and has ended when it has."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        serving.device.start()
        try:
            yield
        finally:
            serving.device.stop()

    described = openapi.document(ENDPOINTS, metadata.version("ralm_jax"))
    routes = [_route(endpoint) for endpoint in ENDPOINTS]
    routes += [Route(path, _file(*file)) for path, file in PAGE.items()]
    routes += [
        Route("/health", _health),
        Route("/metrics", _metrics),
        Route("/openapi.json", lambda request: JSONResponse(described)),
    ]
    paths = frozenset(route.path for route in routes)
    middleware = [Middleware(Guard, serving=serving, paths=paths)]
    # What is raised is the guard's to answer.
    handlers = {HTTPException: _raised}
    app = Starlette(
        routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers
    )
    app.state.serving = serving
    return app


def _route(endpoint: Endpoint) -> Route:
    async def call(request: Request) -> Response:
        return await endpoint(request)

    return Route(endpoint.path, call, methods=[endpoint.method], name=endpoint.path)


def _raised(request: Request, error: Exception) -> Response:
    raise error


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    content = resources.files("ralm_jax.serving").joinpath("page", name).read_bytes()

    def respond(request: Request) -> Response:
        return Response(content, media_type=kind)

    return respond


def _health(request: Request) -> Response:
    """200 once everything is compiled."""
    if not request.app.state.serving.device.ready.is_set():
        raise Refused(503, "Unhealthy", "the server is getting ready")
    return JSONResponse({"status": "ready"})


def _metrics(request: Request) -> Response:
    kind = "text/plain; version=0.0.4"
    return Response(request.app.state.serving.metrics.text(), media_type=kind)
