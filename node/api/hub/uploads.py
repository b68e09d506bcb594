"""Uploads: an adapter folder becomes the next release of a path of this node. Only the holder of the token may.

What `hf upload` and `push_to_hub` do: create the repository, have the card checked, ask how each file should come, and
send one commit. Every file comes inside the commit ("regular"); what is too large for that is refused when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.api.bodies import bounded_body
from node.api.errors import Conflict, Forbidden, TooLarge
from node.api.hub.access import Access
from node.api.hub.commits import Commit, check_name, read_commit, taken_in
from node.api.hub.errors import HubRoute, RepoNotFound
from node.api.hub.files import FileShelf
from node.api.hub.shelf import MAIN, Shelf, Snapshot
from node.context import Node
from node.footing import find_footing
from node.repo_ids import read_repo_id
from registry.cards import MAX_CARD_BYTES, parse_card
from registry.errors import BadData, LocalFailure
from registry.paths import HUB_OWNER, NodePath

SMALL_BYTES: Final = 1 << 20  # of JSON bodies that hold no files
COMMIT_S: Final = 600.0


class _Body(BaseModel):
    """A body of which the fields that matter here are read."""

    model_config = ConfigDict(extra="ignore")


Model = TypeVar("Model", bound=_Body)


class NewRepo(_Body):
    """What is to be made."""

    name: Annotated[str, Field(max_length=200)]
    organization: Annotated[str, Field(max_length=100)] | None = None
    type: str = "model"


class CardText(_Body):
    """A card to be checked."""

    content: Annotated[str, Field(max_length=2 * MAX_CARD_BYTES)]


class Planned(_Body):
    """A file that is to come."""

    path: Annotated[str, Field(max_length=500)]
    size: Annotated[int, Field(ge=0)]


class Plan(_Body):
    """The files of a commit."""

    files: Annotated[list[Planned], Field(max_length=256)]


def upload_routes(node: Node, access: Access, shelf: Shelf, files: FileShelf, now: Callable[[], datetime]) -> APIRouter:
    """`/api/repos/create`, `/api/validate-yaml`, `.../preupload` and `.../commit`."""
    routes = APIRouter(route_class=HubRoute)
    holder = [Depends(access.holder())]
    limit = node.settings.max_update_bytes
    whole_commit = Depends(bounded_body(limit * 4 // 3 + SMALL_BYTES, COMMIT_S))  # files come in base64
    door = _Door(node, shelf, files)

    @routes.post("/api/repos/create", dependencies=holder, response_model=None)
    def create(request: Request, body: Annotated[bytes, Depends(bounded_body(SMALL_BYTES))]) -> Response:
        """Say whether adapters can be uploaded at a path; the first one makes the repository."""
        wish = _read(NewRepo, body)
        path = door.path_of(f"{wish.organization or HUB_OWNER}/{wish.name.rpartition('/')[2]}")
        if wish.type != "model":
            raise BadData(f"{wish.type[:40]!a} repositories are not kept here, models are")
        found = {"url": f"{str(request.base_url).rstrip('/')}/{path.hub_id}", "id": path.hub_id, "name": path.hub_id}
        if door.snapshot(path) is not None:
            return JSONResponse({**found, "error": "You already created this model repo"}, 409)
        return JSONResponse(found)

    @routes.post("/api/validate-yaml", response_model=None)
    def validate(body: Annotated[bytes, Depends(bounded_body(SMALL_BYTES))]) -> Response:
        """Whether the front matter of a card can be read."""
        try:
            parse_card(_read(CardText, body).content)
        except BadData as error:
            return JSONResponse({"errors": [{"message": f"{error.message}. {error.hint}"}], "warnings": []}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    @routes.post("/api/models/{owner}/{name}/preupload/{revision}", dependencies=holder, response_model=None)
    def preupload(
        owner: str, name: str, revision: str, body: Annotated[bytes, Depends(bounded_body(32 * SMALL_BYTES))]
    ) -> Response:
        """How each file should come: inside the commit. Files that are here already are told, and not sent again."""
        snapshot = door.snapshot(door.path_of(f"{owner}/{name}", revision))
        plan = _read(Plan, body)
        for file in plan.files:
            check_name(file.path)
        if (total := sum(file.size for file in plan.files)) > limit:
            raise TooLarge(
                f"these files have {total:,} bytes; at most {limit:,} are taken (max_update_bytes)",
                "save the adapter in bfloat16, choose a lower rank, or train here: node finetune",
            )
        return JSONResponse({"files": [_mode(file.path, files, snapshot) for file in plan.files]})

    @routes.post("/api/models/{owner}/{name}/commit/{revision}", dependencies=holder, response_model=None)
    def commit(
        request: Request,
        owner: str,
        name: str,
        revision: str,
        body: bytes = whole_commit,
    ) -> Response:
        """Check the files and make the release."""
        if "create_pr" in request.query_params:
            raise BadData("there are no pull requests here", "commit to main")
        path = door.path_of(f"{owner}/{name}", revision)
        pin = door.take(path, read_commit(body, limit), now())
        url = f"{str(request.base_url).rstrip('/')}/{path.hub_id}/commit/{pin}"
        return JSONResponse({"success": True, "commitOid": pin, "commitUrl": url, "hookOutput": ""})

    return routes


class _Door:
    """Where uploads come in."""

    def __init__(self, node: Node, shelf: Shelf, files: FileShelf) -> None:
        self._node = node
        self._shelf = shelf
        self._files = files

    def path_of(self, repo_id: str, revision: str = MAIN) -> NodePath:
        """The place that a repository is. Raises Forbidden where this node takes no adapters at it."""
        wanted = read_repo_id(repo_id)
        if wanted is None or wanted.path is None or wanted.form != "adapter" or revision != MAIN:
            raise Forbidden(
                f"adapters are uploaded to the main revision of a path, not to {repo_id[:120]!a}",
                f"hf upload {HUB_OWNER}/en.health FOLDER for en/health",
            )
        if not any(wanted.path.is_within(place) for place in self._node.paths):
            named = ",".join(self._node.settings.paths)
            raise Forbidden(
                f"this node is responsible for {named or 'no path'}, not for {wanted.path}",
                f"node config set paths {named},{wanted.path}",
            )
        try:
            find_footing(self._node, wanted.path)
        except LocalFailure as error:
            raise Forbidden(error.message, error.hint) from error
        return wanted.path

    def snapshot(self, path: NodePath) -> Snapshot | None:
        """What is there now."""
        try:
            return self._shelf.snapshot(self._shelf.repo(path.hub_id))
        except RepoNotFound:
            return None

    def take(self, path: NodePath, commit: Commit, now: datetime) -> str:
        """Make a release of a commit; its own commit."""
        there = self.snapshot(path)
        if commit.parent is not None and commit.parent != (there.commit if there else None):
            raise Conflict(f"{path} has another release by now", "download it again, then upload")
        try:
            return taken_in(self._node, self._shelf, self._files, path, there, commit, now)
        except LocalFailure as error:  # the holder of the token may know what is the matter here
            raise Conflict(error.message, error.hint) from error


def _mode(name: str, files: FileShelf, snapshot: Snapshot | None) -> dict[str, Any]:
    """How a file should come. Only small ones that are here already are told by git's hash."""
    told: dict[str, Any] = {"path": name, "uploadMode": "regular", "shouldIgnore": False}
    load = files.of(snapshot).get(name) if snapshot is not None else None
    if load is not None and (content := load()).sha256 is None:
        told["oid"] = content.etag
    return told


def _read(model: type[Model], body: bytes) -> Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadData(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
