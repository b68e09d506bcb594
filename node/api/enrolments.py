"""Asking to speak for a place below this node, and the answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, Response

from node.api.bodies import bounded_body
from node.api.errors import Forbidden, NotHere
from node.context import Node
from node.enrolments import find_enrolment, take_request
from registry.envelope import MEDIA_TYPE
from registry.paths import NodePath

REQUEST_BYTES: Final = 16 << 10


def enrolment_routes(node: Node, now: Callable[[], datetime]) -> APIRouter:
    """`/v1/enrolments`."""
    routes = APIRouter()

    @routes.post("/v1/enrolments", status_code=202)
    def ask(body: Annotated[bytes, Depends(bounded_body(REQUEST_BYTES))]) -> dict[str, str]:
        """Take a signed request; a person decides about it."""
        state = take_request(node, body, now())
        if state == "revoked":
            raise Forbidden("this key may not speak for this path: it was refused", "ask this node's operator")
        return {"state": state}

    @routes.get("/v1/enrolments/{key_id}", response_class=Response)
    def answer(key_id: str, path: Annotated[str, Query(max_length=250)]) -> Response:
        """The signed enrolment of a key for a path, or that it is still waited for."""
        row = find_enrolment(node, key_id, NodePath.parse(path))
        if row is None:
            raise NotHere("this key has not asked for this path", "POST /v1/enrolments")
        if row.state == "revoked":
            raise Forbidden("this key may not speak for this path: it was refused", "ask this node's operator")
        if row.envelope is None:
            return JSONResponse({"state": "pending"}, 202)
        return Response(row.envelope, media_type=MEDIA_TYPE)

    return routes
