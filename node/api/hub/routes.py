"""All routes of the Hub interface."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from node.api.hub.access import Access
from node.api.hub.browse import browse_routes
from node.api.hub.describe import Describer
from node.api.hub.errors import HubRoute, RepoNotFound, refused
from node.api.hub.files import FileShelf
from node.api.hub.listing import listing_routes
from node.api.hub.resolve import resolve_routes
from node.api.hub.shelf import Shelf
from node.api.hub.uploads import upload_routes
from node.context import Node
from registry.paths import HUB_OWNER


def hub_routes(node: Node, now: Callable[[], datetime]) -> APIRouter:
    """`/api/...` and `/{owner}/{name}/resolve/...`."""
    access, files = Access(node), FileShelf(node)
    everything, public = Shelf(node, sees_all=True), Shelf(node, sees_all=False)
    describer = Describer(node, files)

    def shelf_for(request: Request) -> Shelf:
        return everything if access.is_holder(request) else public

    routes = APIRouter(route_class=HubRoute, include_in_schema=False)
    routes.include_router(_identity_routes(node, access))
    routes.include_router(listing_routes(node, shelf_for, describer))
    routes.include_router(browse_routes(shelf_for, files, describer))
    routes.include_router(upload_routes(node, access, everything, files, now))
    routes.include_router(resolve_routes(shelf_for, files))
    return routes


def _identity_routes(node: Node, access: Access) -> APIRouter:
    routes = APIRouter(route_class=HubRoute)

    @routes.get("/api/whoami-v2", response_model=None)
    def whoami(request: Request) -> Response:
        """Whom the token stands for: the owner of all repositories here."""
        if not access.is_holder(request):
            return refused(401, "Unauthorized", "this is not the token of this node: set HF_TOKEN to its hub_token")
        token = {"displayName": "hub_token", "role": "write"}
        known = {"type": "user", "id": node.key.public.id[:24], "name": HUB_OWNER, "fullname": node.settings.name}
        plain: dict[str, object] = {"email": None, "isPro": False, "canPay": False, "orgs": []}
        return JSONResponse({**known, **plain, "auth": {"type": "access_token", "accessToken": token}})

    @routes.get("/api/models/{name}", response_model=None)
    def ownerless(name: str) -> Response:
        """Ids without an owner are the Hub's own oldest models; there are none here."""
        raise RepoNotFound(f"no model {name[:120]!a} is here", "GET /api/models lists those that are")

    return routes
