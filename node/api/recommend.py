"""`/v1/recommend`: which models meet a need, with reasons; `/v1/ratings`: how they served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from assistant.extract import MAX_CHARS
from node.api.openai.access import only_holders, tenant_of
from node.api.openai.bodies import Body, body_of, described
from node.context import Node
from node.feedback import MAX_WORDS, rate
from node.recommending import Shelf, as_data, machine_of, need_of
from recommender.answers import LeftOut, WayOut
from recommender.candidate import MAX_ID_CHARS, Kind, Source
from recommender.constraints import Amount, Count, Device, Task
from recommender.hardware import Machine
from recommender.recommend import MOST_ANSWERS

Word = Annotated[str, Field(min_length=1, max_length=100)]
Slot = Literal[
    "task",
    "languages",
    "domain",
    "subdomain",
    "device",
    "memory_gb",
    "max_parameters_b",
    "min_context_tokens",
    "min_tokens_per_s",
    "license",
    "local_only",
    "finetune",
    "max_usd_per_mtok",
]


class RecommendBody(Body):
    """A need in words and slot by slot, which wins; what is named in `wishes` may be missed, other slots may not."""

    text: Annotated[str, Field(max_length=MAX_CHARS)] = ""
    task: Task | None = None
    languages: Annotated[tuple[Word, ...], Field(max_length=32)] | None = None
    domain: Word | None = None
    subdomain: Word | None = None
    device: Device | None = None
    memory_gb: Amount | None = None
    max_parameters_b: Amount | None = None
    min_context_tokens: Annotated[Count, Field(le=1 << 40)] | None = None
    min_tokens_per_s: Amount | None = None
    license: Word | None = None
    local_only: bool | None = None
    finetune: bool | None = None
    max_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None
    wishes: Annotated[tuple[Slot, ...], Field(max_length=13)] = ()
    machine: Annotated[str, Field(max_length=200, description="another machine than this one: RTX 3060 12 GB")] = ""
    tree_only: bool = False
    count: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] = 5


class Answer(BaseModel):
    """One model that meets every rule, and how it would run; see `recommender.answers.Recommendation`."""

    model: str
    source: Source
    kind: Kind
    parameters_b: float | None
    context_tokens: int | None
    license: str | None
    commercial: bool | None
    usd_per_mtok: float | None
    form: str
    memory_gb: float | None
    training_gb: float | None
    tokens_per_s: float | None
    quality: float | None
    low: float | None
    high: float | None
    grade: str
    basis: str
    met: tuple[str, ...]
    missed: tuple[str, ...]
    unknown: tuple[str, ...]
    on_front: bool
    against_first: str


class RecommendReply(BaseModel):
    """The answers, best first; or which rules conflict and what would help."""

    asked: list[str]
    answers: list[Answer]
    considered: int
    survivors: int
    machine: Machine
    why: list[str]
    left_out: list[LeftOut]
    conflicts: list[tuple[str, ...]]
    ways_out: list[WayOut]


class RatingBody(Body):
    """How well a model serves, 1 (useless) to 5 (just right), and why; the model is named as /v1/recommend does."""

    model: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
    rating: Annotated[int, Field(ge=1, le=5)]
    why: Annotated[str, Field(max_length=MAX_WORDS)] = ""


class RatingReply(BaseModel):
    """What was kept."""

    model: str
    rating: int


def recommend_routes(node: Node, keys: Sequence[str], now: Callable[[], datetime]) -> APIRouter:
    """The routes; without keys they answer to this machine alone."""
    routes = APIRouter(dependencies=[Depends(only_holders(keys))])
    shelf = Shelf(node)

    @routes.post("/v1/recommend", response_model=RecommendReply, openapi_extra=described(RecommendBody))
    def recommend(body: Annotated[RecommendBody, Depends(body_of(RecommendBody))]) -> dict[str, Any]:
        """The models that meet a need."""
        values = body.model_dump(exclude={"text", "wishes", "machine", "tree_only", "count"})
        languages = sorted(set(values["languages"] or ()))
        need = need_of(body.text, {**values, "languages": tuple(languages)}, body.wishes)
        machine = machine_of(body.text, body.machine, need)
        return as_data(need, shelf.recommend(need, machine, body.count, now(), tree_only=body.tree_only))

    @routes.post("/v1/ratings", response_model=RatingReply, openapi_extra=described(RatingBody))
    def rate_model(request: Request, body: Annotated[RatingBody, Depends(body_of(RatingBody))]) -> dict[str, Any]:
        """What the holder of this key says of a model, in the place of what they said before."""
        rate(node, body.model, body.rating, body.why, voice=tenant_of(request), now=now())
        return {"model": body.model, "rating": body.rating}

    return routes
