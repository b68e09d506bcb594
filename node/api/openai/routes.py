"""All routes of the OpenAI API, behind the check of the key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from fastapi import APIRouter, Depends

from node.api.openai.access import only_holders
from node.api.openai.chat import chat_routes
from node.api.openai.chat_body import ChatBody
from node.api.openai.completions import CompletionBody, completion_routes
from node.api.openai.embeddings import EmbeddingBody, embedding_routes
from node.api.openai.models import model_routes
from node.api.openai.responses import response_routes
from node.api.openai.responses_body import ResponseBody
from node.serving.router import Router

BODIES: Final = (ChatBody, CompletionBody, EmbeddingBody, ResponseBody)
PLACES: Final = ("/v1/chat/", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/responses")


def openai_routes(router: Router, keys: Sequence[str], now: Callable[[], datetime]) -> APIRouter:
    """The routes; without keys they answer to this machine alone."""
    routes = APIRouter(dependencies=[Depends(only_holders(keys))])
    routes.include_router(model_routes(router))
    routes.include_router(chat_routes(router, now))
    routes.include_router(completion_routes(router, now))
    routes.include_router(embedding_routes(router))
    routes.include_router(response_routes(router, now))
    return routes
