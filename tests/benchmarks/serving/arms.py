"""`Arm`: one contender, that answers jobs as fast as it can, greedily and to their full length."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from tests.benchmarks.serving.jobs import Job


class NotInstalledError(Exception):
    """A peer is not there, or not able to do it; the message says why."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back for the jobs, in their order, and after how long; `tokens` is None where only text comes back."""

    seconds: float
    texts: list[str]
    tokens: list[list[int]] | None = None


class Arm(Protocol):
    """A contender that is ready."""

    def answer(self, jobs: Sequence[Job]) -> Answered:
        """All answers, begun at one moment, and the seconds until the last. Raises RuntimeError when one is short."""

    def close(self) -> None:
        """Let go of everything."""


Opens = Callable[[], Arm]


@dataclass(slots=True)
class Arms:
    """The contenders that could be opened; why others could not; whose answers are not those of transformers."""

    ready: dict[str, Arm]
    absent: dict[str, str]
    unequal: dict[str, str] = field(default_factory=dict)

    def compare(self, jobs: Sequence[Job], reference: str, rounded: Collection[str] = ()) -> None:
        """Note who answers otherwise than the reference, before anything is timed; not asked of those in `rounded`."""
        expected = self.ready[reference].answer(jobs)
        for name in [name for name in self.ready if name not in rounded and name != reference]:
            found = self.ready[name].answer(jobs)
            here: Sequence[object] = found.tokens or found.texts
            there: Sequence[object] = (expected.tokens if found.tokens else None) or expected.texts
            same = [one == other for one, other in zip(here, there, strict=True)]
            if not all(same):
                self.unequal[name] = f"{len(same) - sum(same)} of {len(same)} answers differ"


@contextmanager
def opened(arms: Mapping[str, Opens]) -> Iterator[Arms]:
    """Open contenders, let go of them afterwards."""
    ready: dict[str, Arm] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        for name, opens in arms.items():
            try:
                ready[name] = opens()
            except NotInstalledError as error:
                absent[name] = str(error)
            else:
                stack.callback(ready[name].close)
        yield Arms(ready, absent)
    gc.collect()


def read(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[Sequence[int]], jobs: Sequence[Job]) -> list[str]:
    """Texts of token ids. Raises RuntimeError when an answer has not the length that was asked for."""
    for made, job in zip(tokens, jobs, strict=True):
        if len(made) != job.new:
            raise RuntimeError(f"{len(made)} tokens were made, {job.new} were asked for")
    return [str(tokenizer.decode(list(made), skip_special_tokens=True)) for made in tokens]
