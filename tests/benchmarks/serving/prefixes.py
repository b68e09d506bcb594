"""Table 3: programs whose prompts share beginnings: tokens that were prefilled against the least, and wall time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count

from tests.benchmarks.rounds import Figure
from tests.benchmarks.serving.arms import Arm, Opens, opened
from tests.benchmarks.serving.bench import Bench
from tests.benchmarks.serving.contenders import BATCHED, GENERATE, OURS
from tests.benchmarks.serving.jobs import Job, Prompts
from tests.benchmarks.serving.models import make_model
from tests.benchmarks.serving.other_pythons import OtherPython
from tests.benchmarks.serving.ours import OurEngine
from tests.benchmarks.serving.programs import PROGRAMS, LeastWork, Program
from tests.benchmarks.serving.table import Table
from tests.benchmarks.serving.transformers_arms import Generate

APART = "ours fp32, nothing shared"
LEAST_SAVED = 0.96
ROUNDS = 5


def run(bench: Bench, size: str) -> Table:
    """Seconds of each program, and what share of the prompt tokens that need not be run was not run."""
    model = make_model("tiny" if bench.scale.smallest else size, bench.folder)
    prompts = Prompts(model.tokenizer)
    table = Table(f"Table 3, {model.name}: seconds of programs whose prompts share beginnings", "program")
    table.setting = {"parameters": model.parameters}
    programs = dict(list(PROGRAMS.items())[: 1 if bench.scale.smallest else None])
    opens: dict[str, Opens] = {
        OURS: partial(OurEngine, model, "fp32", bench.threads),
        BATCHED: partial(OtherPython, BATCHED, model, bench.threads, bench.pythons),
        GENERATE: partial(Generate, model, "fp32"),
    }
    saved: dict[str, list[float]] = {name: [] for name in programs}
    with opened(opens) as arms:
        engine = arms.ready[OURS]
        assert isinstance(engine, OurEngine)
        arms.compare(prompts.jobs(3, [24] * 4, 300), GENERATE)
        table.absent, table.unequal = arms.absent, arms.unequal
        for name, program in programs.items():
            turns = {
                OURS: partial(measured, engine, program, prompts, saved[name]),
                APART: partial(seconds, engine, program, prompts, apart=True),
                BATCHED: partial(seconds, arms.ready[BATCHED], program, prompts),
            }
            table.add(name, "s", bench.in_turn(f"Table 3, {name}", turns, ROUNDS))
            figure = Figure.of("", saved[name])
            table.bound(f"{name}: share of the avoidable prefill that was avoided", figure, LEAST_SAVED)
            table.ratio(name, APART, OURS)
            table.ratio(name, BATCHED, OURS)
    return table


def seconds(arm: Arm, program: Program, prompts: Prompts, turn: int, *, apart: bool = False) -> float:
    """The seconds of all waves of a program."""
    total = 0.0
    tenants = count()

    def answer(jobs: Sequence[Job]) -> list[list[int]]:
        nonlocal total
        asked = [replace(job, tenant=f"{turn}.{next(tenants)}") for job in jobs] if apart else jobs
        found = arm.answer(asked)
        total += found.seconds
        assert found.tokens is not None
        return found.tokens

    program(prompts, turn + 10, answer)
    return total


def measured(engine: OurEngine, program: Program, prompts: Prompts, saved: list[float], turn: int) -> float:
    """The same for our engine, which says how many tokens it ran."""
    least, total = LeastWork(), 0.0
    before = engine.statistics()

    def answer(jobs: Sequence[Job]) -> list[list[int]]:
        nonlocal total
        found = engine.answer(jobs)
        total += found.seconds
        assert found.tokens is not None
        least.count(jobs, found.tokens)
        return found.tokens

    program(prompts, turn + 10, answer)
    after = engine.statistics()
    if after.prefix_cache_queries - before.prefix_cache_queries != least.asked:
        raise RuntimeError("the engine counts other prompt tokens than it was given")
    if turn >= 0:
        saved.append((after.prefix_cache_hits - before.prefix_cache_hits) / (least.asked - least.needed))
    return total
