"""The files of the releases of this node, whole or from a byte on."""

from __future__ import annotations

import re

from fastapi import APIRouter
from fastapi.responses import FileResponse

from node.api.catalogue import Catalogue
from node.api.errors import NotHere
from node.context import Node

DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobResponse(FileResponse):
    """A file in large pieces; several ranges at a time come as multipart/byteranges, bytes in more than one once."""

    chunk_size = 1 << 20


def blob_routes(node: Node) -> APIRouter:
    """`/v1/blobs/{sha256}`."""
    routes = APIRouter()
    catalogue = Catalogue(node)

    @routes.get("/v1/blobs/{sha256}", response_class=FileResponse)
    def blob(sha256: str) -> FileResponse:
        """The bytes of a file that a release names; the receiver checks its digest."""
        if not DIGEST.fullmatch(sha256) or not catalogue.has(sha256) or not node.blobs.has(sha256):
            raise NotHere("no file with this digest is part of a release here", "GET /v1/heads")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return BlobResponse(node.blobs.path(sha256), media_type="application/octet-stream", headers=headers)

    return routes
