"""`Engine`: the door to the models of one base. Callers in any event loop or thread; one thread that does the work.

What callers want done (begin, cancel, load) is done by the engine's thread between two steps. A request passes through
`Engine` (is it possible?), `Scheduler` (when?), `Runner` (logits), `sampler` (tokens), `Answer` (text) and `Handle` (to
its reader).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from itertools import count
from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerFast

from node.engine.adapter_file import AdapterFile
from node.engine.admission import answers, refuse
from node.engine.blocks import BlockManager
from node.engine.config import EngineConfig
from node.engine.embeddings import Job, Vectors, refuse_prompts
from node.engine.errors import EngineError, EngineStopped, Overloaded, RequestRefused
from node.engine.grammar import Constraint
from node.engine.handle import Handle, wake
from node.engine.loop import Loop
from node.engine.requests import Chunk, Generation, GrammarSpec
from node.engine.runner import Runner
from node.engine.scheduler import Scheduler
from node.engine.speech import load_speech
from node.engine.statistics import Statistics
from node.engine.worker import Worker, apart

log = logging.getLogger(__name__)

MAX_N: Final = 128
COMPILERS: Final = 2  # threads that compile grammars
COMPILE_S: Final = 10.0
CHANGE_S: Final = 60.0  # longest wait for the step before a change of models


class Engine:
    """All models over one base: `base` is its folder, `clock` gives seconds, `entropy` 64 bits for unseeded requests.

    Raises EngineError when the base cannot be served. `context` is the most tokens of a prompt with its answer.
    """

    def __init__(
        self,
        base: Path,
        config: EngineConfig,
        clock: Callable[[], float] = time.monotonic,
        entropy: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> None:
        self.config = config
        self._clock = clock
        self._entropy = entropy
        self._runner = apart(lambda: Runner(base, config))
        self.vocabulary = self._runner.outline.vocabulary
        blocks = BlockManager(self._runner.blocks, config.block_tokens)
        limits = (self._runner.outline.context, config.max_context, blocks.total * config.block_tokens)
        self.context = min(limit for limit in limits if limit)
        self._speech = load_speech(base, self.vocabulary)
        self._files: dict[str, AdapterFile] = {}
        self._models: dict[str, tuple[str, ...]] = {}
        scheduler = Scheduler(config, blocks, self.context, clock)
        self._loop = Loop(self._runner, scheduler, self._speech, self._files, clock)
        self._worker = Worker(self._turn, self._busy, self._stopped)
        self._compilers = ThreadPoolExecutor(COMPILERS, "engine-grammars")
        self._ids = count()
        self._open: set[Handle] = set()
        self._change = threading.Condition()  # of `_open`
        self._accepting = True

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The base's."""
        return self._speech.tokenizer

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._speech.ends

    @property
    def models(self) -> Mapping[str, tuple[str, ...]]:
        """Names that requests may use, with the ids of their adapters, top first."""
        return dict(self._models)

    def add_model(self, name: str, adapters: Sequence[AdapterFile] = ()) -> None:
        """Serve the base with these adapters, top first, under a name; replaces one of that name.

        The work goes on meanwhile, and requests that run go on with what they began with. Raises EngineError when an
        adapter cannot be loaded; nothing has changed then.
        """
        apart(lambda: self._load(adapters))
        self._worker.call(lambda: self._add_model(name, tuple(adapters)), CHANGE_S)

    def _load(self, adapters: Sequence[AdapterFile]) -> None:
        for adapter in adapters:
            self._runner.load_adapter(adapter)

    def remove_model(self, name: str) -> None:
        """Answer no further requests for this name. Raises EngineError when there is none."""
        self._worker.call(lambda: self._remove_model(name), CHANGE_S)

    def start(self) -> None:
        """Start the thread that does the work."""
        self._worker.start()

    async def drain(self, timeout_s: float) -> None:
        """Take no new requests, let those that are open end within the time, end the others with EngineStopped."""
        with self._change:
            self._accepting = False
        await asyncio.to_thread(self._wait_until_empty, timeout_s)
        with suppress(EngineStopped):
            self._worker.post(lambda: self._loop.cancel_all(EngineStopped("the engine is shutting down")))

    def close(self) -> None:
        """Stop the thread; whoever still waits gets EngineStopped."""
        with self._change:
            self._accepting = False
        self._worker.stop()
        self._compilers.shutdown(wait=False, cancel_futures=True)

    async def generate(self, request: Generation) -> AsyncGenerator[Chunk, None]:
        """The chunks of all answers as they come. Leaving the iterator ends the request and frees its pages.

        Raises RequestRefused (before the first chunk) when the request is impossible, Overloaded when too many wait or
        it waited too long, EngineStopped, and EngineError when a step failed.
        """
        handle = self._opened(Handle(request, asyncio.get_running_loop()))
        try:
            self._begin(handle, await self._compiled(request.grammar))
            async with aclosing(handle.read()) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._leave(handle)

    async def embed(self, model: str, prompts: Sequence[tuple[int, ...]]) -> Vectors:
        """A vector of length 1 for each prompt: its mean last hidden state. Raises as `generate` does."""
        adapters = self._adapters(model)
        refuse_prompts(prompts, self.context, self.vocabulary)
        if not self._accepting:
            raise EngineStopped("the engine is shutting down")
        job = Job(adapters, tuple(prompts))
        self._worker.post(lambda: self._loop.embed(job))
        return await asyncio.wrap_future(job.result)

    def statistics(self) -> Statistics:
        """What was counted until now."""
        return self._loop.statistics()

    def submit(self, request: Generation) -> Handle:
        """Begin a request whose chunks are polled from the handle; for callers that drive `step` themselves."""
        handle = self._opened(Handle(request))
        try:
            self._begin(handle, self._speech.grammars.compile(request.grammar) if request.grammar else None)
        except EngineError:
            self._leave(handle)
            raise
        return handle

    def cancel(self, handle: Handle) -> None:
        """End a submitted request before the next step."""
        self._leave(handle)

    def step(self) -> bool:
        """What the thread does in one turn; False when there was nothing to do. Not beside a started thread."""
        self._worker.run_posted()
        return self._turn()

    def _opened(self, handle: Handle) -> Handle:
        """Refuse what can never be answered and what is too much now; else count it among the open ones."""
        self._adapters(handle.request.model)
        refuse(handle.request, self.context, self.vocabulary, min(MAX_N, self.config.max_running))
        with self._change:
            if not self._accepting:
                raise EngineStopped("the engine is shutting down")
            if len(self._open) >= self.config.max_waiting + self.config.max_running:
                raise Overloaded(f"{len(self._open)} requests are open already", "try again in a while")
            self._open.add(handle)
        return handle

    def _adapters(self, model: str) -> tuple[str, ...]:
        adapters = self._models.get(model)
        if adapters is None:
            raise RequestRefused("model", f"there is no model {model!a:.200}")
        return adapters

    async def _compiled(self, spec: GrammarSpec | None) -> Constraint | None:
        if spec is None:
            return None
        compiled: Future[Constraint] = self._compilers.submit(self._speech.grammars.compile, spec)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(compiled), COMPILE_S)
        except TimeoutError as error:
            raise RequestRefused(
                spec.field, f"the grammar was not compiled within {COMPILE_S:g} s", "simplify it"
            ) from error

    def _begin(self, handle: Handle, constraint: Constraint | None) -> None:
        seed = handle.request.sampling.seed
        found = answers(
            handle,
            self._adapters(handle.request.model),
            self._speech.names,
            constraint,
            room=self.context - len(handle.request.prompt),
            seed=self._entropy() if seed is None else seed,
            now=self._clock(),
            ids=self._ids,
        )
        self._worker.post(lambda: self._loop.add(found))

    def _leave(self, handle: Handle) -> None:
        try:
            self._worker.post(lambda: self._loop.cancel(handle))
        except EngineStopped:
            self._closed({handle})

    def _turn(self) -> bool:
        try:
            worked = self._loop.step()
        except Exception as error:
            log.exception("the engine cannot go on with what it has")
            self._loop.cancel_all(EngineError(f"the engine failed: {error!s:.200}"))
            worked = True
        for lost in wake(self._loop.news):
            self._loop.cancel(lost)
        self._closed({handle for handle in self._loop.news if handle.ended})
        self._loop.news.clear()
        return worked

    def _busy(self) -> bool:
        return self._loop.busy or bool(self._loop.news)

    def _stopped(self) -> None:
        """The thread has ended: nobody may be left waiting."""
        error = EngineStopped("the engine has stopped")
        with suppress(Exception):  # whatever state a failure has left
            self._loop.cancel_all(error)
        with self._change:
            left = set(self._open)
        for handle in left:
            handle.end(error)
        wake(left)
        self._closed(left)

    def _closed(self, handles: set[Handle]) -> None:
        with self._change:
            self._open -= handles
            self._change.notify_all()

    def _wait_until_empty(self, timeout_s: float) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._open, timeout_s)

    def _add_model(self, name: str, adapters: tuple[AdapterFile, ...]) -> None:
        self._files.update({adapter.id: adapter for adapter in adapters})
        self._models = {**self._models, name: tuple(adapter.id for adapter in adapters)}
        self._forget_files()

    def _remove_model(self, name: str) -> None:
        if name not in self._models:
            raise EngineError(f"there is no model {name!a:.200}")
        self._models = {other: adapters for other, adapters in self._models.items() if other != name}
        self._forget_files()

    def _forget_files(self) -> None:
        """Drop the adapters that no model and no open request names."""
        named = {adapter for adapters in self._models.values() for adapter in adapters} | self._loop.adapters()
        for adapter in self._files.keys() - named:
            del self._files[adapter]
