"""/v1/embeddings."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from node.api.openai.access import tenant_of
from node.api.openai.bodies import Body, ModelName, TokenId, body_of, described
from node.api.openai.streams import whole
from node.serving.requests import Backend, EmbeddingRequest

MOST_INPUTS = 2048
Text = Annotated[str, Field(min_length=1)]
Ids = Annotated[list[TokenId], Field(min_length=1)]


class EmbeddingBody(Body):
    """Vectors of one text or of several. `dimensions` only where a model's vectors can be cut. Without effect: user."""

    model: ModelName
    input: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_INPUTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    user: Annotated[str, Field(max_length=4096)] | None = None

    def request(self, tenant: str) -> EmbeddingRequest:
        """The neutral form."""
        given = self.input
        if isinstance(given, str):
            inputs: list[str | tuple[int, ...]] = [given]
        elif ids := [part for part in given if isinstance(part, int)]:
            inputs = [tuple(ids)]
        else:
            inputs = [part if isinstance(part, str) else tuple(part) for part in given if not isinstance(part, int)]
        return EmbeddingRequest(self.model, tuple(inputs), self.dimensions, tenant)


class EmbeddingReply(BaseModel):
    """The vector of one input: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The reply."""

    object: Literal["list"]
    data: list[EmbeddingReply]
    model: str
    usage: EmbeddingUsage


def embedding_routes(backend: Backend) -> APIRouter:
    """The route of embeddings."""
    routes = APIRouter()

    @routes.post("/v1/embeddings", response_model=EmbeddingList, openapi_extra=described(EmbeddingBody))
    async def embed(request: Request, body: Annotated[EmbeddingBody, Depends(body_of(EmbeddingBody))]) -> Response:
        """One vector for each input."""
        return await whole(request, _whole(backend, body, tenant_of(request)))

    return routes


async def _whole(backend: Backend, body: EmbeddingBody, tenant: str) -> EmbeddingList:
    found = await backend.embed(body.request(tenant))
    packed = body.encoding_format == "base64"
    data = [
        EmbeddingReply(object="embedding", index=index, embedding=_packed(vector) if packed else list(vector))
        for index, vector in enumerate(found.vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens=found.prompt_tokens, total_tokens=found.prompt_tokens)
    return EmbeddingList(object="list", data=data, model=body.model, usage=usage)


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
