"""Updates on their way in: the envelope, its files from where an earlier try ended, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header
from fastapi.responses import JSONResponse, Response

from node.api.bodies import bounded_body
from node.api.errors import Conflict, error_body
from node.context import Node
from registry.documents import CheckResult
from registry.envelope import MAX_ENVELOPE_BYTES
from registry.fields import MAX_COUNT
from sync.inbox import Identity, Limits, append_file, file_offset, receipt_of, receive
from sync.push import Receipt, Standing
from sync.transport import OFFSET_HEADER

PIECE_BYTES: Final = 4 << 20
STATUS: Final = {"enrolment": 403, "audience": 403, "still-enrolled": 403, "sequence": 409, "size": 413, "rank": 413}


def update_routes(node: Node, now: Callable[[], datetime]) -> APIRouter:
    """`/v1/updates`."""
    routes = APIRouter()
    own = Identity(node.key, node.paths)
    limits = inbox_limits(node)

    @routes.post("/v1/updates", status_code=202, response_model=Receipt)
    def offer(body: Annotated[bytes, Depends(bounded_body(MAX_ENVELOPE_BYTES))]) -> Receipt | Response:
        """Take the envelope of an update. What it fails of the first checks is said at once, and kept."""
        receipt = receive(node.store, node.blobs, body, own, now(), limits=limits)
        first = [check for check in receipt.failed if check.name.startswith("envelope.")]
        if receipt.state == "rejected" and first:
            return _refusal(receipt.digest, first)
        if not receipt.missing:
            node.arrived.set()
        return Receipt(
            digest=receipt.digest, state=receipt.state, missing=tuple(file.sha256 for file in receipt.missing)
        )

    @routes.get("/v1/updates/{digest}")
    def standing(digest: str) -> Standing:
        """How far an update is, and the signed verdict once there is one."""
        receipt = receipt_of(node.store, node.blobs, digest)
        return Standing(
            state=receipt.state,
            verdict=receipt.verdict.decode("ascii") if receipt.verdict is not None else None,
            missing=tuple(file.sha256 for file in receipt.missing),
        )

    routes.include_router(_file_routes(node))
    return routes


def _file_routes(node: Node) -> APIRouter:
    """`/v1/updates/{digest}/files`."""
    routes = APIRouter()

    @routes.head("/v1/updates/{digest}/files/{sha256}", response_class=Response)
    def offset(digest: str, sha256: str) -> Response:
        """How many bytes of a file are here, in the header Upload-Offset."""
        return _offset(file_offset(node.store, node.blobs, digest, sha256))

    @routes.put("/v1/updates/{digest}/files/{sha256}", response_class=Response, status_code=204)
    def append(
        digest: str,
        sha256: str,
        body: Annotated[bytes, Depends(bounded_body(PIECE_BYTES))],
        upload_offset: Annotated[int, Header(ge=0, le=MAX_COUNT)],
    ) -> Response:
        """Append bytes at the offset that the header Upload-Offset names; bytes may be repeated, not left out."""
        here = file_offset(node.store, node.blobs, digest, sha256)
        if upload_offset > here:
            raise Conflict(f"{here} bytes of this file are here, not {upload_offset}", f"send from byte {here} on")
        here = append_file(node.store, node.blobs, digest, sha256, offset=upload_offset, data=body)
        if node.blobs.has(sha256) and not receipt_of(node.store, node.blobs, digest).missing:  # not at each piece
            node.arrived.set()
        return _offset(here)

    return routes


def inbox_limits(node: Node) -> Limits:
    """What this node takes from its children, by its settings."""
    settings = node.settings
    return Limits(
        update_bytes=settings.max_update_bytes,
        rank=settings.max_adapter_rank,
        transfer_rows=settings.max_transfer_rows,
        skew_s=settings.clock_skew_s,
        pending=settings.max_pending_updates,
    )


def _offset(here: int) -> Response:
    return Response(status_code=204, headers={OFFSET_HEADER: str(here)})


def _refusal(digest: str, failed: list[CheckResult]) -> Response:
    """The answer to an update that failed the first checks (H3)."""
    name = failed[0].name.removeprefix("envelope.")
    message = "; ".join(f"{check.name}: {check.reason}" for check in failed)
    status = STATUS.get(name, 400)
    return JSONResponse(error_body(message, f"node updates show {digest}", f"check_{name}", status), status)
