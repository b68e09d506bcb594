"""The releases of this node: its heads, their envelopes, and who signed which version."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from node.api.errors import NotHere
from node.api.shared import shared
from node.context import Node
from registry.documents import ReleasePin
from registry.envelope import MEDIA_TYPE
from registry.fields import Version
from registry.paths import NodePath
from registry.store import select
from registry.tables import HeadRow, ReleaseRow
from sync.pull import MAX_LISTED, SignedPin

DIGEST = Annotated[str, Query(pattern="^[0-9a-f]{64}$")]


def release_routes(node: Node) -> APIRouter:
    """`/v1/heads` and `/v1/releases`."""
    routes = APIRouter()

    @routes.get("/v1/heads")
    def heads() -> list[ReleasePin]:
        """The release that this node serves at each path."""
        wanted = select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest).order_by(ReleaseRow.path)
        with node.store.read() as session:
            rows = shared(node, session, session.scalars(wanted.limit(MAX_LISTED)))
        return [ReleasePin(path=row.path, version=row.version, digest=row.digest) for row in rows]

    @routes.get("/v1/releases")
    def releases(path: Annotated[str, Query(max_length=250)], version: Version | None = None) -> list[SignedPin]:
        """The releases of a path (and version), the newest first, one for each key that signed one."""
        place = str(NodePath.parse(path))
        wanted = select(ReleaseRow).where(ReleaseRow.path == place).order_by(ReleaseRow.version.desc())
        if version is not None:
            wanted = wanted.where(ReleaseRow.version == version)
        with node.store.read() as session:
            rows = shared(node, session, session.scalars(wanted.limit(MAX_LISTED)))
        return [SignedPin(path=row.path, version=row.version, digest=row.digest, signer=row.signer) for row in rows]

    @routes.get("/v1/releases/{digest}", response_class=Response)
    def envelope(digest: str) -> Response:
        """The signed envelope of a release, byte for byte."""
        with node.store.read() as session:
            row = session.get(ReleaseRow, digest)
            seen = shared(node, session, [row]) if row is not None else []
        if row is None or not seen:
            raise NotHere(f"no release {digest[:64]!a} is here", "GET /v1/heads")
        return Response(row.envelope, media_type=MEDIA_TYPE)

    return routes
