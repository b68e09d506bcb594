"""The application of `node start`: the small interface and the OpenAI API over the models that were started."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response

from node.api.document import documented
from node.api.errors import error_body, map_errors
from node.api.journal import Journal
from node.api.metrics import HttpMetrics, metric_routes
from node.api.openai import routes as openai
from node.api.rates import RateLimit, Rates
from node.api.simple.answers import Answers
from node.api.simple.routes import BODIES, simple_routes
from node.generation import GenerationSettings
from node.serving.local import LocalBackend
from node.serving.requests import ChatRequest, CompletionRequest, Delta, Sampling
from node.serving.router import Router
from node.started import Started


class WithDefaults(Router):
    """The started models, each answering by its generation settings where a request does not say otherwise."""

    def __init__(self, models: Started) -> None:
        super().__init__(LocalBackend(models), {})
        self._models = models

    def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """The pieces of the answers."""
        settings = self._models.settings(request.model)
        return super().chat(replace(request, sampling=filled(request.sampling, settings)))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Delta, None]:
        """The pieces of the continuations."""
        settings = self._models.settings(request.model)
        return super().complete(replace(request, sampling=filled(request.sampling, settings)))


def filled(said: Sampling, settings: GenerationSettings) -> Sampling:
    """What a request says, and the settings where it says nothing: None, an empty collection, false."""
    given = {name: getattr(said, name) for name, _ in settings}
    unsaid = {name for name, value in given.items() if value is None or value is False or value in ((), {})}
    return replace(said, **{name: value for name, value in settings if name in unsaid})


def create_started_app(models: Started, router: WithDefaults, keys: Sequence[str]) -> FastAPI:
    """The application over models that were started; without `keys` it answers to this machine alone."""
    app = FastAPI(title="Banyan", docs_url=None, redoc_url=None, redirect_slashes=False, openapi_url="/openapi.json")
    map_errors(app)
    metrics = HttpMetrics(lambda: {name: engine.statistics() for name, engine in models.engines.items()})
    app.add_middleware(RateLimit, rates=Rates(), model_places=("/",))
    app.add_middleware(Journal, metrics=metrics)
    app.include_router(_health(models))
    app.include_router(metric_routes(metrics))
    app.include_router(simple_routes(Answers(router, models.names[0]), keys))
    app.include_router(openai.openai_routes(router, keys, lambda: datetime.now(UTC)))
    app.openapi = documented(app, (*BODIES, *openai.BODIES))  # type: ignore[method-assign]  # FastAPI's own way
    return app


def _health(models: Started) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health")
    def health() -> dict[str, str | int]:
        """Whether the process lives, and how many models it serves."""
        return {"status": "ok", "models": len(models.names)}

    @routes.get("/ready", response_class=JSONResponse)
    def ready() -> Response:
        """Whether requests are answered: 503 when the models have been closed."""
        if not models.ready:
            return JSONResponse(error_body("the models are closed", "start them again", "not_ready", 503), 503)
        return JSONResponse({"status": "ready", "models": models.names})

    return routes
