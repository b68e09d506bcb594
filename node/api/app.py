"""The HTTP interface of a node, put together: routers by noun, errors in one place, limits around everything."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import FastAPI

from node.api.blobs import blob_routes
from node.api.enrolments import enrolment_routes
from node.api.errors import map_errors
from node.api.identity import identity_routes
from node.api.rates import RateLimit, Rates
from node.api.releases import release_routes
from node.api.updates import update_routes
from node.context import Node


def _now() -> datetime:
    return datetime.now(UTC)


def create_app(node: Node, *, now: Callable[[], datetime] = _now, rates: Rates | None = None) -> FastAPI:
    """The application that serves an open node. The caller closes the node."""
    app = FastAPI(
        title="Banyan node", docs_url=None, redoc_url=None, redirect_slashes=False, openapi_url="/openapi.json"
    )
    map_errors(app)
    app.add_middleware(RateLimit, rates=rates or Rates())
    app.include_router(identity_routes(node))
    app.include_router(release_routes(node))
    app.include_router(blob_routes(node))
    app.include_router(enrolment_routes(node, now))
    app.include_router(update_routes(node, now))
    return app
