"""`/{owner}/{name}/resolve/{revision}/{file}`: the bytes of a file, whole or a part; nothing here leads to Xet (B4)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from node.api.hub.contents import Content
from node.api.hub.errors import EntryNotFound, HubRoute, RepoNotFound, refused
from node.api.hub.files import FileShelf
from node.api.hub.shelf import Shelf

RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def resolve_routes(shelf_for: Callable[[Request], Shelf], files: FileShelf) -> APIRouter:
    """The files of every repository."""
    routes = APIRouter(route_class=HubRoute)

    @routes.api_route("/{owner}/{name}/resolve/{revision}/{file:path}", methods=["GET", "HEAD"], response_model=None)
    def resolve(request: Request, owner: str, name: str, revision: str, file: str) -> Response:
        """A file at a revision."""
        shelf = shelf_for(request)
        snapshot = shelf.snapshot(shelf.repo(f"{owner}/{name}"), revision)
        load = files.of(snapshot).get(file)
        if load is None:
            raise EntryNotFound(f"{snapshot.id} has no file {file[:120]!a}", snapshot.commit)
        return _answer(request, load(), file, snapshot.commit)

    @routes.api_route("/{name}/resolve/{revision}/{file:path}", methods=["GET", "HEAD"], response_model=None)
    def ownerless(name: str) -> Response:
        """Ids without an owner are the Hub's own oldest models; there are none here."""
        raise RepoNotFound(f"no model {name[:120]!a} is here", "GET /api/models lists those that are")

    return routes


def part_of(header: str, size: int) -> tuple[int, int] | None:
    """The bytes (start, stop) that a Range header asks for: all of them where it is not one range of bytes.

    None where it lies behind the end (RFC 9110, section 14).
    """
    found = RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return 0, size
    if not found[1]:
        return (size - min(size, int(found[2])), size) if int(found[2]) and size else None
    start, stop = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
    if found[2] and int(found[2]) < start:
        return 0, size
    return (start, stop) if start < size else None


def _answer(request: Request, content: Content, name: str, commit: str) -> Response:
    etag, asked = f'"{content.etag}"', request.headers.get("range", "")
    if request.headers.get("if-range", etag) != etag:
        asked = ""
    headers = {
        "X-Repo-Commit": commit,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'inline; filename="{name}"',
    }
    part = part_of(asked, content.size)
    if part is None:
        answer = refused(416, "RangeNotSatisfiable", f"the file has {content.size} bytes")
        answer.headers["Content-Range"] = f"bytes */{content.size}"
        return answer
    start, stop = part
    if is_part := stop - start < content.size:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    headers["Content-Length"] = str(stop - start)
    body = iter(()) if request.method == "HEAD" else content.read(start, stop)
    return StreamingResponse(body, 206 if is_part else 200, headers, media_type="application/octet-stream")
