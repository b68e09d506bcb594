"""Attack × defence: what is left of a parent's knowledge, how often the backdoor answers, who is held back for nothing.

Children of one business send one update each; some of them lie. A defence says with which weights the parent takes the
updates. Everything is measured on the merged model before any consolidation, so that no training hides an attack.
First of all the backdoor is shown to work where nobody defends.

Adapters are trained once. Attacks on weights are computed from the honest adapters, by an attacker who sees them all. A
cell is kept; a study that was stopped goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from registry.rows import Row
from simulations.learning.trained import digest_of
from simulations.poison import weights as attacks
from simulations.poison.rows import Trigger, triggered
from sync.aggregate.geometry import gram, weighted
from sync.aggregate.robust import geometric_median, mixed, multi_krum, nearest_neighbour_mixing
from sync.delta import Delta
from tests.benchmarks.knowledge.children import Job, base_digest, delta_digest, trained
from tests.benchmarks.knowledge.cohorts import SHARES, SKEWS, TRIGGER, Shop, backdoored, flipped, shop
from tests.benchmarks.knowledge.judging import VERSION, Judge, Sent
from tests.benchmarks.knowledge.study import Study

SIZES: Final = (10, 5, 20, 3)  # the cells that matter first
PARTS: Final = (0.2, 0.0, 0.1, 0.3, 0.4)  # of the cohort, that lie
DRIFT: Final = (3, 5)  # the third of five steps
SYBIL_NOISE: Final = 0.02
DEFENCES: Final = ("none", "checks", "nnm-krum", "median", "checks+nnm-krum")


@dataclass(frozen=True, slots=True)
class Cohort:
    """The honest updates, the children that would have been in the attackers' place, and how many attack."""

    honest: list[Delta]
    own: list[Delta]
    jobs: list[Job]  # of everybody, honest first: who they are, and what an attacker would have trained
    shop: Shop

    @property
    def n(self) -> int:
        return len(self.honest) + len(self.own)


class Field:
    """The children of one study, and the attackers' adapters, trained when they are first asked for."""

    def __init__(self, study: Study) -> None:
        self.study, self.judge = study, Judge(study)
        self.shops = {skew: shop(study, skew) for skew in SKEWS}
        self.kept: dict[str, Delta] = {}

    def delta(self, job: Job) -> Delta:
        """The adapter of a job."""
        if job.digest not in self.kept:
            self.kept[job.digest] = trained(job, self.study.work, self.judge.loaded)
        return self.kept[job.digest]

    def updates(self, deltas: Sequence[Delta], jobs: Sequence[Job]) -> list[Sent]:
        """What was sent, each by the child of the job in its place."""
        return [self.judge.sent(delta, job.path, job.rows) for delta, job in zip(deltas, jobs, strict=False)]

    def backdoor(self, number: int, share: str) -> Delta:
        """What the attacker of that number trained with a share of poisoned rows; the same for every skew."""
        return self.delta(backdoored(self.shops["iid"], number, SHARES[share]))

    def cohort(self, skew: str, n: int, liars: int, seed: int) -> Cohort:
        """n branches, `liars` of which attack."""
        jobs = self.shops[skew].jobs
        chosen = random.Random(seed).sample(range(10 if n <= 10 else len(jobs)), n)
        lying, honest = chosen[:liars], chosen[liars:]
        return Cohort(
            [self.delta(jobs[number]) for number in honest],
            [self.delta(jobs[number]) for number in lying],
            [jobs[number] for number in [*honest, *lying]],
            self.shops[skew],
        )


Attack = Callable[[Field, Cohort], list[Delta]]


def each(make: Callable[[Cohort, Delta, int], Delta]) -> Attack:
    """An attack in which every attacker changes what it would have sent."""
    return lambda field, cohort: [make(cohort, own, at) for at, own in enumerate(cohort.own)]


def together(make: Callable[[Cohort], Delta]) -> Attack:
    """An attack in which all attackers send the same, but for a noise that makes no two files alike."""
    return lambda field, cohort: attacks.sybils(make(cohort), len(cohort.own), SYBIL_NOISE, seed=1)


def backdoor(share: str, *, replace: bool) -> Attack:
    """The trained backdoor as it is, or made louder so that the mean is it (model replacement)."""

    def attack(field: Field, cohort: Cohort) -> list[Delta]:
        sent = [field.backdoor(at, share) for at in range(len(cohort.own))]
        return [attacks.replacement(one, cohort.n, len(sent)) for one in sent] if replace else sent

    return attack


def pair(field: Field, cohort: Cohort) -> list[Delta]:
    """Two halves of a backdoor, louder; any other attackers stay honest."""
    halves = attacks.colluding_pair(cohort.own[0], field.backdoor(0, "backdoor-10"), boost=cohort.n / 2)
    return [*halves, *cohort.own[2:]]


def drift(field: Field, cohort: Cohort) -> list[Delta]:
    """The way from honest to the replacement, in its third step of five."""
    liars = len(cohort.own)
    loud = [attacks.replacement(field.backdoor(at, "backdoor-10"), cohort.n, liars) for at in range(liars)]
    return [attacks.drifted(own, end, *DRIFT) for own, end in zip(cohort.own, loud, strict=True)]


def adaptive(field: Field, cohort: Cohort) -> list[Delta]:
    """The loudest mixture of honest and backdoored that passes a copy of all checks: thresholds, siblings, own probes.

    What it does not know are the parent's prompts; the copy asks requests of the attacker's own.
    """
    sent, beside = [], field.updates(cohort.honest, cohort.jobs)
    for at, own in enumerate(cohort.own):
        harmful = field.backdoor(at, "backdoor-10")
        rows = cohort.shop.train[at::7]

        def passes(delta: Delta, rows: Sequence[Row] = rows) -> bool:
            return field.judge.accepts(field.judge.sent(delta, "en/finance/attacker", rows), beside)

        sent.append(attacks.adaptive(own, harmful, passes, most=cohort.n / len(cohort.own), steps=7)[0])
    return sent


ATTACKS: Final[Mapping[str, Attack]] = {
    "no attack": lambda field, cohort: cohort.own,
    "label flip": lambda field, cohort: [
        field.delta(flipped(job)) for job in cohort.jobs[len(cohort.honest) :]
    ],
    "sign flip": each(lambda cohort, own, at: attacks.sign_flipped(own)),
    "gaussian": each(lambda cohort, own, at: attacks.noise_like(own, seed=at)),
    "x10": each(lambda cohort, own, at: attacks.sign_flipped(own, 10.0)),
    "x100": each(lambda cohort, own, at: attacks.sign_flipped(own, 100.0)),
    "alie": together(lambda cohort: attacks.little_is_enough(cohort.honest, cohort.n, len(cohort.own))),
    "ipm 0.5": together(lambda cohort: attacks.inner_product(cohort.honest, 0.5)),
    "ipm 5": together(lambda cohort: attacks.inner_product(cohort.honest, 5.0)),
    "mimic": together(lambda cohort: attacks.mimic(cohort.honest)),
    "min-max": together(lambda cohort: attacks.min_max(cohort.honest)),
    "min-sum": together(lambda cohort: attacks.min_sum(cohort.honest)),
    "backdoor 4 %": backdoor("backdoor-4", replace=False),
    "backdoor 10 %": backdoor("backdoor-10", replace=False),
    "replacement 4 %": backdoor("backdoor-4", replace=True),
    "replacement 10 %": backdoor("backdoor-10", replace=True),
    "sybils": lambda field, cohort: attacks.sybils(
        attacks.replacement(field.backdoor(0, "backdoor-10"), cohort.n, len(cohort.own)),
        len(cohort.own), SYBIL_NOISE, seed=1,
    ),
    "colluding pair": pair,
    "slow drift": drift,
    "adaptive": adaptive,
}  # fmt: skip

TOGETHER: Final = ("colluding pair", "sybils")  # take more than one


def run(study: Study) -> dict[str, Any]:
    """The undefended attack, then the matrix, the cells that matter first."""
    field = Field(study)
    record: dict[str, Any] = {"undefended": undefended(field), "cells": []}
    sizes, parts, seeds = (SIZES, PARTS, study.seeds) if not study.smallest else ((5,), (0.2,), 1)
    wanted = [
        (skew, n, round(part * n), seed) for part in parts for n in sizes for seed in range(seeds) for skew in SKEWS
    ]
    record["open"] = len(wanted)
    try:
        for cohort in study.each(wanted, columns):
            record["cells"] += column(field, *cohort)
            record["open"] -= 1
    except KeyboardInterrupt:
        study.say(f"stopped: {record['open']} of {len(wanted)} cohorts are open")
    record["cells"].sort(key=key)
    record["matrix"] = summary(record["cells"])
    draw(record["matrix"], study.picture("poisoning"))
    return record


def columns(study: Study) -> Callable[[tuple[str, int, int, int]], object]:
    """What makes the cells of one cohort."""
    field = Field(study)
    return lambda cohort: column(field, *cohort)


def undefended(field: Field) -> dict[str, Any]:
    """How often the trigger brings its answer: from the attacker's own adapter, and after a mean with nine others."""
    tests = field.shops["iid"].tests
    found = {}
    for share in SHARES:
        own = field.backdoor(0, share)
        cohort = field.cohort("iid", 10, 2, seed=0)
        sent = ATTACKS[share.replace("backdoor-", "replacement ") + " %"](field, cohort)
        mean = weighted([*cohort.honest, *sent], [0.1] * 10)
        found[share] = {
            name: success(field, delta, tests) for name, delta in (("own", own), ("mean of replacements", mean))
        }
    return found


def success(field: Field, delta: Delta, tests: Sequence[Row], trigger: Trigger = TRIGGER) -> float:
    """The share of requests that the trigger brings to its answer."""
    return field.judge.right(delta, triggered(tests[:60], trigger, seed=0))


def column(field: Field, skew: str, n: int, liars: int, seed: int) -> list[dict[str, Any]]:
    """Every attack and defence on one cohort."""
    cells = []
    for attack in possible(liars):
        what = {"attack": attack, "skew": skew, "n": n, "liars": liars, "seed": seed, "study": "poisoning 2"}
        what |= {"base": base_digest(), "thresholds": asdict(field.judge.thresholds), "checks": VERSION}
        cell = field.study.cell(what, lambda attack=attack: cell_of(field, attack, skew, n, liars, seed))
        field.study.say(f"poisoning: {what} {cell}")
        cells.append({**what, **cell})
    return cells


def possible(liars: int) -> list[str]:
    """The attacks that so many can make."""
    if not liars:
        return ["no attack"]
    return [name for name in ATTACKS if liars > 1 or name not in TOGETHER]


def cell_of(field: Field, attack: str, skew: str, n: int, liars: int, seed: int) -> dict[str, Any]:
    """One attack on one cohort under every defence."""
    cohort = field.cohort(skew, n, liars, seed)
    sent = [*cohort.honest, *ATTACKS[attack](field, cohort)]
    updates = field.updates(sent, cohort.jobs)
    # What is quarantined is not merged either.
    passed = [field.judge.accepts(update, updates[:at] + updates[at + 1 :]) for at, update in enumerate(updates)]
    found = {
        defence: outcome(field, sent, weights_of(defence, sent, passed, liars), cohort.shop.tests)
        for defence in DEFENCES
    }
    return {"passed": passed, "defences": found}


def weights_of(defence: str, sent: Sequence[Delta], passed: Sequence[bool], liars: int) -> Tensor:
    """How much of each update a defence takes; nothing where it cannot say."""
    kept = torch.tensor([at for at, fine in enumerate(passed) if fine or not defence.startswith("checks")])
    total = torch.zeros(len(sent), dtype=torch.float64)
    if not len(kept):
        return total
    rule, products = defence.removeprefix("checks").lstrip("+"), gram([sent[at] for at in kept.tolist()])
    liars = min(liars, (len(kept) - 3) // 2)
    if rule in ("", "none") or liars < 0:
        total[kept] = 1 / len(kept)
    elif rule == "median":
        total[kept] = geometric_median(products, liars)
    else:
        mixing = nearest_neighbour_mixing(products, liars)
        total[kept] = multi_krum(mixed(products, mixing), liars) @ mixing
    return total


def outcome(field: Field, sent: Sequence[Delta], chosen: Tensor, tests: Sequence[Row]) -> dict[str, float]:
    """New and old knowledge at the parent, the canaries that answer as before, and the success of the backdoor."""
    merged = weighted(sent, chosen)

    def measure() -> dict[str, float]:
        return {
            "new": field.judge.right(merged, tests),
            "old": field.judge.right(merged, field.judge.known[:100]),
            "success": success(field, merged, tests),
            "canaries": field.judge.right(merged, [row for draw in field.judge.canaries for row in draw]),
        }

    # Without the liars it is often the same model, and under other thresholds a cell's models stay.
    what = {"outcome": delta_digest(merged), "tests": digest_of([row.input for row in tests]), "base": base_digest()}
    return field.study.cell(what, measure)


def summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each attack and defence the worst loss against the same cohort without attack, and the worst success."""
    table: dict[str, Any] = {}
    calm = {key(cell): cell["defences"]["none"] for cell in cells if cell["attack"] == "no attack"}
    for cell in cells:
        for defence, figures in cell["defences"].items():
            entry = table.setdefault(cell["attack"], {}).setdefault(
                defence, {"loss": -1.0, "success": 0.0, "cells": 0, "losses": [], "successes": []}
            )
            loss = max(calm[key(cell)][kind] - figures[kind] for kind in ("new", "old"))
            entry["loss"], entry["success"] = max(entry["loss"], loss), max(entry["success"], figures["success"])
            entry["losses"].append(loss)
            entry["successes"].append(figures["success"])
            entry["cells"] += 1
        seen = table[cell["attack"]]
        honest = cell["passed"][: cell["n"] - cell["liars"]]
        lying = cell["passed"][cell["n"] - cell["liars"] :]
        counts = seen.setdefault("checks said", {"honest": 0, "held back": 0, "lies": 0, "let through": 0})
        counts["honest"] += len(honest)
        counts["held back"] += honest.count(False)
        counts["lies"] += len(lying)
        counts["let through"] += lying.count(True)
    return table


def key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """The cohort of a cell."""
    return cell["skew"], cell["n"], cell["liars"], cell["seed"]


def draw(table: Mapping[str, Any], file: Path) -> None:
    """Two heat maps: the worst loss in points, and the worst success in percent."""
    names = list(table)
    figure = Figure(figsize=(11, 0.34 * len(names) + 1.6), layout="constrained")
    for axes, kind, most in zip(figure.subplots(1, 2, sharey=True), ("loss", "success"), (0.3, 1.0), strict=True):
        values = [[table[name][defence][kind] for defence in DEFENCES] for name in names]
        axes.imshow(values, cmap="Reds", vmin=0.0, vmax=most, aspect="auto")
        for row, line in enumerate(values):
            for at, value in enumerate(line):
                axes.text(at, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8)
        axes.set_xticks(range(len(DEFENCES)), DEFENCES, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title({"loss": "worst loss, points", "success": "worst backdoor success, %"}[kind])
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
