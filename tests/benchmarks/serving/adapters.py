"""Table 2: tokens a second when requests are for K different adapters, 16 at a time, popular ones more often (Zipf)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tests.benchmarks.serving.arms import Arm, Opens, opened
from tests.benchmarks.serving.bench import Bench
from tests.benchmarks.serving.jobs import PROMPT_TOKENS, Job, Prompts, with_adapters, zipf
from tests.benchmarks.serving.models import ALL_LINEAR, ATTENTION, RANK, make_adapters, make_model
from tests.benchmarks.serving.ours import OurEngine
from tests.benchmarks.serving.table import Table
from tests.benchmarks.serving.transformers_arms import PeftMixed

CONCURRENCY = 16
BOUND_AT = 16
AGAINST_PEFT, AGAINST_NONE = 4.0, 0.8
OURS, OURS_BF16 = "ours fp32", "ours bf16"
NONE, NONE_BF16 = "ours fp32, no adapter", "ours bf16, no adapter"
PEFT = "PEFT mixed fp32"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many adapters there are in each row, and the requests of a round."""

    model: str
    kinds: tuple[int, ...]
    requests: int
    new: int
    rounds: int
    bounded: bool = True
    targets: tuple[str, ...] = ATTENTION


PLANS = {
    "12M": Plan("12M", (1, 4, 16, 64, 256), 32, 12, 5),
    "12M-all-linear": Plan("12M", (16,), 32, 12, 5, bounded=False, targets=ALL_LINEAR),
    "110M": Plan("110M", (16,), 16, 12, 3, bounded=False),
    "tiny": Plan("tiny", (1, 4), 4, 4, 1, bounded=False),
}


def run(bench: Bench, size: str) -> Table:
    """The same requests with their adapters (ours, PEFT's mixed batch) and without any."""
    plan = PLANS["tiny" if bench.scale.smallest else size]
    model = make_model(plan.model, bench.folder)
    prompts = Prompts(model.tokenizer)
    adapters = make_adapters(model, max(plan.kinds), bench.folder, plan.targets)
    title = f"Table 2, {model.name}: tokens/s at {CONCURRENCY} requests for K adapters of rank {RANK}"
    table = Table(f"{title} on {', '.join(plan.targets)}", "K")
    table.setting = {"parameters": model.parameters, "prompt_tokens": PROMPT_TOKENS, "new_tokens": plan.new}
    table.setting |= {"requests": plan.requests, "targets": plan.targets}
    ours = partial(OurEngine, model, threads=bench.threads, adapters=adapters, running=CONCURRENCY)
    peft = partial(PeftMixed, model, adapters=adapters, at_a_time=CONCURRENCY)
    opens: dict[str, Opens] = {
        OURS: partial(ours, "fp32"),
        PEFT: partial(peft, "fp32"),
        OURS_BF16: partial(ours, "bf16"),
    }

    def jobs(kinds: int, turn: int) -> list[Job]:
        found = prompts.jobs(1_000 * kinds + turn + 10, [plan.new] * plan.requests)
        return with_adapters(found, zipf(turn + 10, kinds, plan.requests))

    def rate(arm: Arm, kinds: int, turn: int, *, plain: bool = False) -> float:
        asked = jobs(kinds, turn)
        if plain:
            asked = with_adapters(asked, [None] * len(asked))
        return sum(job.new for job in asked) / arm.answer(asked).seconds

    with opened(opens) as arms:
        arms.compare(jobs(min(4, max(plan.kinds)), -9)[:8], PEFT, (OURS_BF16,))
        table.absent, table.unequal = arms.absent, arms.unequal
        for kinds in plan.kinds:
            turns = {name: partial(rate, arm, kinds) for name, arm in arms.ready.items()}
            turns[NONE] = partial(rate, arms.ready[OURS], kinds, plain=True)
            turns[NONE_BF16] = partial(rate, arms.ready[OURS_BF16], kinds, plain=True)
            row = str(kinds)
            table.add(row, "/s", bench.in_turn(f"Table 2, {model.name}, {row}", turns, plan.rounds))
            bounded = plan.bounded and kinds == BOUND_AT
            table.ratio(row, OURS, PEFT, AGAINST_PEFT if bounded else None)
            table.ratio(row, OURS, NONE, AGAINST_NONE if bounded else None)
            table.ratio(row, OURS_BF16, NONE_BF16)
    return table
