"""What children see of a SuperLink: the calls of their SuperNodes and nothing else.

Flower serves the calls of operators, executors and SuperNodes on one port, and asks operators for nothing: who
reaches the port starts runs. So the SuperLink listens on the loopback interface alone, and this stands before it.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Final

import httpx
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response

from node.api.bodies import bounded_body
from node.api.errors import Forbidden, NotHere, map_errors
from node.federation.admissions import Admissions
from registry.errors import LocalFailure

ADMISSION_BYTES: Final = 16 << 10
CALL_BYTES: Final = 64 << 20  # Flower sends arrays in pieces of 20 MiB
CALL_S: Final = 120.0
CALL: Final = re.compile(r"[a-z]+(-[a-z]+)*")
KEY_HEADER: Final = "flwr-public-key"
KEPT: Final = ("content-type", "accept", "user-agent")


def fleet_app(admissions: Admissions, superlink: httpx.Client) -> FastAPI:
    """The application before a SuperLink, which the caller's client reaches and trusts."""
    app = FastAPI(title="Banyan rounds", docs_url=None, redoc_url=None, openapi_url=None)
    map_errors(app)

    @app.post("/v1/admission")
    def admit(body: Annotated[bytes, Depends(bounded_body(ADMISSION_BYTES))]) -> dict[str, str]:
        """Let the SuperNode of an enrolled child in."""
        return {"path": admissions.admit(body).path}

    @app.post("/v1/fleet/{call}")
    def pass_on(
        call: str, request: Request, body: Annotated[bytes, Depends(bounded_body(CALL_BYTES, CALL_S))]
    ) -> Response:
        """A call of a SuperNode that was let in (J10)."""
        if not CALL.fullmatch(call):  # no way up from /v1/fleet
            raise NotHere("SuperNodes make no such call")
        if not admissions.lets_in(_key_of(request)):
            raise Forbidden("this SuperNode was not let in", "node federate join")
        headers = {name: value for name, value in request.headers.items() if name in KEPT or name.startswith("flwr-")}
        try:
            answer = superlink.post(f"/v1/fleet/{call}", content=body, headers=headers)
        except httpx.HTTPError as error:
            raise LocalFailure(f"the SuperLink does not answer: {error}") from error
        kept = {name: value for name, value in answer.headers.items() if name.startswith("flwr-")}
        return Response(answer.content, answer.status_code, kept, answer.headers.get("content-type"))

    return app


def _key_of(request: Request) -> bytes:
    try:
        return base64.b64decode(request.headers.get(KEY_HEADER, ""), validate=True)
    except binascii.Error:
        return b""
