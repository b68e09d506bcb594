"""Who this node is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter

from node.context import Node
from node.enrol import Introduction


def identity_routes(node: Node) -> APIRouter:
    """`/v1/node`."""
    routes = APIRouter()

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
