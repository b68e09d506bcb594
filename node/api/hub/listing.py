"""`GET /api/models`: what is here, searched, filtered, sorted, page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from node.api.hub.describe import Describer
from node.api.hub.errors import HubRoute
from node.api.hub.shelf import Repo, Shelf
from node.context import Node
from registry.errors import BadData, BanyanError

SORTS: Final = ("lastModified", "createdAt", "downloads", "likes", "trendingScore")
SHORT: Final = ("_id", "id", "modelId", "private", "tags", "pipeline_tag", "library_name", "createdAt", "likes")
LONG: Final = (*SHORT, "downloads", "author", "sha", "lastModified", "gated", "disabled", "siblings")
PAGE: Final = 100


class Wish(BaseModel):
    """The query of a listing. What would change the list and is not known here is refused."""

    model_config = ConfigDict(extra="forbid")

    search: Annotated[str, Field(max_length=200)] = ""
    author: Annotated[str, Field(max_length=100)] = ""
    filter: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=20)] = []
    pipeline_tag: Annotated[str, Field(max_length=100)] = ""
    gated: bool | None = None
    sort: str = ""
    direction: str = "-1"
    limit: Annotated[int, Field(ge=0, le=1000)] = PAGE
    cursor: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    full: bool = False
    cardData: bool = False  # noqa: N815 - the Hub's name
    config: bool = False
    expand: Annotated[list[str], Field(max_length=40)] = []


def listing_routes(node: Node, shelf_for: Callable[[Request], Shelf], describer: Describer) -> APIRouter:
    """`/api/models`."""
    routes = APIRouter(route_class=HubRoute)

    @routes.get("/api/models", response_model=None)
    def models(request: Request, wish: Annotated[Wish, Query()]) -> Response:
        """The repositories that the asker sees; the next page is in the header Link."""
        if wish.sort and wish.sort not in SORTS:
            raise BadData(f"models cannot be sorted by {wish.sort[:40]!a}", f"sort by {', '.join(SORTS)}")
        shelf = shelf_for(request)
        told = [described for repo in shelf.repos() if (described := _described(shelf, describer, repo)) is not None]
        found = [one for one in told if _fits(one, wish)]
        if wish.sort:  # nothing counts downloads or likes here: by them the order stays
            found.sort(key=lambda one: one.get(wish.sort, 0), reverse=wish.direction != "1")
        page = found[wish.cursor : wish.cursor + (wish.limit or PAGE)]
        answer = JSONResponse([_chosen(one, wish) for one in page])
        end = wish.cursor + len(page)
        if page and end < len(found):
            following = request.url.include_query_params(cursor=end)
            answer.headers["Link"] = f'<{_public(node, str(following))}>; rel="next"'
        return answer

    return routes


def _described(shelf: Shelf, describer: Describer, repo: Repo) -> dict[str, Any] | None:
    try:
        return describer.model(repo, shelf.snapshot(repo))
    except BanyanError:  # one that was damaged here does not hide the others
        return None


def _fits(one: dict[str, Any], wish: Wish) -> bool:
    tags = set(one["tags"])
    wanted = {tag for text in wish.filter for tag in text.split(",") if tag}
    return (
        wish.search.lower() in one["id"].lower()
        and wish.author in ("", one["author"])
        and wish.pipeline_tag in ("", one["pipeline_tag"])
        and not wish.gated
        and wanted <= tags
    )


def _chosen(one: dict[str, Any], wish: Wish) -> dict[str, Any]:
    if wish.expand:
        names = {"_id", "id", "modelId", *wish.expand}
    else:
        names = {*(LONG if wish.full else SHORT)}
        names |= {"cardData"} if wish.cardData or wish.full else set()
        names |= {"config"} if wish.config else set()
    return {name: value for name, value in one.items() if name in names}


def _public(node: Node, url: str) -> str:
    """The address of the next page, with the scheme that others use: a proxy may stand before this node."""
    parts, outside = urlsplit(url), urlsplit(node.settings.public_url)
    return parts._replace(scheme=outside.scheme).geturl() if parts.netloc == outside.netloc else url
