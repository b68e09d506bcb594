"""A parent that lies: what a child's checks say of a release that has something of the parent's own in it.

The child serves the mean of five branches. The next release is the mean of ten, honest, or with a part of a harmful
adapter added. The child judges as `node.arrivals` does: rows that nobody else has, what the served release answers, and
trigger probes on both; what is held back is not served. First the harm is shown where nobody checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from node.settings import Settings
from registry.documents import CheckResult
from simulations.poison import weights as attacks
from sync.aggregate.geometry import weighted
from sync.checks.probes import asked_by, probes_of
from sync.checks.size import check_size, check_terms, norms_of
from sync.checks.triggers import probe_triggers
from sync.delta import Delta
from sync.gate import check_loss
from sync.score import evaluate_rows, reanswered
from tests.benchmarks.knowledge.children import base_digest, base_model, sampled
from tests.benchmarks.knowledge.cohorts import PARENT, flipped
from tests.benchmarks.knowledge.poisoning import Field, success
from tests.benchmarks.knowledge.study import Study, anchors

SERVED: Final = 5  # branches in the release that is served
NEXT: Final = 10
OWN_ROWS: Final = 100  # of the child's business, that it trains nothing on
ANSWERS: Final = 200  # of the served release, that the next one is held to
LOUD: Final = (0.25, 0.5, 1.0, 2.0)  # times the harmful adapter

Release = tuple[str, float, int]  # what is added to it, how loud, by which seed
HARM: Final[Mapping[str, Callable[[Field, Delta, int], Delta]]] = {
    "backdoor 4 %": lambda field, release, seed: field.backdoor(seed, "backdoor-4"),
    "backdoor 10 %": lambda field, release, seed: field.backdoor(seed, "backdoor-10"),
    "false labels": lambda field, release, seed: field.delta(flipped(field.shops["iid"].jobs[seed])),
    "what was learned, undone": lambda field, release, seed: attacks.sign_flipped(release),
    "noise": lambda field, release, seed: attacks.noise_like(release, seed),
}


def run(study: Study) -> dict[str, Any]:
    """The honest release, then every harm in every loudness."""
    field, seeds = Field(study), 1 if study.smallest else study.seeds
    louds = LOUD[-1:] if study.smallest else LOUD
    wanted = [("nothing", 0.0, 0), *((harm, by, seed) for seed in range(seeds) for harm in HARM for by in louds)]
    found: dict[Release, dict[str, Any]] = {}
    for release in study.each(wanted, releases):
        found[release] = kept(field, *release)
        study.say(f"malicious parent: {found[release]}")
    cells = [found[release] for release in wanted]
    table = summary(cells)
    draw(table, study.picture("malicious_parent"))
    return {"cells": cells, "table": table}


def releases(study: Study) -> Callable[[Release], object]:
    """What makes the cell of one release."""
    field = Field(study)
    return lambda release: kept(field, *release)


def kept(field: Field, harm: str, by: float, seed: int) -> dict[str, Any]:
    """The cell of one release, with what it is of."""
    what = {"study": "malicious parent 1", "harm": harm, "by": by, "seed": seed, "base": base_digest()}
    return {**what, **field.study.cell(what, lambda: cell_of(field, harm, by, seed))}


def cell_of(field: Field, harm: str, by: float, seed: int) -> dict[str, Any]:
    """What one release does where nobody checks, and what the checks say of it."""
    jobs, tests = field.shops["iid"].jobs, field.shops["iid"].tests
    branches = [field.delta(job) for job in jobs[:NEXT]]
    served = weighted(branches[:SERVED], [1 / SERVED] * SERVED)
    release = weighted(branches, [1 / NEXT] * NEXT)
    if harm in HARM:
        release = attacks.malicious_release(release, HARM[harm](field, release, seed), by)
    results = judged(field, served, release)
    return {
        "failed": [one.name for one in results if not one.passed],
        "values": {one.name: one.value for one in results},
        "success": success(field, release, tests),
        "new": field.judge.right(release, tests),
        "old": field.judge.right(release, field.judge.known[:100]),
    }


def judged(field: Field, served: Delta, release: Delta) -> list[CheckResult]:
    """Stages 3 and 7 of a child, by the thresholds of its settings."""
    limits, judge = Settings(), field.judge
    before, after = base_model([served]), base_model([release])
    known = [*judge.known, *sampled(field.shops["iid"].tests, OWN_ROWS, 1)]
    said = reanswered(before, sampled(anchors(), ANSWERS, 1), PARENT)
    right = [[evaluate_rows(model, rows, PARENT)[1] for rows in (known, said)] for model in (before, after)]
    return [
        *check_size(norms_of(release), judge.weights, [norms_of(served)], z_limit=limits.size_max_z),
        check_terms(release, judge.weights),
        check_loss("behaviour.known", right[0][0], right[1][0], limits.release_max_loss_points),
        check_loss("behaviour.answers", right[0][1], right[1][1], limits.release_max_change_points),
        probe_triggers(
            after, asked_by(before), probes_of([*known, *said], PARENT, "release"), "release",
            max_collapse=limits.triggers_max_collapse,
        ),
    ]  # fmt: skip


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each harm and loudness: how many releases were held back, and the worst that those did which were not."""
    honest = next(cell for cell in cells if cell["harm"] == "nothing")
    table: dict[str, Any] = {}
    for cell in cells:
        name = f"{cell['harm']} x {cell['by']:g}" if cell["by"] else cell["harm"]
        entry = table.setdefault(
            name, {"releases": 0, "held back": 0, "success": 0.0, "loss": 0.0, "worst success": 0.0, "worst loss": 0.0}
        )
        loss = max(honest[kind] - cell[kind] for kind in ("new", "old"))
        entry["releases"] += 1
        entry["held back"] += bool(cell["failed"])
        entry["success"], entry["loss"] = max(entry["success"], cell["success"]), max(entry["loss"], loss)
        if not cell["failed"]:
            entry["worst success"] = max(entry["worst success"], cell["success"])
            entry["worst loss"] = max(entry["worst loss"], loss)
    return table


def draw(table: Mapping[str, Any], file: Path) -> None:
    """The success of each harm where nobody checks, and of what the checks let through."""
    names, places = list(table), range(len(table))
    figure = Figure(figsize=(7, 0.3 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(places, [100 * table[name]["success"] for name in names], color="tab:gray", label="nobody checks")
    axes.barh(places, [100 * table[name]["worst success"] for name in names], 0.4, color="tab:red", label="let through")
    axes.set_yticks(places, names)
    axes.set_xlabel("backdoor success, %")
    axes.legend(fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
