"""Builds the ASGI app: routes, and the edge around them. Knows no engine and no BentoML."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from .auth import hash_key
from .desk import Desk
from .edge import Edge
from .endpoint import Endpoint, Handler, NoRoute
from .landing import Landing
from .openapi import Document
from .probes import Probes
from .routes import GENERATE
from .serve import Generate
from .settings import ApiSettings, ServedModel

__all__ = ["ApiSettings", "ServedModel", "create_app", "hash_key"]


def create_app(models: Sequence[ServedModel], settings: ApiSettings) -> Starlette:
    """The app that serves `models`; the first one answers requests that name none."""
    return app_of(Desk.of(models, settings))


def app_of(desk: Desk) -> Starlette:
    """The app over a desk that other doors share."""
    settings = desk.settings
    probes = Probes(desk)
    get: dict[str, Handler] = {
        "/livez": probes.livez,
        "/readyz": probes.readyz,
        "/metrics": probes.metrics,
    }
    post: dict[str, Handler] = {}
    if not settings.probes_only:
        get |= {
            "/": Landing(desk),
            "/openapi.json": Document(desk),
            "/v1/models": probes.models,
            "/v1/models/{model:path}": probes.model,
        }
        post = {route.path: Generate(desk, route.read) for route in GENERATE}
    endpoints = [
        *(Endpoint(path, {"GET": handler}) for path, handler in get.items()),
        *(Endpoint(path, {"POST": handler}) for path, handler in post.items()),
    ]
    # Other sites' pages are refused unless named, and only those named hear of CORS.
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "X-Api-Key", "X-Request-Id", "X-Request-Timeout"],
        expose_headers=[
            *("Retry-After", "Retry-After-Ms", "X-Should-Retry"),
            *("X-Request-Id", "X-Ignored-Parameters"),
        ],
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # The first request would otherwise wait for the import of prometheus_client (50 ms).
        _metrics = desk.metrics
        yield

    app = Starlette(
        lifespan=lifespan,
        routes=[Route(endpoint.path, endpoint) for endpoint in endpoints],
        middleware=[*([cors] if settings.allowed_origins else []), Middleware(Edge, desk=desk)],
    )
    # A path with one slash too many is another path: no redirects that lose a POST's body.
    app.router.redirect_slashes = False
    app.router.default = NoRoute(
        [endpoint.path for endpoint in endpoints], probes_only=settings.probes_only
    )
    return app
