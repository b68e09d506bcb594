"""/v1/models: what is served, with the place of each model in the tree."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from node.serving.requests import ModelInfo
from node.serving.router import Router


class ModelReply(BaseModel):
    """A model. From `parent` on, the fields are beside OpenAI's: those that vLLM has, and where the model stands.

    `parent` is the model above that this one is the sum of, `root` the base, `release` the digest of what is served.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    root: str | None
    max_model_len: int | None
    path: str | None
    version: int | None
    release: str | None


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[ModelReply]


def model_routes(router: Router) -> APIRouter:
    """The routes of models."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models() -> ModelList:
        """The model at the head of every path, and those of the upstreams."""
        return ModelList(object="list", data=[_reply(model) for model in await router.models()])

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> ModelReply:
        """One model by its path, a version of it (`@v7`), or its name on the Hub."""
        return _reply(await router.model(name))

    return routes


def _reply(model: ModelInfo) -> ModelReply:
    return ModelReply(
        id=model.id,
        object="model",
        created=model.created,
        owned_by=model.owned_by,
        parent=model.parent,
        root=model.base,
        max_model_len=model.context_tokens,
        path=model.path,
        version=model.version,
        release=model.release,
    )
