"""Table II: all tokens by all seconds, so many requests at a time; queueing is in the seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.benchmarks.serving.arms import Arm, opened
from tests.benchmarks.serving.bench import Bench
from tests.benchmarks.serving.contenders import (
    BATCHED,
    BATCHED_BF16,
    GENERATE,
    GENERATE_BF16,
    LLAMA_CPP,
    LLAMA_CPP_MOST,
    OURS,
    OURS_BF16,
    OURS_HTTP,
    ROUNDED,
    SERVE,
    contenders,
)
from tests.benchmarks.serving.jobs import PROMPT_TOKENS, Job, Prompts
from tests.benchmarks.serving.models import make_model
from tests.benchmarks.serving.table import Table

MIXED = "16 mixed"
MIXED_LENGTHS = ((1, 30), (31, 150))  # half of the answers are short, half are not: a static batch waits for those


@dataclass(frozen=True, slots=True)
class Plan:
    """How many requests at a time, how many tokens each gets, and how often our fp32 must beat generate_batch's."""

    model: str
    batches: tuple[int, ...]
    new: int
    rounds: int
    least: float | None
    mixed: bool = True


PLANS = {
    "12M": Plan("12M", (1, 2, 16, 32, 64, 128), 32, 5, 5.0),
    "110M": Plan("110M", (1, 2, 16, 32), 24, 3, 2.0),
    "tiny": Plan("tiny", (1, 4), 4, 1, None, mixed=False),
}
BOUND_AT = 16


def run(bench: Bench, size: str) -> Table:
    """Answers of equal length, where a static batch loses nothing; and one row of mixed lengths, where it does."""
    plan = PLANS["tiny" if bench.scale.smallest else size]
    model = make_model(plan.model, bench.folder)
    prompts = Prompts(model.tokenizer)
    table = Table(f"Table II, {model.name}: tokens/s by requests at a time", "requests")
    table.setting = {
        "parameters": model.parameters,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": plan.new,
        "mixed": MIXED_LENGTHS,
    }
    rows = [str(batch) for batch in plan.batches] + [MIXED] * plan.mixed
    with opened(contenders(bench, model)) as arms:
        arms.compare(prompts.jobs(2, [24] * 4), GENERATE, ROUNDED)
        table.absent, table.unequal = arms.absent, arms.unequal
        for row in rows:
            few = row.isdecimal() and int(row) <= LLAMA_CPP_MOST
            ready = {name: arm for name, arm in arms.ready.items() if name != LLAMA_CPP or few}

            def rate(arm: Arm, turn: int, row: str = row) -> float:
                jobs = jobs_of(prompts, plan, row, turn)
                return sum(job.new for job in jobs) / arm.answer(jobs).seconds

            turns = {name: lambda turn, arm=arm, rate=rate: rate(arm, turn) for name, arm in ready.items()}
            table.add(row, "/s", bench.in_turn(f"{table.title.partition(':')[0]}, {row}", turns, plan.rounds))
            least = plan.least if row == str(BOUND_AT) else None
            table.ratio(row, OURS, BATCHED, least)
            table.ratio(row, OURS_BF16, BATCHED_BF16, least)
            table.ratio(row, OURS, GENERATE)
            table.ratio(row, OURS_BF16, GENERATE_BF16)
            table.ratio(row, OURS_HTTP, SERVE)
    return table


def jobs_of(prompts: Prompts, plan: Plan, row: str, turn: int) -> list[Job]:
    """The jobs of a row in a round: the same for every contender, new prompts each round."""
    if row != MIXED:
        return prompts.jobs(1_000 * int(row) + turn + 10, [plan.new] * int(row))
    source = random.Random(turn)
    return prompts.jobs(turn + 10, [source.randint(*MIXED_LENGTHS[number % 2]) for number in range(16)])
