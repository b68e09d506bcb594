"""Where the federated rounds of this node are served, while they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from fastapi import APIRouter
from fastapi.responses import Response

from node.api.errors import NotHere
from node.context import Node
from node.federation.places import invitation_of
from registry.envelope import MEDIA_TYPE


def round_routes(node: Node, now: Callable[[], datetime]) -> APIRouter:
    """`/v1/rounds`."""
    routes = APIRouter()

    @routes.get("/v1/rounds", response_class=Response)
    def invitation() -> Response:
        """The signed invitation (J9)."""
        envelope = invitation_of(node, now())
        if envelope is None:
            raise NotHere("no federated rounds are served here now", "ask this node's operator")
        return Response(envelope, media_type=MEDIA_TYPE)

    return routes
