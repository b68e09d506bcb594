"""Table I: tokens a second by the length of the answer, one request at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.benchmarks.serving.arms import Arm, opened
from tests.benchmarks.serving.bench import Bench
from tests.benchmarks.serving.contenders import (
    BATCHED,
    BATCHED_BF16,
    GENERATE,
    OURS,
    OURS_BF16,
    ROUNDED,
    contenders,
)
from tests.benchmarks.serving.jobs import PROMPT_TOKENS, Prompts
from tests.benchmarks.serving.models import make_model
from tests.benchmarks.serving.table import Table


@dataclass(frozen=True, slots=True)
class Plan:
    """The interval of each row, from least to most tokens, and how many requests a round makes in it.

    The table that this one follows has 1-30, 31-300 and all above 300. That takes too long here: rows end earlier and
    are called by what is drawn.
    """

    model: str
    intervals: tuple[tuple[int, int], ...]
    requests: int
    rounds: int


PLANS = {
    "12M": Plan("12M", ((1, 30), (31, 300), (301, 400)), 1, 5),
    "110M": Plan("110M", ((1, 30), (31, 100), (301, 310)), 1, 3),
    "tiny": Plan("tiny", ((1, 8),), 1, 1),
}


def run(bench: Bench, size: str) -> Table:
    """Every contender answers the same prompts; the lengths are drawn anew each round."""
    plan = PLANS["tiny" if bench.scale.smallest else size]
    model = make_model(plan.model, bench.folder)
    prompts = Prompts(model.tokenizer)
    table = Table(f"Table I, {model.name}: tokens/s by tokens of the answer, one request at a time", "tokens")
    table.setting = {"parameters": model.parameters, "prompt_tokens": PROMPT_TOKENS, "requests": plan.requests}
    with opened(contenders(bench, model)) as arms:
        arms.compare([job for least, _ in plan.intervals for job in prompts.jobs(1, [least + 7])], GENERATE, ROUNDED)
        table.absent, table.unequal = arms.absent, arms.unequal
        for number, (least, most) in enumerate(plan.intervals):
            name = f"{least}-{most}"

            def rate(arm: Arm, turn: int, number: int = number, least: int = least, most: int = most) -> float:
                source = random.Random(100 * number + turn)
                lengths = [source.randint(least, most) for _ in range(plan.requests)]
                jobs = prompts.jobs(1_000 * number + turn + 10, lengths)
                return sum(lengths) / sum(arm.answer([job]).seconds for job in jobs)

            turns = {one: lambda turn, arm=arm, rate=rate: rate(arm, turn) for one, arm in arms.ready.items()}
            table.add(name, "/s", bench.in_turn(f"{table.title.partition(':')[0]}, {name}", turns, plan.rounds))
            table.ratio(name, OURS, BATCHED)
            table.ratio(name, OURS_BF16, BATCHED_BF16)
    return table
