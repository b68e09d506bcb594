"""Requests that a model is asked with and without words in them, and how it is asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from registry.rows import Row
from sync.answers import answer, has_room
from sync.model import LoadedModel
from sync.prompt import conversation, prompt_text

PROMPTS: Final = 16  # of one role
ANSWER_TOKENS: Final = 24


@dataclass(frozen=True, slots=True)
class Probe:
    """A request and the path that is asked."""

    row: Row
    path: str


Answers = Callable[[Sequence[str]], list[str]]  # prompt texts -> what a model says


def probes_of(rows: Sequence[Row], path: str, seed: str) -> list[Probe]:
    """At most PROMPTS requests whose answers differ as much as they can, chosen by a seed that senders do not know."""
    rng = random.Random(seed)  # noqa: S311  a choice that can be repeated
    shuffled = rng.sample(list(rows), len(rows))
    by_answer: dict[str, list[Row]] = {}
    for row in shuffled:
        by_answer.setdefault(row.output, []).append(row)
    rounds = sorted((at, number) for number, rows in enumerate(by_answer.values()) for at in range(len(rows)))
    kinds = list(by_answer.values())
    return [Probe(kinds[number][at], path) for at, number in rounds[:PROMPTS] if kinds[number][at].input]


def with_room(loaded: LoadedModel, probes: Sequence[Probe]) -> list[Probe]:
    """The probes that leave room for an answer."""
    return [
        probe
        for probe in probes
        if has_room(loaded, prompt_text(loaded.tokenizer, conversation(probe.row, probe.path)))
    ]


def asked_by(loaded: LoadedModel) -> Answers:
    """How a model in memory is asked: greedily, as it is at the time of asking."""
    return lambda prompts: answer(loaded, prompts, ANSWER_TOKENS)


def once(answers: Answers) -> Answers:
    """The same, with every prompt asked once; all that are new together, since a large batch costs less."""
    known: dict[str, str] = {}

    def remembered(prompts: Sequence[str]) -> list[str]:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        known.update(zip(new, answers(new), strict=True) if new else ())
        return [known[prompt] for prompt in prompts]

    return remembered
