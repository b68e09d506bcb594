"""Asking a server through our client for it."""

from __future__ import annotations

import asyncio
from typing import Any

from node.serving.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from node.serving.upstream import UpstreamBackend
from node.serving.upstream_bounds import NORMAL, Limits

KEY = "sk-secret-of-the-upstream"


def asked(
    url: str,
    request: ChatRequest | CompletionRequest | EmbeddingRequest | None,
    limits: Limits = NORMAL,
    key: str | None = KEY,
) -> Any:
    """What a backend answers: all deltas, the embeddings, or for None the models."""

    async def ask() -> Any:
        backend = UpstreamBackend(url, key, limits)
        try:
            if request is None:
                return await backend.models()
            if isinstance(request, EmbeddingRequest):
                return await backend.embed(request)
            stream = backend.chat(request) if isinstance(request, ChatRequest) else backend.complete(request)
            return [delta async for delta in stream]
        finally:
            await backend.aclose()

    return asyncio.run(ask())
