"""Programs whose prompts share beginnings: what is asked depends on what was answered. And the least work for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.benchmarks.serving.jobs import Job, Prompts

Answer = Callable[[Sequence[Job]], list[list[int]]]  # a wave of jobs -> the tokens of their answers
Program = Callable[[Prompts, int, Answer], None]  # `seed` makes the texts


def few_shot(prompts: Prompts, seed: int, answer: Answer) -> None:
    """32 questions below the same examples (512 tokens), all at once."""
    source = random.Random(seed)
    examples = prompts.text(source, 512)
    answer([prompts.job(examples + prompts.text(source, 32), 8) for _ in range(32)])


def tree_of_thought(prompts: Prompts, seed: int, answer: Answer) -> None:
    """A question of 256 tokens; every thought has three that go on from it, three levels deep."""
    source = random.Random(seed)
    paths = [prompts.job(prompts.text(source, 256), 0).prompt]
    for _ in range(3):
        asked = [path + prompts.job(prompts.text(source, 16), 0).prompt for path in paths for _ in range(3)]
        made = answer([Job("", path, 24) for path in asked])
        paths = [path + tuple(tokens) for path, tokens in zip(asked, made, strict=True)]


def agents(prompts: Prompts, seed: int, answer: Answer) -> None:
    """Four agents with the same instructions (512 tokens), six turns: what a tool said, what the agent answers."""
    source = random.Random(seed)
    instructions = prompts.job(prompts.text(source, 512), 0).prompt
    paths = [instructions] * 4
    for _ in range(6):
        asked = [path + prompts.job(prompts.text(source, 48), 0).prompt for path in paths]
        made = answer([Job("", path, 16) for path in asked])
        paths = [path + tuple(tokens) for path, tokens in zip(asked, made, strict=True)]


PROGRAMS: dict[str, Program] = {"few-shot": few_shot, "tree of thought": tree_of_thought, "agents": agents}


class LeastWork:
    """Counts tokens of prompts that were asked for, and those that no earlier prompt or answer begins with."""

    def __init__(self) -> None:
        self.asked = 0
        self.needed = 0
        self._known: set[int] = set()

    def count(self, jobs: Sequence[Job], answers: Sequence[Sequence[int]]) -> None:
        """Count a wave; its jobs may share with each other, too."""
        for job in jobs:
            self.asked += len(job.prompt)
            self.needed += max(1, self._new(job.prompt))  # the last token is run in any case
        for job, tokens in zip(jobs, answers, strict=True):
            self._new((*job.prompt, *tokens[:-1]))  # nothing was computed for the last one yet

    def _new(self, tokens: Sequence[int]) -> int:
        new, so_far = 0, 0
        for token in tokens:
            so_far = hash((so_far, token))
            new += so_far not in self._known
            self._known.add(so_far)
        return new
