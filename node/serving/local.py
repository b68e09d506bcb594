"""`LocalBackend`: requests answered by our own engines."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from node.engine.requests import Chunk, Generation, GrammarSpec
from node.engine.sequence import Finish
from node.serving.catalogue import Catalogue
from node.serving.errors import Loading, Refused, Unavailable
from node.serving.models import Served
from node.serving.requests import (
    ChatRequest,
    CompletionRequest,
    Delta,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    Format,
    ModelInfo,
    NamedTool,
    TokenLogprob,
    Tool,
    ToolCallDelta,
)
from node.serving.tools import Call, CallReader, call_grammar, text_or_format
from node.serving.translation import delta_of, logprob_of, sampling_params, translated

COMPLETION_TOKENS: Final = 16  # what the OpenAI API gives to a completion that names no limit
LOAD_S: Final = 60.0  # longest wait of a request for a base that is being loaded

R = TypeVar("R")
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class _Work:
    """A request for an engine, and how to read what comes back."""

    served: Served
    generation: Generation
    tools: frozenset[str] = frozenset()
    parallel: bool = True


class LocalBackend:
    """Answers of the models of this node. See `node.serving.requests.Backend`."""

    def __init__(self, models: Catalogue) -> None:
        self._models = models

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """The pieces of the next turn. Raises Refused, UnknownModel, Busy, Unavailable."""
        work = await _prepared(self._chat_work, request)
        readers = [CallReader(work.tools, parallel=work.parallel) if work.tools else None for _ in range(request.n)]
        answers = [_Answer(reader) for reader in readers]
        async with aclosing(_chunks(work)) as chunks:
            async for chunk in chunks:
                for delta in answers[chunk.index].read(chunk):
                    yield delta

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[Delta, None]:
        """The pieces of the continuation, the echoed prompt first. Raises the same."""
        work, echo = await _prepared(self._completion_work, request)
        silent = request.sampling.max_tokens == 0  # the prompt alone, with its logprobs, is what was asked for
        begun: set[int] = set()
        async with aclosing(_chunks(work)) as chunks:
            async for chunk in chunks:
                if echo is not None and chunk.index not in begun:
                    begun.add(chunk.index)
                    wanted = request.sampling.logprobs is not None
                    yield Delta(chunk.index, echo.text, logprobs=_echoed(echo, chunk) if wanted else ())
                delta = delta_of(chunk)
                yield _without_answer(delta) if silent else delta

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """The vectors of the inputs. Raises the same."""
        served, prompts = await _prepared(self._embedding_work, request)
        with translated():
            vectors = await served.base.engine.embed(served.model, prompts)
        return Embeddings(tuple(tuple(vector) for vector in vectors), sum(map(len, prompts)))

    async def models(self) -> Sequence[ModelInfo]:
        """The models at the heads of all paths."""
        return await asyncio.to_thread(self._models.listed)

    async def model(self, name: str) -> ModelInfo:
        """One model by any of its names. Raises UnknownModel."""
        return await asyncio.to_thread(self._models.info, name)

    def _chat_work(self, request: ChatRequest) -> _Work:
        if not request.messages:
            raise Refused("messages", "there is no message", "give at least one")
        served = self._models.served(request.model)
        tools, wanted = _wanted_tools(request)
        forced = tools if wanted == "forced" else ()
        strict = wanted == "auto" and (any(tool.strict for tool in tools) or request.format is not None)
        prompt = served.base.prompts.chat(served.path, request, tools_as_json=strict)
        if forced:
            grammar: Format | None = call_grammar(forced)
        elif strict:
            grammar = call_grammar(tools, otherwise=text_or_format(request.format))
        else:
            grammar = request.format
        generation = _generation(served, prompt, request, request.sampling.max_tokens, grammar)
        return _Work(served, generation, frozenset(tool.name for tool in tools), request.parallel_tool_calls)

    def _completion_work(self, request: CompletionRequest) -> tuple[_Work, _Echo | None]:
        served = self._models.served(request.model)
        prompt = self._tokens(served, request.prompt, "prompt")
        limit = COMPLETION_TOKENS if request.sampling.max_tokens is None else max(1, request.sampling.max_tokens)
        generation = _generation(served, prompt, request, limit, request.format)
        if not request.echo:
            return _Work(served, generation), None
        if request.sampling.logprobs is not None:
            generation = replace(generation, sampling=replace(generation.sampling, prompt_logprobs=True))
        first = served.base.engine.tokenizer.decode([prompt[0]])
        is_text = isinstance(request.prompt, str)
        text = request.prompt if is_text else served.base.engine.tokenizer.decode(list(prompt))
        return _Work(served, generation), _Echo(str(text), first)

    def _embedding_work(self, request: EmbeddingRequest) -> tuple[Served, list[tuple[int, ...]]]:
        served = self._models.served(request.model)
        if request.dimensions is not None:
            raise Refused("dimensions", "the size of this model's vectors cannot be chosen", "leave dimensions out")
        return served, [self._tokens(served, one, "input") for one in request.inputs]

    def _tokens(self, served: Served, given: str | tuple[int, ...], field: str) -> tuple[int, ...]:
        if isinstance(given, str):
            return served.base.prompts.tokens(given, field, special=True)
        served.base.prompts.check_fits(given, field)
        return given


@dataclass(frozen=True, slots=True)
class _Echo:
    """A prompt to be repeated, and its first token as text."""

    text: str
    first: str


class _Answer:
    """One answer on its way out: calls told from text, and the reason of its end that follows from them."""

    def __init__(self, reader: CallReader | None) -> None:
        self._reader = reader
        self._calls = 0
        self._logprobs: tuple[TokenLogprob, ...] = ()  # of text that the reader still holds

    def read(self, chunk: Chunk) -> Iterator[Delta]:
        """The pieces that a chunk gives."""
        plain = delta_of(chunk)
        if self._reader is None:
            yield plain
            return
        self._logprobs += plain.logprobs
        parts = self._reader.feed(chunk.text)
        if chunk.finish is not None:
            parts += self._reader.end()
        for part in parts:
            yield self._piece(plain.index, part)
        if plain.finish is not None:
            called = self._calls and plain.finish == FinishReason.STOP
            finish = FinishReason.TOOL_CALLS if called else plain.finish
            yield Delta(plain.index, logprobs=self._taken(), finish=finish, usage=plain.usage)

    def _piece(self, index: int, part: str | Call) -> Delta:
        if isinstance(part, str):
            return Delta(index, part, logprobs=self._taken())
        call = ToolCallDelta(self._calls, f"call_{uuid.uuid4().hex[:24]}", part.name, part.arguments)
        self._calls += 1
        return Delta(index, tool_calls=(call,), logprobs=self._taken())

    def _taken(self) -> tuple[TokenLogprob, ...]:
        taken, self._logprobs = self._logprobs, ()
        return taken


async def _prepared(work: Callable[[R], W], request: R) -> W:
    """What a request comes to, made in a thread; none is held while the base is loaded. Raises Loading at last."""
    try:
        return await asyncio.to_thread(work, request)
    except Loading as loading:
        await asyncio.wait([asyncio.wrap_future(loading.coming)], timeout=LOAD_S)
        loading.wait(0)
    return await asyncio.to_thread(work, request)


async def _chunks(work: _Work) -> AsyncGenerator[Chunk, None]:
    """The chunks of the engine, its errors as ours. A choice that ended by an error ends the request with it."""
    with translated():
        async with aclosing(work.served.base.engine.generate(work.generation)) as chunks:
            async for chunk in chunks:
                if chunk.finish in (Finish.ERROR, Finish.CANCELLED):
                    raise Unavailable("the engine could not go on with this request", "try again later")
                yield chunk


def _wanted_tools(request: ChatRequest) -> tuple[tuple[Tool, ...], str]:
    """The tools that may be called, and whether one must be: "forced", "auto" or "none"."""
    choice, tools = request.tool_choice, request.tools
    if isinstance(choice, NamedTool):
        named = tuple(tool for tool in tools if tool.name == choice.name)
        if not named:
            raise Refused("tool_choice", f"there is no tool {choice.name!a:.100}", "name one of tools")
        return named, "forced"
    if choice == "required" and not tools:
        raise Refused("tool_choice", "a call is required, and there are no tools", "give tools")
    if choice == "none" or not tools:
        return (), "none"
    return tools, "forced" if choice == "required" else "auto"


def _generation(
    served: Served,
    prompt: tuple[int, ...],
    request: ChatRequest | CompletionRequest,
    limit: int | None,
    grammar: Format | None,
) -> Generation:
    """The request for the engine; the limit of tokens is an upper bound, cut to what the context has room for."""
    room = served.base.engine.context - len(prompt)
    with translated():
        params = sampling_params(request.sampling, room if limit is None else min(limit, room))
    spec = GrammarSpec(grammar.kind, grammar.text) if grammar is not None else None
    return Generation(served.model, prompt, params, request.n, request.tenant, spec)


def _echoed(echo: _Echo, chunk: Chunk) -> tuple[TokenLogprob, ...]:
    """The logprobs of an echoed prompt; nothing predicts its first token."""
    return (TokenLogprob(echo.first, None, echo.first.encode()), *map(logprob_of, chunk.prompt_logprobs))


def _without_answer(delta: Delta) -> Delta:
    finish = FinishReason.LENGTH if delta.finish is not None else None
    usage = replace(delta.usage, completion_tokens=0) if delta.usage is not None else None
    return Delta(delta.index, finish=finish, usage=usage)
