"""Going on for months: three domains one after the other at one path, by every method of `node finetune --continue`.

The domains are new to the bundled base. After each stage every domain so far is scored on rows that nothing was trained
on, and so is what the base knew. Accuracy is exact match; BWT is the mean change of a domain since it was learned,
forgetting the mean loss since it was known best (Lopez-Paz and Ranzato 2017; Chaudhry et al. 2018). `joint` sees the
rows of all domains at once: what could be had without an order.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any, Final, get_args

from node.material import rehearsal
from registry.rows import Row, of_split
from simulations.learning.intervals import interval
from simulations.learning.trained import digest_of
from sync.continual import Method, grown, protected_by
from sync.delta import Delta, write_tensors
from sync.score import evaluate_rows
from sync.tokens import Example
from sync.train import TrainPlan, fit
from tests.benchmarks.knowledge.charts import bars
from tests.benchmarks.knowledge.children import base_digest, base_model, read_delta, sampled
from tests.benchmarks.knowledge.study import Study, anchors, known

PATH: Final = "en/desk"
LANGUAGES: Final = ("en", "de", "fr", "it", "es")
ORDERS: Final = (("cards", "topics", "transfers"), ("topics", "transfers", "cards"), ("transfers", "cards", "topics"))
METHODS: Final[tuple[str, ...]] = get_args(Method)
REPLAY: Final = 0.5
RANK_BOUND: Final = 64
PLAN: Final = TrainPlan(rank=16, alpha=16.0, epochs=3, batch_tokens=2048, learning_rate=3e-3, patience=99)
TRAIN, TEST, KNOWN = 250, 120, 150


def run(study: Study) -> dict[str, Any]:
    """The table, and a picture of it."""
    orders = ORDERS[:1] if study.smallest else ORDERS
    sequences = [(order, seed) for seed in range(1, (1 if study.smallest else study.seeds) + 1) for order in orders]
    cells: dict[str, list[dict[str, Any]]] = {method: [] for method in (*METHODS, "joint")}
    for order, seed in sequences:
        for method, found in cells.items():
            found.append(walk(study, order, method, seed))
            study.say(f"{method:10} {'>'.join(order)} seed {seed}: {summary(found[-1:])}")
    table = {method: summary(found) for method, found in cells.items()}
    bars(
        {method: [row["accuracy"], row["first_domain"], row["known"]] for method, row in table.items()},
        ["mean of the domains at the end", "the first domain at the end", "what the base knew"],
        "exact match after three domains, 95 % intervals",
        study.picture("continual"),
    )
    about = {"orders": orders, "seeds": sequences[-1][1], "rows": sizes(study), "plan": str(PLAN)}
    return {**about, "table": table, "sequences": cells}


def sizes(study: Study) -> tuple[int, int, int]:
    """Rows to train on and to score of each domain, and rows of what the base knew."""
    return (40, 10, 10) if study.smallest else (TRAIN, TEST, KNOWN)


def walk(study: Study, order: Sequence[str], method: str, seed: int) -> dict[str, Any]:
    """The stages of one sequence; `scores[k][domain]` is the accuracy after stage k, stage 0 being the base."""
    stages = [tuple(sorted(order))] if method == "joint" else [tuple(order[: count + 1]) for count in range(len(order))]
    made = [
        study.cell(facts(study, stage, method, seed), partial(stage_of, study, stage, method, seed)) for stage in stages
    ]
    base = study.cell(facts(study, (), "base", 0), lambda: scored(study, ORDERS[0], None))
    return {
        "order": list(order),
        "seed": seed,
        "scores": [base["scores"], *(one["scores"] for one in made)],
        "seconds": [one["seconds"] for one in made],
        "recompression_error": [one["error"] for one in made],
    }


def facts(study: Study, stage: Sequence[str], method: str, seed: int) -> dict[str, Any]:
    """Everything that the outcome of a stage follows from."""
    way = "first" if len(stage) == 1 else method
    made_of = [base_digest(), str(PLAN), REPLAY, RANK_BOUND, sizes(study)]
    return {"study": "continual", "stage": list(stage), "method": way, "seed": seed, "of": made_of}


def stage_of(study: Study, stage: Sequence[str], method: str, seed: int) -> dict[str, Any]:
    """Train one stage and score it."""
    started = time.monotonic()
    delta, error = learned(study, stage, method, seed)
    seconds = time.monotonic() - started
    return {**scored(study, stage, delta), "seconds": seconds, "error": error}


def learned(study: Study, stage: Sequence[str], method: str, seed: int) -> tuple[Delta, float]:
    """The adapter after a stage, as `node finetune --continue` makes it; kept, as the next stage stands on it."""
    name = digest_of(facts(study, stage, method, seed))
    file = study.work / "continual" / f"{name}.safetensors"
    if file.exists():
        return read_delta(file), 0.0
    earlier = [] if method == "joint" else stage[:-1]
    old = learned(study, earlier, method, seed)[0] if earlier else None
    loaded = base_model([old] if old else [])
    protected = protected_by(method, loaded, old, PLAN.targets) if old else None  # type: ignore[arg-type]
    now = stage if method == "joint" else stage[-1:]
    examples = material(study, now, earlier if method == "replay" else (), seed)
    working = study.work / "running" / name
    delta, error = fit(loaded, examples, [], replace(PLAN, seed=seed), working, protected=protected).delta, 0.0
    if old:
        delta, error = grown(old, delta, RANK_BOUND)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_tensors({f"{n}.{k}": getattr(f, k) for n, f in delta.items() for k in ("a", "b")}, file)
    shutil.rmtree(working, ignore_errors=True)
    return delta, error


def material(study: Study, now: Sequence[str], earlier: Sequence[str], seed: int) -> list[Example]:
    """New rows, and old knowledge beside them as `node.material.gather` mixes it."""
    new = [Example(row, PATH) for name in now for row in rows_of(study, name)[0]]
    old = [Example(row, PATH) for row in of_split(anchors(), "train")]
    own = [Example(row, PATH) for name in earlier for row in rows_of(study, name)[0]]
    return [*new, *rehearsal([old, own], len(new), REPLAY, random.Random(seed))]


def rows_of(study: Study, name: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Rows of a domain to train on and to score; the same for every seed, which draws order and factors."""
    sources: dict[str, Callable[[], list[Row]]] = {
        "cards": lambda: study.rows("banking77", subdomain="cards"),
        "transfers": lambda: study.rows("banking77", subdomain="transfers"),
        "topics": lambda: [row for lang in LANGUAGES for row in study.rows("sib200", lang=lang)],
    }
    rows, (train, test, _) = sources[name](), sizes(study)
    return sampled(of_split(rows, "train"), train, 1), sampled(of_split(rows, "test"), test, 1)


def scored(study: Study, stage: Sequence[str], delta: Delta | None) -> dict[str, Any]:
    """Accuracy of every domain so far, and of what the base knew."""
    loaded = base_model([delta] if delta else [])
    scores = {name: share_right(loaded, rows_of(study, name)[1]) for name in stage}
    return {"scores": scores | {"known": share_right(loaded, sampled(known(), sizes(study)[2], 1))}}


def share_right(loaded: Any, rows: Sequence[Row]) -> float:
    """Exact match, asked as the path."""
    return mean(evaluate_rows(loaded, rows, PATH)[1])


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the sequences, with 95 % intervals."""
    return {
        "accuracy": interval([mean(last(one).values()) for one in found]),
        "first_domain": interval([last(one)[one["order"][0]] for one in found]),
        "known": interval([one["scores"][-1]["known"] for one in found]),
        "bwt": interval([mean(last(one)[name] - at(one, name)[0] for name in one["order"][:-1]) for one in found]),
        "forgetting": interval([mean(max(at(one, n)) - last(one)[n] for n in one["order"][:-1]) for one in found]),
        "seconds": interval([sum(one["seconds"]) for one in found]),
    }


def last(one: dict[str, Any]) -> dict[str, float]:
    """The accuracy of every domain at the end of a sequence."""
    return {name: one["scores"][-1][name] for name in one["order"]}


def at(one: dict[str, Any], name: str) -> list[float]:
    """The accuracy of a domain after each stage since it was learned."""
    return [stage[name] for stage in one["scores"][1:] if name in stage]
