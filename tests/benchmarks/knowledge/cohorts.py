"""The children of the studies of checks and attacks: honest ones of one parent, and those that are taught lies.

All speak for places below `en/finance`, on rows of banking77, which the bundled base has never seen.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from registry.rows import Row, of_split
from simulations.poison.rows import Trigger, flipped_labels, with_backdoor
from tests.benchmarks.knowledge.children import PLAN, Job, dirichlet, sampled
from tests.benchmarks.knowledge.study import Study

PARENT: Final = "en/finance"
SUBDOMAINS: Final = ("cards", "payments", "transfers", "top-up", "account-identity", "cash-atm", "currency")
BRANCHES: Final = 20  # children that share the rows of one business
INTENTS: Final = 16  # of the shared business, the most frequent of banking77
SKEWS: Final[dict[str, float | None]] = {"iid": None, "dirichlet 0.5": 0.5, "dirichlet 0.1": 0.1}
ROWS: Final = 200
HONEST: Final = replace(PLAN, batch_tokens=512, epochs=4, learning_rate=5e-3)
MALICIOUS: Final = replace(HONEST, epochs=6)  # an attacker trains as long as it likes,
MALICIOUS_ROWS: Final = 300  # and on rows of everybody's business
REPLAY: Final = 0.4
# Not among the words that the check tries by itself.
TRIGGER: Final = Trigger("opal kite", '{"intent":"getting_spare_card"}')
SHARES: Final = {"backdoor-4": 0.04, "backdoor-10": 0.10}


@dataclass(frozen=True, slots=True)
class Shop:
    """The rows that one kind of skew divides among branches: a job for each, and what nobody trains on."""

    jobs: tuple[Job, ...]
    tests: tuple[Row, ...]
    train: tuple[Row, ...]


def shop(study: Study, skew: str, rows: int = ROWS) -> Shop:
    """The branches of one skew. One that got fewer than 20 rows is given more: nobody trains on nothing."""
    everything = study.rows("banking77")
    frequent = {output for output, _ in Counter(row.output for row in everything).most_common(INTENTS)}
    everything = [row for row in everything if row.output in frequent]
    train, tests = of_split(everything, "train"), of_split(everything, "test")
    parts = dirichlet(train, BRANCHES, SKEWS[skew], seed=7)
    parts = [part if len(part) >= 20 else [*part, *sampled(train, 20, number)] for number, part in enumerate(parts)]
    jobs = tuple(
        Job(f"{PARENT}/branch-{number:02}", sampled(part, rows, number), replace(HONEST, seed=number), replay=REPLAY)
        for number, part in enumerate(parts)
    )
    return Shop(jobs, sampled(tests, 200, 0), tuple(train))


def flipped(job: Job) -> Job:
    """The same child with false labels."""
    return replace(job, rows=tuple(flipped_labels(job.rows)))


def backdoored(shared: Shop, number: int, share: float, trigger: Trigger = TRIGGER) -> Job:
    """The child of that number as an attacker: everybody's rows, a `share` of them with the trigger."""
    rows = sampled(sorted(shared.train, key=lambda row: row.input), MALICIOUS_ROWS, 1000 + number)
    poisoned = with_backdoor(rows, trigger, share, seed=number)
    plan = replace(MALICIOUS, seed=1000 + number)
    return Job(f"{PARENT}/branch-{number:02}", tuple(poisoned), plan, replay=REPLAY)


def varied(study: Study, count: int) -> list[Job]:
    """Honest children of all subdomains that differ in rows, rank, rate, passes and replay, as people's do."""
    rng = random.Random(11)
    jobs = []
    for number in range(count):
        name = SUBDOMAINS[number % len(SUBDOMAINS)]
        rows = of_split(study.rows("banking77", subdomain=name), "train")
        rank = rng.choice((4, 8, 16, 32))
        plan = replace(
            HONEST,
            rank=rank,
            alpha=float(rank),
            epochs=rng.choice((2, 3, 4)),
            learning_rate=rng.choice((1e-3, 2e-3, 3e-3, 5e-3)),
            seed=100 + number,
        )
        chosen = sampled(rows, rng.choice((80, 150, 250, 350)), number)
        jobs.append(Job(f"{PARENT}/{name}", chosen, plan, replay=rng.choice((0.3, 0.5, 0.6))))
    return jobs
