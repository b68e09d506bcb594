"""/health: the process lives and its database answers. /ready: it may be given requests to models."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from node.api.errors import error_body
from node.context import Node
from node.serving.models import Models
from registry.store import func, select
from registry.tables import HeadRow


def health_routes(node: Node, models: Models | None) -> APIRouter:
    """The routes for those who watch over a node."""
    routes = APIRouter()

    @routes.get("/health")
    def health() -> dict[str, str | int]:
        """Whether the database answers, and how many paths are served. 503 when it does not."""
        return {"status": "ok", "heads": _heads(node)}

    @routes.get("/ready", response_class=JSONResponse)
    def ready() -> Response:
        """Whether models are served here: 503 while the first are loaded, while the node ends, and with `serve` off."""
        if models is None or not models.ready:
            why = "models are not served here now"
            return JSONResponse(error_body(why, "ask again later", "not_ready", 503), 503)
        return JSONResponse({"status": "ready", "heads": _heads(node), "bases_loaded": len(models.engines)})

    return routes


def _heads(node: Node) -> int:
    with node.store.read() as session:
        return session.scalar(select(func.count()).select_from(HeadRow)) or 0
