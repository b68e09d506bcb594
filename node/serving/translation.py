"""Neutral requests in the words of the engine, and its answers and errors in the neutral ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from node.engine.errors import EngineError, EngineStopped, Overloaded, RequestRefused
from node.engine.requests import Chunk
from node.engine.requests import TokenLogprob as EngineLogprob
from node.engine.sampling import SamplingParams
from node.serving.errors import Busy, Refused, Unavailable
from node.serving.requests import Alternative, Delta, FinishReason, Sampling, TokenLogprob, Usage


@contextmanager
def translated() -> Iterator[None]:
    """The errors of the engine as those of a backend."""
    try:
        yield
    except RequestRefused as error:
        raise Refused(error.field, error.message, error.hint) from error
    except Overloaded as error:
        raise Busy(error.message, error.hint or "try again later") from error
    except EngineStopped as error:
        raise Unavailable("the engine has stopped", "try again later") from error
    except EngineError as error:
        raise Unavailable(error.message, error.hint) from error


def sampling_params(said: Sampling, max_tokens: int) -> SamplingParams:
    """What was said, and for the rest what the OpenAI API does where nothing is said."""

    def given(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else value

    return SamplingParams(
        max_tokens=max_tokens,
        temperature=given(said.temperature, 1.0),
        top_k=said.top_k or 0,
        top_p=given(said.top_p, 1.0) or 1e-9,  # 0 means what is closest to it: the likeliest token alone
        min_p=given(said.min_p, 0.0),
        repetition_penalty=given(said.repetition_penalty, 1.0),
        presence_penalty=given(said.presence_penalty, 0.0),
        frequency_penalty=given(said.frequency_penalty, 0.0),
        logit_bias=said.logit_bias,
        seed=said.seed,
        stop=said.stop,
        stop_token_ids=frozenset(said.stop_token_ids),
        ignore_eos=said.ignore_eos,
        logprobs=said.logprobs,
    )


def delta_of(chunk: Chunk) -> Delta:
    """A piece of an answer."""
    usage = chunk.usage
    return Delta(
        chunk.index,
        chunk.text,
        logprobs=tuple(map(logprob_of, chunk.logprobs)),
        finish=FinishReason(chunk.finish.value) if chunk.finish is not None else None,
        usage=Usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) if usage else None,
    )


def logprob_of(found: EngineLogprob) -> TokenLogprob:
    """A token with its alternatives."""
    top = tuple(Alternative(other.text, other.logprob, other.raw) for other in found.top)
    return TokenLogprob(found.text, found.logprob, found.raw, top)
