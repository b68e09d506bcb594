"""Through four levels: what a leaf learned rises to `master` and comes down to a leaf in another language.

At each level the knowledge arrives as the adapter of the level below; the level merges it, consolidates on the answers
of that adapter and on its own anchors, and asks it the leaf's held-out rows in its own role. Downwards, the leaf of
another language decides as `sync.rebase` measures: stay on the old `master`, adopt the new one below its own adapter,
or train its own adapter anew over the new one, with no rows of its own, with few, and with more.

`xsid` has one set of intents and slots in eleven languages and the bundled base has never seen it. Of `home_assistant`,
one tool schema in eight languages, it has seen the training rows: what is left to help with there is little.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Final

from registry.rows import Row, of_split, split_of
from simulations.learning.intervals import interval
from simulations.learning.trained import digest_of
from sync.consolidate import Lesson, consolidate, lessons_as_examples, merge
from sync.delta import Delta
from sync.score import answered, evaluate
from sync.train import TrainPlan
from tests.benchmarks.knowledge.charts import bars
from tests.benchmarks.knowledge.children import PLAN, Job, base_digest, base_model, delta_digest, sampled, trained
from tests.benchmarks.knowledge.merging import PLAN as PROMOTION
from tests.benchmarks.knowledge.merging import asked, size
from tests.benchmarks.knowledge.study import Study, anchors, known

SETS: Final = {"xsid": "assistant/requests", "home_assistant": "home/devices"}
LOWER: Final = ("de", "it")  # the languages of the leaves that it comes down to
OWN_ROWS: Final = (0, 30, 150)
TRAIN, TEST, KNOWN, PROMPTS = 450, 150, 300, 800


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows to train the upper leaf on, to score with, of old knowledge; prompts that travel from level to level."""

    train: int = TRAIN
    test: int = TEST
    known: int = KNOWN
    prompts: int = PROMPTS


def run(study: Study) -> dict[str, Any]:
    """Every set and seed; the means with their intervals, and a picture of the way up."""
    names, seeds = (list(SETS)[:1], 1) if study.smallest else (list(SETS), study.seeds)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(1, seeds + 1):
        for name in names:
            what = {"study": "levels 1", "set": name, "seed": seed, "base": base_digest(), "of": str(sizes(study))}
            found[name].append(study.cell(what, lambda name=name, seed=seed: journey(study, name, seed)))
            study.say(f"levels: {name} seed {seed}: {shown(found[name][-1])}")
    table = {name: summary(cells) for name, cells in found.items()}
    columns = {f"{name} {row['path']}": [row["leaf_rows"], row["known"]] for name in table for row in table[name]["up"]}
    bars(
        columns,
        ["the leaf's held-out rows", "what the base knew"],
        "exact match on the way up, 95 % intervals",
        study.picture("levels"),
    )
    return {"sizes": str(sizes(study)), "seeds": seeds, "table": table, "journeys": found}


def sizes(study: Study) -> Sizes:
    """Few rows where it is only seen whether it runs."""
    return Sizes(30, 10, 10, 12) if study.smallest else Sizes()


def journey(study: Study, name: str, seed: int) -> dict[str, Any]:
    """One leaf's knowledge, up and down."""
    of, leaf = sizes(study), f"en/{SETS[name]}"
    train, test = halves(study, name, "en", seed)
    plan = replace(PLAN, seed=seed, epochs=1 if study.smallest else 6)
    loaded = base_model()
    old = sampled(known(), of.known, 1)
    delta = trained(Job(leaf, train, plan), study.work, loaded)
    before = evaluate(loaded, test, leaf).exact_match
    up = [level(leaf, delta, test, old, 0.0)]
    below = leaf
    while below != "master":
        above = below.rpartition("/")[0] or "master"
        started = time.monotonic()
        delta = promoted(study, delta, below, above, train, seed)
        up.append(level(above, delta, test, old, time.monotonic() - started))
        below = above
    down = [lower(study, name, lang, delta, plan, seed) for lang in LOWER]
    base_known = evaluate(loaded, old, "master").exact_match
    return {"before": before, "base_known": base_known, "up": up, "down": [row for rows in down for row in rows]}


def halves(study: Study, name: str, lang: str, seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Rows of one language to train on, and to score with; parallel rows of other languages fall on the same side."""
    rows, of = study.rows(name, lang=lang), sizes(study)
    return sampled(of_split(rows, "train"), of.train, seed), sampled(of_split(rows, "test"), of.test, 0)


def level(
    study: Study, path: str, delta: Delta, test: Sequence[Row], old: Sequence[Row], seconds: float
) -> dict[str, Any]:
    """What a level knows of the leaf's rows and of old knowledge, asked in its own role, and what it cost."""
    loaded = base_model([delta])
    return {
        "path": path,
        "leaf_rows": evaluate(loaded, test, path).exact_match,
        "known": evaluate(loaded, old, path).exact_match,
        "seconds": seconds,
        "bytes": size(delta),
    }


def promoted(study: Study, delta: Delta, below: str, above: str, rows: Sequence[Row], seed: int) -> Delta:
    """The adapter of `above` after it took in that of `below`: merged, consolidated on its answers and the anchors."""
    loaded = base_model()
    prompts = rows[: sizes(study).prompts]
    lesson = Lesson(below, asked(loaded, delta, lambda: [row for row, _ in answered(loaded, prompts, below)]))
    start = merge(None, [delta], PROMOTION.rank_budget).delta
    rehearsed = [row for row in anchors() if split_of(row) != "test"][: 60 if study.smallest else None]
    examples = lessons_as_examples([lesson], rehearsed, above, [below], seed=seed, passes=PROMOTION.epochs)
    plan = replace(PROMOTION, seed=seed).consolidation(start)
    name = digest_of(["levels", delta_digest(delta), above, seed])
    return consolidate(loaded, start, examples, plan, study.work / "running" / name).delta


def lower(study: Study, name: str, lang: str, master: Delta, plan: TrainPlan, seed: int) -> list[dict[str, Any]]:
    """The leaf of another language with so many rows of its own: over the old `master`, and over the new one."""
    leaf = f"{lang}/{SETS[name]}"
    train, test = halves(study, name, lang, seed)
    old, new = base_model(), base_model([master])
    found = []
    for count in OWN_ROWS[: 2 if study.smallest else None]:
        own = trained(Job(leaf, train[:count], plan), study.work, old) if count else {}
        anew = trained(Job(leaf, train[:count], plan, above=(master,)), study.work, new) if count else {}
        found.append(
            {
                "path": leaf,
                "own_rows": count,
                "stay": asked(old, own, lambda: evaluate(old, test, leaf).exact_match),
                "adopt": asked(new, own, lambda: evaluate(new, test, leaf).exact_match),
                "anew": asked(new, anew, lambda: evaluate(new, test, leaf).exact_match),
            }
        )
    return found


def summary(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds with 95 % intervals; `kept` is the part of the leaf's gain that a level has."""

    def means(part: str, keys: Sequence[str], named: Sequence[str]) -> list[dict[str, Any]]:
        rows = zip(*(cell[part] for cell in cells), strict=True)
        return [
            {key: same[0][key] for key in named} | {key: interval([one[key] for one in same]) for key in keys}
            for same in rows
        ]

    up = means("up", ("leaf_rows", "known", "seconds", "bytes"), ("path",))
    for at, row in enumerate(up):
        row["kept"] = interval([part_kept(cell, at) for cell in cells])
    return {
        "before": interval([cell["before"] for cell in cells]),
        "base_known": interval([cell["base_known"] for cell in cells]),
        "up": up,
        "down": means("down", ("stay", "adopt", "anew"), ("path", "own_rows")),
    }


def part_kept(cell: dict[str, Any], at: int) -> float:
    """What a level has of the leaf's gain over the base; 0 where the leaf gained nothing."""
    gain = cell["up"][0]["leaf_rows"] - cell["before"]
    return (cell["up"][at]["leaf_rows"] - cell["before"]) / gain if gain > 0 else 0.0


def shown(cell: dict[str, Any]) -> str:
    """A journey for people."""
    up = ", ".join(f"{one['path']} {one['leaf_rows']:.0%} (known {one['known']:.0%})" for one in cell["up"])
    down = mean(one["anew"] - one["stay"] for one in cell["down"])
    return f"base {cell['before']:.0%}; {up}; below another language {100 * down:+.1f} points"
