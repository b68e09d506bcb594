"""Vectors of texts from a causal model: the mean of its last hidden states, of length 1.

The engine's thread computes them between its steps, a limited number of tokens at a time, so that answers go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from torch import Tensor
from torch.nn import functional

from node.engine.errors import EngineError, Overloaded, RequestRefused

MAX_PROMPTS: Final = 2048  # of one request, as in the OpenAI API
MAX_JOBS: Final = 256

Prompts = Sequence[tuple[int, ...]]
Vectors = list[list[float]]


@dataclass(slots=True, eq=False)
class Job:
    """Prompts of one request for one model; `result` gets a vector for each, or the error."""

    adapters: tuple[str, ...]
    prompts: Prompts
    result: Future[Vectors] = field(default_factory=Future)
    done: Vectors = field(default_factory=list)

    def next(self, tokens: int) -> Prompts:
        """The prompts whose turn it is: as many as have so many tokens together, at least one."""
        rest = self.prompts[len(self.done) :]
        ends = accumulate(map(len, rest))
        return rest[: max(1, sum(end <= tokens for end in ends))]


def refuse_prompts(prompts: Prompts, context: int, vocabulary: int) -> None:
    """Raises RequestRefused when there are none or too many, or one is empty, too long or of unknown tokens."""
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise RequestRefused("input", f"there are {len(prompts)} texts, 1 to {MAX_PROMPTS} are allowed")
    for number, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= context:
            raise RequestRefused("input", f"text {number} has {len(prompt)} tokens, 1 to {context} are allowed")
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            raise RequestRefused("input", f"text {number} has a token outside of 0 to {vocabulary - 1}")


class EmbeddingQueue:
    """Jobs in the order of their arrival. `means` gives the mean-pooled hidden states (prompts x width) of prompts."""

    def __init__(self, means: Callable[[Prompts, tuple[str, ...]], Tensor]) -> None:
        self._means = means
        self._jobs: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def adapters(self) -> set[str]:
        """The adapters of all jobs."""
        return {adapter for job in self._jobs for adapter in job.adapters}

    def add(self, job: Job) -> None:
        """Raises Overloaded when too many wait."""
        if len(self._jobs) >= MAX_JOBS:
            raise Overloaded(f"{len(self._jobs)} requests for embeddings wait already", "try again in a while")
        self._jobs.append(job)

    def work(self, tokens: int) -> None:
        """Embed prompts of the first job, at most so many tokens in one pass, but at least one prompt.

        A job that fails tells its asker.
        """
        while self._jobs and self._jobs[0].result.cancelled():
            self._jobs.popleft()
        if not self._jobs:
            return
        job = self._jobs[0]
        try:
            prompts = job.next(tokens)
            job.done += functional.normalize(self._means(prompts, job.adapters).float(), dim=-1).tolist()
        except Exception as error:  # noqa: BLE001  it is the asker's to see; the queue goes on
            self._jobs.popleft()
            fail(job, error)
            return
        if len(job.done) == len(job.prompts):
            self._jobs.popleft()
            if job.result.set_running_or_notify_cancel():
                job.result.set_result(job.done)

    def clear(self, error: EngineError) -> None:
        """Fail what waits."""
        while self._jobs:
            fail(self._jobs.popleft(), error)


def fail(job: Job, error: Exception) -> None:
    """Tell the asker, if it is still there."""
    if job.result.set_running_or_notify_cancel():
        job.result.set_exception(error)
