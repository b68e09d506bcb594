"""`/v1/sessions`: the conversations with the assistant that are remembered for the holder of a key."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from node.api.openai.access import only_holders, tenant_of
from node.context import Node
from node.sessions import Session, forget_session, sessions


class SessionList(BaseModel):
    """Conversations, the latest first."""

    sessions: list[Session]


def session_routes(node: Node, keys: Sequence[str]) -> APIRouter:
    """The routes; without keys they answer to this machine alone. Everybody sees their own conversations only."""
    routes = APIRouter(dependencies=[Depends(only_holders(keys))])

    @routes.get("/v1/sessions")
    def listed(request: Request) -> SessionList:
        """The asker's conversations."""
        return SessionList(sessions=sessions(node.store, tenant_of(request)))

    @routes.delete("/v1/sessions/{name}")
    def forget(request: Request, name: str) -> Session:
        """Forget one."""
        return forget_session(node.store, tenant_of(request), name)

    return routes
