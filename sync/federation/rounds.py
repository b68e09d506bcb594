"""A whole federated run at the parent: gather children, go through the rounds, and make a candidate of the outcome.

The grid is given: Flower's own over processes, or that of its simulation. The candidate is an ordinary one and meets
the ordinary gate.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from flwr.serverapp import Grid

from registry.documents import AdapterShape, Release
from registry.paths import NodePath, Ref
from sync.chain import Link, find_release
from sync.checks.root_set import root_update
from sync.compose import Composer
from sync.federation.arrays import fresh, shapes_of, to_record
from sync.federation.desk import Desk, Ruling, TooFew
from sync.federation.grid import PatientGrid
from sync.federation.inspection import Reference
from sync.federation.plan import RoundsPlan
from sync.federation.strategy import Judging
from sync.inspection import base_norms
from sync.promote import Promoter, Promotion

Shapes = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can begin: the desk of the parent, the release that it is over, the arrays that are sent."""

    promoter: Promoter
    chain: list[Link]
    desk: Desk
    shapes: Shapes


def prepare(
    promoter: Promoter,
    path: NodePath,
    plan: RoundsPlan,
    *,
    tell: Callable[[Ruling], None] = lambda ruling: None,
    run: str | None = None,
) -> Prepared:
    """Look at the head of a path, and what contributions to it are held against; `run` is drawn unless it is given.

    Raises LocalFailure where there is no release at the path, BadData where the base has none of the plan's modules.
    """
    composer = promoter.composer
    chain = composer.chain(find_release(composer.store, Ref(path)))
    shape = AdapterShape(rank=plan.rank, alpha=float(plan.rank), targets=tuple(sorted(plan.targets)), dtype="F32")
    loaded, known = composer.load_chain(chain), promoter.known(str(path))
    root = root_update(loaded, known, str(path), chain[-1].digest, promoter.runs)
    against = Reference(base_norms(loaded), root, len(known), promoter.plan.thresholds)
    desk = Desk(promoter, chain[-1], plan, shape, run or secrets.token_hex(32), against, tell)
    return Prepared(promoter, chain, desk, arrays_of(composer, chain[-1].release, shape))


def arrays_of(composer: Composer, release: Release, shape: AdapterShape) -> Shapes:
    """The arrays of an adapter over the base of a release."""
    config = composer.base_folder(release.base) / "config.json"
    return shapes_of(json.loads(config.read_text(encoding="utf-8")), shape)


def run_rounds(prepared: Prepared, grid: Grid) -> Promotion:
    """Go through all rounds and make the release; raises TooFew where children are missing, BadData as merging does."""
    desk, plan = prepared.desk, prepared.desk.plan
    patient = PatientGrid(grid)
    came = patient.gather(plan.least, plan.gather_s)
    if len(came) < plan.least:
        raise TooFew(
            f"{len(came)} of the {plan.least} children that a round needs came within {plan.gather_s:g} s",
            "node federate join, at each child",
        )
    Judging(desk, prepared.shapes).start(
        cast(Grid, patient),
        to_record(fresh(prepared.shapes, plan.seed)),
        num_rounds=plan.rounds,
        timeout=plan.deadline_s,
    )
    rule = "mean" if plan.private else plan.rule  # of one delta, that already holds the noise
    promotion = replace(prepared.promoter.plan, aggregation=rule, aggregation_f=0 if plan.private else plan.f)
    return replace(prepared.promoter, plan=promotion).release_gathered(prepared.chain, desk.gathered())
