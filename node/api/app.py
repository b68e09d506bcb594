"""The HTTP interface of a node, put together: routers by noun, errors in one place, limits around everything."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from fastapi import FastAPI
from pydantic import BaseModel

from node.api.blobs import blob_routes
from node.api.document import documented
from node.api.enrolments import enrolment_routes
from node.api.errors import map_errors
from node.api.health import health_routes
from node.api.hints import HintBoard, hint_routes
from node.api.hub.routes import hub_routes
from node.api.identity import identity_routes
from node.api.jobs import JobBody, job_routes
from node.api.journal import Journal
from node.api.log import log_routes
from node.api.mcp import mcp_route
from node.api.metrics import HttpMetrics, metric_routes
from node.api.openai.routes import BODIES, PLACES, openai_routes
from node.api.rates import RateLimit, Rates
from node.api.recommend import RecommendBody, recommend_routes
from node.api.releases import release_routes
from node.api.rounds import round_routes
from node.api.sessions import session_routes
from node.api.tuf import tuf_routes
from node.api.updates import update_routes
from node.context import Node
from node.engine.statistics import Statistics
from node.serving.assistant import NAME, AssistantBackend
from node.serving.local import LocalBackend
from node.serving.models import Models
from node.serving.router import Router, upstreams_of
from sync.hints import HINTS_PATH


def _now() -> datetime:
    return datetime.now(UTC)


def create_app(
    node: Node, models: Models | None = None, *, now: Callable[[], datetime] = _now, rates: Rates | None = None
) -> FastAPI:
    """The application that serves an open node, and where `models` are given, requests to them.

    The caller closes the node and the models.
    """
    upstreams = upstreams_of(node.settings.upstreams, os.environ) if models else {}
    router = Router(LocalBackend(models), upstreams, {NAME: AssistantBackend(node, now)}) if models else None

    board = HintBoard(node)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        if router is not None:
            await router.aclose()

    app = FastAPI(
        title="Banyan node",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        openapi_url="/openapi.json",
        lifespan=life,
    )
    app.state.end_streams = board.end  # `node.api.server` calls it before it waits for answers that run
    map_errors(app)
    metrics = HttpMetrics(lambda: _statistics(models))
    app.add_middleware(RateLimit, rates=rates or Rates(), model_places=(*PLACES, HINTS_PATH))
    app.add_middleware(Journal, metrics=metrics)
    app.include_router(health_routes(node, models))
    app.include_router(metric_routes(metrics))
    app.include_router(identity_routes(node))
    app.include_router(release_routes(node))
    app.include_router(tuf_routes(node, now))
    app.include_router(blob_routes(node))
    app.include_router(hint_routes(board))
    app.include_router(enrolment_routes(node, now))
    app.include_router(update_routes(node, now))
    app.include_router(log_routes(node, now))
    app.include_router(round_routes(node, now))
    app.include_router(hub_routes(node, now))
    app.include_router(recommend_routes(node, node.settings.api_keys, now))
    app.include_router(job_routes(node, node.settings.api_keys, now))
    app.include_router(session_routes(node, node.settings.api_keys))
    app.router.routes.append(mcp_route(node, node.settings.api_keys, now))
    bodies: tuple[type[BaseModel], ...] = (RecommendBody, JobBody)
    if router is not None:
        app.include_router(openai_routes(router, node.settings.api_keys, now))
        bodies += BODIES
    app.openapi = documented(app, bodies)  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app


def _statistics(models: Models | None) -> dict[str, Statistics]:
    engines = models.engines if models is not None else {}
    return {base: engine.statistics() for base, engine in engines.items()}
