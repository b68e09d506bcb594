"""From a request to its answers: whether it is possible at all, and how each of them begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256

from node.engine.answers import Answer, Tally
from node.engine.errors import RequestRefused
from node.engine.grammar import Constraint
from node.engine.handle import Handle
from node.engine.requests import Generation
from node.engine.sampler import stream_key
from node.engine.sequence import Sequence
from node.engine.statistics import Marks
from node.engine.text import TextStream, TokenBytes


def refuse(request: Generation, context: int, vocabulary: int, most: int) -> None:
    """Raises RequestRefused, with the numbers, for what could never be answered.

    `context`: most tokens of a prompt with its answer; `most`: answers of one request.
    """
    if not 1 <= request.n <= most:
        raise RequestRefused("n", f"n is {request.n}, 1 to {most} answers of one request are possible")
    prompt, bias = request.prompt, request.sampling.logit_bias
    if not 1 <= len(prompt) < context:
        raise RequestRefused(
            "prompt",
            f"the prompt has {len(prompt)} tokens; the context of {context} takes 1 to {context - 1}",
            "shorten the prompt" if prompt else "send at least one token",
        )
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise RequestRefused("prompt", f"the prompt has a token outside of 0 to {vocabulary - 1}")
    if bias and max(bias) >= vocabulary:
        raise RequestRefused("logit_bias", f"logit_bias has a token above {vocabulary - 1}")
    if request.grammar is not None and request.sampling.ignore_eos:
        raise RequestRefused("ignore_eos", "an answer under a grammar ends with it", "leave ignore_eos out")


def answers(
    handle: Handle,
    adapters: tuple[str, ...],
    names: TokenBytes,
    constraint: Constraint | None,
    *,
    room: int,
    seed: int,
    now: float,
    ids: Iterator[int],
) -> list[Answer]:
    """The answers of a request over these adapters, each of at most `room` tokens; none has begun."""
    request, params = handle.request, handle.request.sampling
    # Cached prefixes are shared within one path and one tenant: others' would be wrong, or tell of them.
    namespace = sha256(json.dumps([adapters, request.tenant]).encode()).digest()
    most = min(params.max_tokens, room)
    tally = Tally(len(request.prompt), request.n)
    return [
        Answer(
            handle,
            index,
            Sequence(next(ids), request.prompt, namespace, adapters, most, prompt_logits=params.prompt_logprobs),
            TextStream(names, params.stop),
            stream_key(seed, index),
            tally,
            Marks(now),
            constraint.fork() if constraint is not None else None,
            dict.fromkeys(request.prompt, 0) if params.penalised else {},
        )
        for index in range(request.n)
    ]
