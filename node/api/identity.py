"""Who this node is, and whether it is well."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter

from node.context import Node
from node.enrol import Introduction
from registry.store import func, select
from registry.tables import HeadRow


def identity_routes(node: Node) -> APIRouter:
    """`/health` and `/v1/node`."""
    routes = APIRouter()

    @routes.get("/health")
    def health() -> dict[str, str | int]:
        """Whether the database answers, and how many paths are served. 503 when it does not."""
        with node.store.read() as session:
            heads = session.scalar(select(func.count()).select_from(HeadRow))
        return {"status": "ok", "heads": heads or 0}

    @routes.get("/v1/node")
    def introduce() -> Introduction:
        """What another node has to know before it makes this one its parent."""
        return Introduction(
            key=node.key.public.hex, name=node.settings.name, paths=node.settings.paths, version=_version()
        )

    return routes


def _version() -> str:
    try:
        return version("banyan-node")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0"
