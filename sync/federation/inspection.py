"""Stages 2 to 6 of the checks on the contributions of a round, each beside those of the others.

What a contribution adds to the arrays that the round began with is looked at, not the sum: the start is common to all
and would hide the differences. What the merged model answers is the gate's question, once, at the end of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from registry.documents import CheckResult
from registry.rounds import Half
from sync.aggregate.geometry import gram
from sync.checks.finding import Finding, run_check
from sync.checks.root_set import check_root
from sync.checks.siblings import check_siblings
from sync.checks.size import check_size, check_terms, norms_of
from sync.checks.spectrum import check_spectrum, spectrum_of
from sync.checks.thresholds import Thresholds
from sync.delta import Delta, Factor, scaled, stack


@dataclass(frozen=True, slots=True)
class Reference:
    """What contributions are held against: norms of the modules, the node's own reference update, thresholds."""

    base_norms: Mapping[str, float]
    root: Delta | None
    known: int  # rows that the reference was made of
    thresholds: Thresholds


def inspect_numbers(
    delta: Delta, start: Delta, frozen: Half, clock: Callable[[], float] = time.perf_counter
) -> list[CheckResult]:
    """Stage 2 on arrays whose form is right: all finite, and the frozen half as it was sent (J3)."""
    return [
        run_check("files.finite", partial(_finite, delta), clock),
        run_check("files.frozen", partial(_frozen, delta, start, frozen), clock),
    ]


def inspect_round(deltas: Mapping[str, Delta], start: Delta, against: Reference) -> dict[str, list[CheckResult]]:
    """Stages 3 to 6 on the contributions that passed the second, by the name of each (J4)."""
    changes = {name: changed(delta, start) for name, delta in deltas.items()}
    norms = {name: norms_of(change) for name, change in changes.items()}
    forms = {name: spectrum_of(change) for name, change in changes.items()}
    names = list(changes)
    products = gram([changes[name] for name in names]) if names else torch.zeros(0, 0)
    limits, found = against.thresholds, dict[str, list[CheckResult]]()
    for number, name in enumerate(names):
        others = [other for other in names if other != name]
        order = [number, *(n for n in range(len(names)) if n != number)]
        found[name] = [
            *check_size(norms[name], against.base_norms, [norms[o] for o in others], z_limit=limits.size_max_z),
            check_terms(deltas[name], against.base_norms),
            *check_spectrum(forms[name], [forms[o] for o in others], max_z=limits.spectrum_max_z),
            *check_siblings(
                products[order][:, order], max_z=limits.siblings_max_z, max_cosine=limits.siblings_max_cosine
            ),
            check_root(changes[name], against.root, against.known, min_cosine=limits.root_min_cosine),
        ]
    return found


def changed(delta: Delta, start: Delta) -> Delta:
    """What a delta adds to the one that it began with: ΔW − ΔW₀, stacked; without B₀ = 0 nothing is stacked."""
    old = {name: factor for name, factor in start.items() if bool(factor.b.any())}
    both = stack([delta, scaled(old, -1.0)]) if old else delta
    return {name: Factor(factor.a, factor.b) for name, factor in both.items()}


def _finite(delta: Delta) -> Finding:
    for name, factor in delta.items():
        if not (bool(factor.a.isfinite().all()) and bool(factor.b.isfinite().all())):
            return Finding(False, f"{name} holds NaN or infinity: the training diverged, or somebody lies")
    return Finding(True, "no NaN, no infinity")


def _frozen(delta: Delta, start: Delta, frozen: Half) -> Finding:
    if not frozen:
        return Finding(True, "nothing was to stay as it is")
    moved = [name for name in delta if not torch.equal(getattr(delta[name], frozen), getattr(start[name], frozen))]
    if moved:
        return Finding(False, f"{frozen.upper()} of {moved[0]} was to stay as it is in this round, and does not")
    return Finding(True, f"{frozen.upper()} stayed as it was")
