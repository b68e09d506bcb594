"""How much is lost on the way up a tree of four levels when every place aggregates its children's deltas.

Each place makes one delta of those below it and hands that on, so that what is lost at one level is lost for all above.
The truth is the same tree of means on ΔW in float64. Trained adapters are over the bundled base, random ones small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from sync.aggregate.cohort import NotCovered, modules_of
from sync.aggregate.rules import RULES, aggregate
from sync.delta import Delta, Factor
from tests.benchmarks.knowledge.children import Job, base_digest, base_model, dirichlet, sampled, trained
from tests.benchmarks.knowledge.study import Study

LEVELS: Final[Mapping[str, int]] = {"subdomain": 3, "domain": 2, "language": 2, "master": 2}  # places below each
LEAVES: Final = 24
BOUND: Final = 1e-6  # of rules that call themselves exact
SIZES: Final[Mapping[str, tuple[int, int]]] = {"q_proj": (192, 192), "up_proj": (512, 192), "down_proj": (192, 512)}
METHODS: Final[tuple[tuple[str, int | None], ...]] = (
    ("mean", None),
    ("fedex", None),
    ("ffa-lora", None),
    ("fedit", None),
    ("flexlora", 8),
    ("flexlora", 16),
    ("flexlora", 64),
)


def run(study: Study) -> dict[str, Any]:
    """Relative Frobenius error of each method at each level, for random and for trained adapters."""
    record: dict[str, Any] = {"places": dict(LEVELS), "bound_of_exact": BOUND}
    for kind, ranks in (("random, rank 8", (8,)), ("random, ranks 1 to 32", (1, 4, 8, 32)), ("random, one A", (8,))):
        seeds = range(1 if study.smallest else study.seeds)
        runs = [table(random_leaves(ranks, seed, same_a="one A" in kind)) for seed in seeds]
        record[kind] = {method: worst([one[method] for one in runs]) for method in runs[0]}
        show(study, kind, record[kind])
    record["trained, rank 16"] = study.cell(
        {"study": "exactness", "base": base_digest(), "leaves": LEAVES, "rows": 10 if study.smallest else 60},
        lambda: table(trained_leaves(study, 10 if study.smallest else 60)),
    )
    show(study, "trained, rank 16", record["trained, rank 16"])
    return record


def table(leaves: Sequence[Delta]) -> dict[str, dict[str, Any]]:
    """What each method loses on the way up from these leaves; why it was refused, where it was."""
    found: dict[str, dict[str, Any]] = {}
    for method, rank in METHODS:
        label = method if rank is None else f"{method}, rank {rank}"
        try:
            found[label] = {"exact": RULES[method].exact, **climb(leaves, method, rank)}
        except NotCovered as reason:
            found[label] = {"refused": reason.message}
    return found


def climb(leaves: Sequence[Delta], method: str, rank: int | None = None) -> dict[str, dict[str, float]]:
    """The largest relative error of a place and the largest rank, level by level; a module in memory at a time."""
    counts = places()
    lost, whole = ({level: torch.zeros(n, dtype=torch.float64) for level, n in counts.items()} for _ in range(2))
    ranks = dict.fromkeys(counts, 0)
    for name in modules_of(leaves):
        found: list[Delta] = [{name: leaf[name]} for leaf in leaves]
        true = [leaf[name].b.double() @ leaf[name].a.double() for leaf in leaves]
        for level, below in LEVELS.items():
            found = [aggregate(method, group, rank=rank or 1).delta for group in grouped(found, below)]
            true = [torch.stack(group).mean(dim=0) for group in grouped(true, below)]
            for i, (one, meant) in enumerate(zip(found, true, strict=True)):
                lost[level][i] += (one[name].b.double() @ one[name].a.double() - meant).square().sum()
                whole[level][i] += meant.square().sum()
            ranks[level] = max(ranks[level], *(one[name].rank for one in found))
    return {
        level: {"error": float((lost[level] / whole[level]).sqrt().max()), "rank": float(ranks[level])}
        for level in counts
    }


def places() -> dict[str, int]:
    """How many places there are at each level."""
    counts, left = {}, LEAVES
    for level, below in LEVELS.items():
        left //= below
        counts[level] = left
    return counts


def grouped(below: Sequence[Any], size: int) -> list[list[Any]]:
    """Neighbours in groups of one size."""
    return [list(below[start : start + size]) for start in range(0, len(below), size)]


def random_leaves(ranks: Sequence[int], seed: int, *, same_a: bool = False) -> list[Delta]:
    """Normal factors, their ranks taken in turn; with one A for all where asked."""
    rng = torch.Generator().manual_seed(seed)

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng)

    shared = {name: drawn(ranks[0], n_in) for name, (_, n_in) in SIZES.items()}
    leaves: list[Delta] = []
    for leaf in range(LEAVES):
        rank = ranks[leaf % len(ranks)]
        leaves.append(
            {
                name: Factor(shared[name] if same_a else drawn(rank, n_in), drawn(n_out, rank))
                for name, (n_out, n_in) in SIZES.items()
            }
        )
    return leaves


def trained_leaves(study: Study, rows: int) -> list[Delta]:
    """Children of the bundled base, each trained on its skewed share of one set."""
    parts = dirichlet(study.rows("banking77"), LEAVES, 0.5, seed=1)
    loaded = base_model()
    jobs = [Job("en/finance", sampled(part, rows, seed=1)) for part in parts]
    return [trained(job, study.work, loaded) for job in jobs]


def worst(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The largest figure of several seeds, level by level."""
    if "refused" in runs[0]:
        return runs[0]
    levels = {level: {key: max(one[level][key] for one in runs) for key in ("error", "rank")} for level in LEVELS}
    return {"exact": runs[0]["exact"], **levels}


def show(study: Study, kind: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table for people."""
    study.say(f"\n{kind:24}" + "".join(f"{level:>22}" for level in LEVELS))
    for method, levels in found.items():
        if "refused" in levels:
            study.say(f"  {method:22}  refused: {levels['refused']}")
            continue
        figures = (f"{levels[level]['error']:12.2e} (r {levels[level]['rank']:.0f})" for level in LEVELS)
        study.say(f"  {method:22}" + "".join(f"{figure:>22}" for figure in figures))
