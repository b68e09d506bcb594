"""The TUF repository of this node: its metadata, and the releases that it lists as target files.

A timestamp and an unversioned root are never stored by anybody; every other file says its version in its name and never
changes. What has changed since is published when the timestamp is asked for, so that nobody waits for a round.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response

from node.api.errors import NotHere
from node.api.shared import shared
from node.context import Node
from node.repository import Publisher, repository
from registry.envelope import MEDIA_TYPE
from registry.tables import ReleaseRow

VERSIONED: Final = re.compile(r"[1-9][0-9]{0,9}\.(root|targets|snapshot)\.json")
TARGET: Final = re.compile(r"(?P<path>.{1,250})/(?P<digest>[0-9a-f]{64})\.v(?P<version>[1-9][0-9]{0,9})")
CHANGING: Final = ("timestamp.json", "root.json")
FRESH: Final = {"Cache-Control": "no-store"}
FOREVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}


def tuf_routes(node: Node, now: Callable[[], datetime]) -> APIRouter:
    """`/v1/tuf/metadata` and `/v1/tuf/targets` (F13)."""
    routes = APIRouter()
    publisher = Publisher(node)

    @routes.get("/v1/tuf/metadata/{name}", response_class=Response)
    def metadata(name: str) -> Response:
        """Signed metadata: `timestamp.json`, `N.snapshot.json`, `N.targets.json`, `N.root.json`, `root.json`."""
        lasting = VERSIONED.fullmatch(name) is not None
        if not lasting and name not in CHANGING:
            raise NotHere("metadata has no such name", "GET /v1/tuf/metadata/timestamp.json")
        if not lasting:
            publisher.renew(now())
        if name == "root.json":
            name = f"{repository(node).root().version}.root.json"
        try:
            data = (node.home.repository / name).read_bytes()
        except FileNotFoundError:
            raise NotHere(f"there is no {name}", "GET /v1/tuf/metadata/timestamp.json") from None
        return Response(data, media_type="application/json", headers=FOREVER if lasting else FRESH)

    @routes.get("/v1/tuf/targets/{name:path}", response_class=Response)
    def target(name: str) -> Response:
        """The envelope of a release: `PATH/DIGEST.vN`, as clients of TUF ask for the target `PATH/vN`."""
        match = TARGET.fullmatch(name)
        with node.store.read() as session:
            row = session.get(ReleaseRow, match["digest"]) if match else None
            seen = shared(node, session, [row]) if row is not None else []
        if match is None or not seen or (seen[0].path, str(seen[0].version)) != (match["path"], match["version"]):
            raise NotHere("no such target is here", "GET /v1/tuf/metadata/timestamp.json")
        return Response(seen[0].envelope, media_type=MEDIA_TYPE, headers=FOREVER)

    return routes
