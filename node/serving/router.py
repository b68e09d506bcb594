"""`Router`: which backend answers. `NAME/MODEL` is a model of the upstream NAME, everything else is of the tree.

Beside them there are backends that are one model each, by a name that no place of the tree can have.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from node.serving.errors import Unavailable, UnknownModel
from node.serving.local import LocalBackend
from node.serving.requests import (
    Backend,
    ChatRequest,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    Embeddings,
    ModelInfo,
)
from node.serving.upstream import UpstreamBackend
from registry.errors import LocalFailure

log = logging.getLogger(__name__)


class Router:
    """One backend made of several; see `node.serving.requests.Backend`."""

    def __init__(
        self,
        local: LocalBackend,
        upstreams: Mapping[str, UpstreamBackend],
        single: Mapping[str, Backend] = MappingProxyType({}),
    ) -> None:
        self._local = local
        self._upstreams = upstreams
        self._single = single

    def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """The pieces of the answers."""
        backend, model = self._find(request.model)
        return backend.chat(replace(request, model=model))

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Delta, None]:
        """The pieces of the continuations."""
        backend, model = self._find(request.model)
        return backend.complete(replace(request, model=model))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """The vectors of the inputs."""
        backend, model = self._find(request.model)
        return await backend.embed(replace(request, model=model))

    async def models(self) -> list[ModelInfo]:
        """The models of the tree, the single ones, then those of every upstream that answers."""
        found = list(await self._local.models())
        for backend in self._single.values():
            found += await backend.models()
        for name, upstream in self._upstreams.items():
            try:
                found += [replace(model, id=f"{name}/{model.id}") for model in await upstream.models()]
            except Unavailable as error:  # one that is down hides no others
                log.warning("the upstream %s lists no models: %s", name, error.message)
        return found

    async def model(self, name: str) -> ModelInfo:
        """One model by its name. Raises UnknownModel, or Unavailable where its upstream is."""
        upstream, _, model = name.partition("/")
        if name in self._single:
            return (await self._single[name].models())[0]
        if upstream not in self._upstreams:
            return await self._local.model(name)
        for found in await self._upstreams[upstream].models():
            if found.id == model:
                return replace(found, id=name)
        raise UnknownModel(name)

    async def aclose(self) -> None:
        """Close the connections to the upstreams, in the event loop that used them."""
        for backend in self._upstreams.values():
            await backend.aclose()

    def _find(self, name: str) -> tuple[Backend, str]:
        if name in self._single:
            return self._single[name], name
        upstream, _, model = name.partition("/")
        return (self._upstreams[upstream], model) if upstream in self._upstreams else (self._local, name)


def upstreams_of(texts: Sequence[str], environment: Mapping[str, str]) -> dict[str, UpstreamBackend]:
    """The upstreams of the setting of that name (`NAME=URL`, `NAME=URL VARIABLE`); keys are in the environment.

    Raises LocalFailure when a variable with a key is not set.
    """
    found: dict[str, UpstreamBackend] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        url, *variable = rest.split()
        key = environment.get(variable[0]) if variable else None
        if variable and not key:
            raise LocalFailure(
                f"the key of the upstream {name} is not set", f"set {variable[0]}, or leave it out of upstreams"
            )
        found[name] = UpstreamBackend(url, key)
    return found
