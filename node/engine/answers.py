"""`Answer`: one of the continuations that a request asked for, from its first token to its end."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from node.engine import sampler
from node.engine.grammar import Constraint
from node.engine.handle import Handle
from node.engine.requests import Chunk, TokenLogprob, Usage
from node.engine.sampler import Likely
from node.engine.sampling import SamplingParams
from node.engine.sequence import Finish, Sequence
from node.engine.statistics import Marks
from node.engine.text import TextStream, TokenBytes


@dataclass(slots=True)
class Tally:
    """What the answers of one request have in common: how many are open, and their tokens for the bill."""

    prompt: int
    open: int
    cached: int = 0
    generated: int = 0

    def usage(self) -> Usage:
        """All tokens so far."""
        return Usage(self.prompt, self.cached, self.generated)


@dataclass(frozen=True, slots=True)
class Added:
    """What one step gave an answer: the tokens, and the chunk for the reader."""

    tokens: tuple[int, ...]
    chunk: Chunk


@dataclass(slots=True, eq=False)
class Answer:
    """The state of one continuation: `index` of the `n` of its request.

    `waiting` are the other continuations, which begin when the prompt of this one is computed.
    """

    handle: Handle
    index: int
    sequence: Sequence
    stream: TextStream
    key: int
    tally: Tally
    marks: Marks
    constraint: Constraint | None = None
    seen: dict[int, int] = field(default_factory=dict)
    waiting: tuple[Answer, ...] = ()
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def params(self) -> SamplingParams:
        """How its tokens are chosen."""
        return self.handle.request.sampling

    def row(self) -> sampler.Row:
        """What the sampler needs to choose its next token."""
        return sampler.Row(self.params, self.key, len(self.sequence.output), self.seen)

    def add(self, token: int, likely: Likely | None, ends: Set[int], names: TokenBytes) -> Added:
        """Take the chosen token and those that the grammar forces after it, and see whether one of them is the end.

        Forced tokens have no probability to report: where `likely` is given, the model is asked for each of them.
        Raises EngineError when the grammar cannot be followed any further.
        """
        room = self.sequence.max_new_tokens - len(self.sequence.output)
        tokens: list[int] = []
        text, finish, reason = "", None, None
        following = [token]
        while following and finish is None:
            tokens.append(following.pop(0))
            more, finish, reason = self._take(tokens[-1], ends)
            text += more
            if finish is None and len(tokens) == room:
                finish = Finish.LENGTH
            if finish is None and not following and likely is None and self.constraint is not None:
                following = self.constraint.forced()
        if finish is not None:
            text += self.stream.end()
        chunk = Chunk(
            self.index,
            text,
            tuple(tokens),
            logprobs=(named(tokens[0], likely, names),) if likely is not None else (),
            finish=finish,
            stop_reason=reason,
            usage=self._counted(len(tokens), finish),
            prompt_logprobs=() if self.sequence.output else tuple(self.prompt_logprobs),
        )
        return Added(tuple(tokens), chunk)

    def _take(self, token: int, ends: Set[int]) -> tuple[str, Finish | None, str | int | None]:
        """The text of one more token, and whether and why the answer ends with it. What ends it has no text."""
        if token in ends and not self.params.ignore_eos:
            return "", Finish.STOP, None
        if token in self.params.stop_token_ids:
            return "", Finish.STOP, token
        if self.params.penalised:
            self.seen[token] = self.seen.get(token, 0) + 1
        text = self.stream.add([token])
        if self.stream.stopped_by is not None:
            return text, Finish.STOP, self.stream.stopped_by
        if self.constraint is not None:
            self.constraint.accept([token])
            if self.constraint.finished:
                return text, Finish.STOP, None
        return text, None, None

    def _counted(self, tokens: int, finish: Finish | None) -> Usage | None:
        """Write down what the request used; all of it once its last answer has ended."""
        self.tally.generated += tokens
        if finish is None:
            return None
        self.tally.open -= 1
        return None if self.tally.open else self.tally.usage()


def named(token: int, likely: Likely, names: TokenBytes) -> TokenLogprob:
    """A token's probability and its alternatives, with their text."""
    top = tuple(TokenLogprob(other, _text(names[other]), names[other], logprob) for other, logprob in likely.top)
    return TokenLogprob(token, _text(names[token]), names[token], likely.logprob, top)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
