"""How often the checks hold an honest child back: values on one half of the children, false rejects on the other.

The cohort are children of one parent that differ in rows, sizes, ranks, rates, passes, replay and skew. Each is judged
alone, and beside a random cohort of the others.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from registry.documents import CheckResult
from tests.benchmarks.knowledge.children import Job, trained
from tests.benchmarks.knowledge.cohorts import SKEWS, shop, varied
from tests.benchmarks.knowledge.judging import Judge, Sent
from tests.benchmarks.knowledge.study import Study

VARIED: Final = 48
BESIDE: Final = (9, 15)  # others in a cohort
Z_95: Final = 1.96


def run(study: Study) -> dict[str, Any]:
    """Train what is not there yet, judge every child, say how often each check failed."""
    jobs = honest_jobs(study)
    judge = Judge(study)
    for done, job in enumerate(study.each(jobs, alone), 1):
        alone(study, judge)(job)
        study.say(f"calibrate: {done} of {len(jobs)}")
    sent = [judge.sent(trained(job, study.work), job.path, job.rows) for job in jobs]
    found: list[list[CheckResult]] = [
        [*chain.from_iterable(judge.stages(one, cohort_of(number, sent)))] for number, one in enumerate(sent)
    ]
    record = {
        "setting": {"adapters": len(jobs), "beside": list(BESIDE)},
        "checks": {name: figures(name, found) for name in names_of(found)},
        "any check": share([any(not one.passed for one in results) for results in found[1::2]]),
    }
    draw(found, study.picture("calibrate"))
    return record


def alone(study: Study, judge: Judge | None = None) -> Callable[[Job], object]:
    """What trains a child and asks its model, which takes long and is kept."""
    judge = judge or Judge(study)

    def make(job: Job) -> None:
        sent = judge.sent(trained(job, study.work, judge.loaded), job.path, job.rows)
        judge.behaviour(sent.delta, sent.rows, sent.path)

    return make


def honest_jobs(study: Study) -> list[Job]:
    """The branches of every skew and the varied children, mixed so that the halves are alike."""
    branches = [job for skew in SKEWS for job in shop(study, skew).jobs]
    jobs = [*branches, *varied(study, VARIED)]
    random.Random(3).shuffle(jobs)
    here = [job for job in jobs if (study.work / "children" / f"{job.digest}.safetensors").exists()]
    return here[:10] if study.smallest else jobs


def cohort_of(number: int, sent: Sequence[Sent]) -> list[Sent]:
    """Some of the others, the same at every call."""
    rng = random.Random(number)
    others = [other for at, other in enumerate(sent) if at != number]
    return rng.sample(others, min(len(others), BESIDE[number % len(BESIDE)]))


def names_of(found: Sequence[Sequence[CheckResult]]) -> list[str]:
    """The checks, in the order of the stages."""
    return list(dict.fromkeys(one.name for results in found for one in results))


def figures(name: str, found: Sequence[Sequence[CheckResult]]) -> dict[str, Any]:
    """What one check saw: its values on the first half, its false rejects on the second."""
    first, second = ([one for results in found[half::2] for one in results if one.name == name] for half in (0, 1))
    values = sorted(one.value for one in first if one.value is not None)
    seen = {"median": statistics.median(values), "least": values[0], "most": values[-1]} if values else {}
    costs = [one.cost_ms for one in [*first, *second]]
    return {
        "threshold": first[0].threshold,
        "first half": seen,
        "second half": share([not one.passed for one in second]),
        "said nothing": sum(one.value is None for one in [*first, *second]),
        "cost_ms": statistics.median(costs),
    }


def share(failed: Sequence[bool]) -> dict[str, Any]:
    """How many of how many, with the 95 % interval of Wilson (1927)."""
    n, count = len(failed), sum(failed)
    low, high = wilson(count, n)
    return {"failed": count, "of": n, "low": low, "high": high}


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    if n == 0:
        return 0.0, 1.0
    p, z = count / n, Z_95
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def draw(found: Sequence[Sequence[CheckResult]], file: Path) -> None:
    """Where the honest values lie, each check's as shares of its threshold."""
    names = names_of(found)
    figure = Figure(figsize=(8, 0.35 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        for one in (one for results in found for one in results if one.name == name and one.value is not None):
            if one.threshold:
                axes.plot(one.value / one.threshold, row, "|", color="tab:blue")
    axes.axvline(1.0, color="tab:red")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("value of honest adapters / threshold")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
