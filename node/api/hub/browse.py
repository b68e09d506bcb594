"""One repository: what it is, its files, its revisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from node.api.bodies import bounded_body
from node.api.hub.describe import Describer, commit_info, entry, sibling
from node.api.hub.errors import EntryNotFound, HubRoute
from node.api.hub.files import FileShelf
from node.api.hub.shelf import MAIN, Repo, Shelf, Snapshot
from node.repo_ids import commit_of
from registry.errors import BadData

MAX_PATHS: Final = 1_000
MAX_PATHS_BYTES: Final = 1 << 20


class Paths(BaseModel):
    """The body of `paths-info`."""

    model_config = ConfigDict(extra="forbid")

    paths: Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=MAX_PATHS)]
    expand: bool = False

    @classmethod
    def read(cls, body: bytes) -> Paths:
        """Read JSON, or the form that huggingface_hub sends. Raises BadData."""
        try:
            if body.lstrip().startswith(b"{"):
                return cls.model_validate_json(body)
            sent = parse_qs(body.decode("ascii"), max_num_fields=MAX_PATHS + 1)
            return cls.model_validate({"paths": sent.get("paths", []), "expand": sent.get("expand", ["false"])[-1]})
        except ValueError as error:  # pydantic's own is one, too
            raise BadData("the body is not a list of paths", '{"paths": ["README.md"], "expand": false}') from error


class Browser:
    """What the routes share."""

    def __init__(self, shelf_for: Callable[[Request], Shelf], files: FileShelf, describer: Describer) -> None:
        self._shelf_for = shelf_for
        self._files = files
        self._describer = describer

    def find(self, request: Request, owner: str, name: str, revision: str = MAIN) -> tuple[Repo, Snapshot]:
        """A repository and one of its revisions. Raises RepoNotFound or RevisionNotFound."""
        shelf = self._shelf_for(request)
        repo = shelf.repo(f"{owner}/{name}")
        return repo, shelf.snapshot(repo, revision)

    def describe(
        self, request: Request, where: tuple[str, str, str], expand: tuple[str, ...], *, blobs: bool
    ) -> Response:
        """A model at a revision."""
        repo, snapshot = self.find(request, *where)
        told = self._describer.model(repo, snapshot)
        if blobs:
            told["siblings"] = [sibling(name, load()) for name, load in self._files.of(snapshot).items()]
        if expand:
            told = {name: value for name, value in told.items() if name in {"_id", "id", "modelId", *expand}}
        return JSONResponse(told)

    def tree(self, request: Request, where: tuple[str, str, str], folder: str, *, expand: bool) -> Response:
        """The files of a revision; there are no folders in it."""
        _, snapshot = self.find(request, *where)
        if folder.strip("/"):
            raise EntryNotFound(f"{snapshot.id} has no folder {folder[:120]!a}", snapshot.commit)
        return JSONResponse([self._entry(snapshot, name, expand=expand) for name in self._files.of(snapshot)])

    def paths(self, request: Request, where: tuple[str, str, str], wanted: Paths) -> Response:
        """Some files of a revision; those that are not there are left out."""
        _, snapshot = self.find(request, *where)
        known = self._files.of(snapshot)
        return JSONResponse([self._entry(snapshot, one, expand=wanted.expand) for one in wanted.paths if one in known])

    def _entry(self, snapshot: Snapshot, name: str, *, expand: bool) -> dict[str, Any]:
        told = entry(name, self._files.of(snapshot)[name]())
        if expand:
            commit = commit_info(snapshot)
            told["lastCommit"] = {key: commit[key] for key in ("id", "title", "date")}
        return told

    def refs(self, request: Request, owner: str, name: str) -> Response:
        """`main`, and a tag for each version."""
        repo = self._shelf_for(request).repo(f"{owner}/{name}")
        if repo.form == "base":
            branches, tags = [(MAIN, commit_of(repo.releases[0].base))], []
        else:
            branches = [(MAIN, commit_of(repo.head.digest))] if repo.head else []
            tags = list({f"v{row.version}": commit_of(row.digest) for row in repo.releases}.items())
        return JSONResponse(
            {
                "branches": [_ref("heads", *one) for one in branches],
                "tags": [_ref("tags", *one) for one in tags],
                "converts": [],
            }
        )

    def commits(self, request: Request, where: tuple[str, str, str]) -> Response:
        """The versions up to a revision, the newest first."""
        repo, snapshot = self.find(request, *where)
        shelf = self._shelf_for(request)
        version = snapshot.last.release.version
        earlier = [row for row in repo.releases if row.version < version] if repo.form != "base" else []
        listed = [snapshot, *(shelf.snapshot(repo, commit_of(row.digest)) for row in earlier)]
        return JSONResponse([commit_info(one) for one in listed])


def browse_routes(shelf_for: Callable[[Request], Shelf], files: FileShelf, describer: Describer) -> APIRouter:
    """`/api/models/{owner}/{name}` and what is below it."""
    routes = APIRouter(route_class=HubRoute, prefix="/api/models/{owner}/{name}")
    browser = Browser(shelf_for, files, describer)

    @routes.get("", response_model=None)
    def model(
        request: Request,
        owner: str,
        name: str,
        expand: Annotated[tuple[str, ...], Query(max_length=40)] = (),
        blobs: bool = False,
    ) -> Response:
        """A model."""
        return browser.describe(request, (owner, name, MAIN), expand, blobs=blobs)

    @routes.get("/revision/{revision}", response_model=None)
    def at_revision(
        request: Request,
        owner: str,
        name: str,
        revision: str,
        expand: Annotated[tuple[str, ...], Query(max_length=40)] = (),
        blobs: bool = False,
    ) -> Response:
        """A model at a revision."""
        return browser.describe(request, (owner, name, revision), expand, blobs=blobs)

    @routes.get("/tree/{revision}", response_model=None)
    @routes.get("/tree/{revision}/{folder:path}", response_model=None)
    def tree(
        request: Request, owner: str, name: str, revision: str, folder: str = "", expand: bool = False
    ) -> Response:
        """The files of a revision."""
        return browser.tree(request, (owner, name, revision), folder, expand=expand)

    @routes.post("/paths-info/{revision}", response_model=None)
    def paths(
        request: Request,
        owner: str,
        name: str,
        revision: str,
        body: Annotated[bytes, Depends(bounded_body(MAX_PATHS_BYTES))],
    ) -> Response:
        """Some files of a revision."""
        return browser.paths(request, (owner, name, revision), Paths.read(body))

    @routes.get("/refs", response_model=None)
    def refs(request: Request, owner: str, name: str) -> Response:
        """Branches and tags."""
        return browser.refs(request, owner, name)

    @routes.get("/commits/{revision}", response_model=None)
    def commits(request: Request, owner: str, name: str, revision: str) -> Response:
        """The history."""
        return browser.commits(request, (owner, name, revision))

    return routes


def _ref(kind: str, name: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
