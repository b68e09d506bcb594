"""`Loop`: schedule, run, sample, hand out: one step after the other, for all requests together.

Used from one thread; `engine.py` brings requests to it and its chunks to their readers. What goes wrong in a step ends
the requests of that step and no others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from node.engine import sampler
from node.engine.adapter_file import AdapterFile
from node.engine.answers import Added, Answer
from node.engine.embeddings import EmbeddingQueue, Job, fail
from node.engine.errors import EngineError, Overloaded
from node.engine.handle import Handle
from node.engine.sampler import Likely
from node.engine.scheduler import Piece, Scheduler, Step
from node.engine.sequence import Finish, Status
from node.engine.sequence import Sequence as Row
from node.engine.speech import Speech
from node.engine.statistics import Counters, Statistics
from node.engine.turns import Turn, read_prompts, thoughts, turns_of

log = logging.getLogger(__name__)


class Runs(Protocol):
    """What the loop needs of a runner."""

    def load_adapter(self, adapter: AdapterFile) -> None:
        """See that an adapter is in memory."""

    def run(self, step: Step) -> Tensor:
        """Logits (rows that were asked for, in the order of the pieces; vocabulary), float32."""

    def hidden_means(self, prompts: Sequence[tuple[int, ...]], adapters: tuple[str, ...]) -> Tensor:
        """The mean of the last hidden states of each text (prompts x width)."""


class Loop:
    """The work on all open requests. `files` are the adapters by id that requests may name."""

    def __init__(
        self,
        runner: Runs,
        scheduler: Scheduler,
        speech: Speech,
        files: Mapping[str, AdapterFile],
        clock: Callable[[], float],
    ) -> None:
        self.scheduler = scheduler
        self.news: set[Handle] = set()  # handles whose readers have something to see
        self._counters = Counters()
        self._embeddings = EmbeddingQueue(self._hidden_means)
        self._runner = runner
        self._speech = speech
        self._files = files
        self._clock = clock
        self._answers: dict[Row, Answer] = {}
        self._open: dict[Handle, list[Answer]] = {}

    @property
    def busy(self) -> bool:
        """Whether there is anything to do, now or as soon as something else has ended."""
        return bool(self._open or len(self._embeddings))

    def add(self, answers: Sequence[Answer]) -> None:
        """Begin a request with all its answers: the first one reads the prompt, the others follow it."""
        first = answers[0]
        try:
            self.scheduler.add(first.sequence)
        except EngineError as error:
            first.handle.end(error)
            self.news.add(first.handle)
            return
        first.waiting = tuple(answers[1:])
        self._answers[first.sequence] = first
        self._open[first.handle] = list(answers)

    def embed(self, job: Job) -> None:
        """Queue texts to embed; the asker is told when the queue is full."""
        try:
            self._embeddings.add(job)
        except EngineError as error:
            fail(job, error)

    def adapters(self) -> set[str]:
        """The adapters of all open requests."""
        answers = (answer for answers in self._open.values() for answer in answers)
        return {adapter for answer in answers for adapter in answer.sequence.adapters} | self._embeddings.adapters()

    def statistics(self) -> Statistics:
        """What was counted until now. From any thread."""
        running, waiting = len(self.scheduler.running), len(self.scheduler.waiting)
        blocks = self.scheduler.blocks
        return self._counters.taken(running, waiting, blocks.used / blocks.total, self.scheduler.preemptions)

    def cancel(self, handle: Handle, error: EngineError | None = None, why: Finish = Finish.CANCELLED) -> None:
        """End a request and free its pages; with an error its reader is told. Nothing happens to one that has ended."""
        for answer in self._open.pop(handle, ()):
            self._answers.pop(answer.sequence, None)
            if answer.sequence.status is not Status.FINISHED:
                self.scheduler.finish(answer.sequence, why)
                self._counters.ended(answer.marks, self._clock(), why)
        handle.end(error)
        self.news.add(handle)

    def cancel_all(self, error: EngineError) -> None:
        """End everything."""
        for handle in list(self._open):
            self.cancel(handle, error)
        self._embeddings.clear(error)

    def step(self) -> bool:
        """One step of all that is ready, and a share of the embeddings. False when there was nothing to do."""
        worked = bool(len(self._embeddings))
        self._embeddings.work(self.scheduler.config.chunk_tokens)
        for sequence in self.scheduler.expired(self._clock()):
            waited = f"no turn within {self.scheduler.config.max_wait_s:g} s"
            self.cancel(self._answers[sequence].handle, Overloaded(waited, "try again in a while"))
        step = self.scheduler.schedule()
        if step is None:
            return worked
        step = self._with_adapters(step)
        try:
            self._run(step)
        except Exception as error:
            log.exception("a step of %d sequences failed", len(step.pieces))
            # Its block copies are lost with it, so whoever runs may be affected.
            concerned = {self._answers[row].handle for row in self.scheduler.running if row in self._answers}
            self._fail(concerned, error)
        return True

    def _with_adapters(self, step: Step) -> Step:
        """The step without the requests whose adapters cannot be loaded; those end."""
        kept: list[Piece] = []
        tried: dict[str, Exception | None] = {}
        for piece in step.pieces:
            for adapter in piece.sequence.adapters:
                if adapter not in tried:
                    tried[adapter] = self._load(adapter)
            if error := next((tried[adapter] for adapter in piece.sequence.adapters if tried[adapter]), None):
                self._fail({self._answers[piece.sequence].handle}, error)
            else:
                kept.append(piece)
        return Step(tuple(piece for piece in kept if piece.sequence.status is Status.RUNNING), step.copies)

    def _load(self, adapter: str) -> Exception | None:
        try:
            self._runner.load_adapter(self._files[adapter])
        except Exception as error:
            log.exception("adapter %.12s cannot be loaded", adapter)
            return error
        return None

    def _run(self, step: Step) -> None:
        now = self._clock()
        for piece in step.pieces:
            answer = self._answers[piece.sequence]
            if answer.marks.started is None:
                answer.tally.cached = piece.sequence.cached
                self._counters.started(answer.marks, now, len(piece.sequence.prompt), piece.sequence.cached)
        turns = turns_of(step, self._answers)
        logits = self._runner.run(step)
        read_prompts(step, logits, self._answers, self._speech.names)
        if not turns:
            self.scheduler.done(step, {})
            return
        rows = [turn.row for turn in turns]
        if rows != list(range(logits.shape[0])):
            logits = logits[rows]
        constraints = [turn.answer.constraint for turn in turns]
        allowed = self._speech.grammars.fill(constraints) if any(constraints) else None
        tokens = sampler.sample(logits, [turn.answer.row() for turn in turns], allowed).tolist()
        self._hand_out(step, turns, tokens, thoughts(logits, turns, tokens))

    def _hand_out(
        self, step: Step, turns: Sequence[Turn], tokens: Sequence[int], likely: Sequence[Likely | None]
    ) -> None:
        """Give every answer its tokens and every reader its chunk; begin who waited for a prompt; end who is done."""
        now = self._clock()
        added: dict[Answer, Added] = {}
        for turn, token, thought in zip(turns, tokens, likely, strict=True):
            answer = turn.answer
            try:
                added[answer] = self._added(answer, token, thought)
            except EngineError as error:
                self.cancel(answer.handle, error, Finish.ERROR)
        added = {answer: one for answer, one in added.items() if answer.handle in self._open}
        running = {answer: one for answer, one in added.items() if answer.sequence in self._answers}
        self.scheduler.done(step, {answer.sequence: one.tokens for answer, one in running.items()})
        for answer in running:
            self._begin_others(answer, added, now)
        for answer, one in added.items():
            self._counters.generated(answer.marks, now, len(one.tokens))
            answer.handle.put(one.chunk)
            self.news.add(answer.handle)
            if one.chunk.finish is not None:
                self._end(answer, one.chunk.finish)

    def _added(self, answer: Answer, token: int, likely: Likely | None) -> Added:
        if answer.constraint is not None:
            answer.constraint.check()
        if token == sampler.NONE:
            raise EngineError(
                f"the model {answer.handle.request.model} gave numbers that are not finite, or none that is permitted",
                "check its adapters, or run the engine in fp32",
            )
        return answer.add(token, likely, self._speech.ends, self._speech.names)

    def _begin_others(self, first: Answer, added: Mapping[Answer, Added], now: float) -> None:
        """Let the other answers of a request go on from the prompt that the first one has just read."""
        for answer in first.waiting:
            answer.marks.started = now
            answer.sequence.output += added[answer].tokens
            if added[answer].chunk.finish is None:
                self._answers[answer.sequence] = answer
                self.scheduler.fork(first.sequence, answer.sequence)
        first.waiting = ()

    def _end(self, answer: Answer, why: Finish) -> None:
        self.scheduler.finish(answer.sequence, why)
        self._counters.ended(answer.marks, self._clock(), why)
        self._answers.pop(answer.sequence, None)
        others = self._open[answer.handle]
        others.remove(answer)
        if not others:
            del self._open[answer.handle]
            answer.handle.end()

    def _hidden_means(self, prompts: Sequence[tuple[int, ...]], adapters: tuple[str, ...]) -> Tensor:
        for adapter in adapters:
            self._runner.load_adapter(self._files[adapter])
        return self._runner.hidden_means(prompts, adapters)

    def _fail(self, handles: Iterable[Handle], error: Exception) -> None:
        told = error if isinstance(error, EngineError) else EngineError(f"a step of the engine failed: {error}")
        for handle in handles:
            self.cancel(handle, told, Finish.ERROR)
