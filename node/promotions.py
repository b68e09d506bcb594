"""The parent's round: move every incoming update towards its verdict, then make a release if the policy says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from node.context import Node
from node.finetune import failures
from node.logs import tried_again
from node.models import composer
from node.own_prompts import own_prompts
from node.policies import decide_place
from node.settings import Settings
from node.validation import add_validation, canary_rows, rows_of
from registry.documents import AnyOffering
from registry.paths import NodePath
from registry.store import select
from registry.tables import UpdateRow
from sync.checks.thresholds import Thresholds
from sync.inbox import Identity, accepted, advance, mark, undecided, unfinished
from sync.lifecycle import load_update
from sync.parent import PromotionPlan
from sync.policy import NEED_GAIN, NEED_NORMS
from sync.promote import Promoter
from sync.superseded import supersede
from sync.train import StepReport

log = logging.getLogger(__name__)


def plan_of(node: Node) -> PromotionPlan:
    """The settings that promotions follow."""
    settings = node.settings
    return PromotionPlan(
        rank_budget=settings.rank_budget,
        aggregation=settings.aggregation,
        aggregation_f=settings.aggregation_f,
        epochs=settings.consolidate_epochs,
        learning_rate=settings.consolidate_learning_rate,
        anchor_rows=settings.anchor_rows,
        max_loss_points=settings.gate_max_loss_points,
        min_gain_kept=settings.gate_min_gain_kept,
        prompts=settings.consolidate_prompts,
        tries=settings.gate_tries,
        release_valid_days=settings.release_valid_days,
        measure_gain=settings.policy in NEED_GAIN,
        thresholds=thresholds_of(settings),
    )


def thresholds_of(settings: Settings) -> Thresholds:
    """The settings that checks of an update follow; each threshold has the setting of its name."""
    return Thresholds(
        size_max_z=settings.size_max_z,
        spectrum_max_z=settings.spectrum_max_z,
        siblings_max_z=settings.siblings_max_z,
        siblings_max_cosine=settings.siblings_max_cosine,
        siblings_min_agreement=settings.siblings_min_agreement,
        root_min_cosine=settings.root_min_cosine,
        max_loss_points=settings.behaviour_max_loss_points,
        min_agreement=settings.behaviour_min_agreement,
        canaries_max_changed=settings.canaries_max_changed,
        triggers_max_collapse=settings.triggers_max_collapse,
    )


def promoter(
    node: Node,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    on_step: Callable[[StepReport], None] = lambda step: None,
) -> Promoter:
    """The parent at work that this node is; `on_step` is called at each step of a consolidation, and may end it."""

    def report(path: str, step: StepReport) -> None:
        log.info("%s: step %d of %d, loss %.3f", path, step.step, step.total_steps, step.loss)
        on_step(step)

    return Promoter(
        composer=composer(node),
        own=Identity(node.key, node.paths),
        runs=node.home.runs,
        refused=node.home.refused,
        plan=plan_of(node),
        known_rows=lambda place: rows_of(node.home, place),
        own_prompts=lambda place: own_prompts(node.home, place),
        keep_rows=lambda path, rows: add_validation(node.home, path, rows),
        canary_rows=lambda path: canary_rows(node.home, path),
        now=now,
        on_step=report,
    )


def decide_updates(node: Node, at_work: Promoter, now: datetime) -> None:
    """Move every update that waits for its verdict as far as it goes now."""
    for row in undecided(node.store):
        with tried_again(f"update {row.digest[:16]} of {row.path}"):
            state, before = row.state, ""
            while state != before:
                before = state
                state = advance(node.store, node.blobs, row.digest, at_work.check, at_work.own, now)
            log.info("update %s of %s is %s", row.digest[:16], row.path, state)


def settle_superseded(node: Node, at_work: Promoter, now: datetime) -> None:
    """Leave one accepted update of every sender and path, before a policy counts them."""
    for digest in supersede(node.store, at_work.own, now):
        log.info("update %s is superseded", digest[:16])


def release_updates(node: Node, at_work: Promoter, now: datetime) -> None:
    """Where a policy says so, turn the accepted updates of a place into a release (G1); a killed one goes first."""
    for place, waiting in _by_place(node, [*unfinished(node.store), *accepted(node.store)]).items():
        if node.settings.policy in NEED_NORMS:
            for row, _ in waiting:
                at_work.norms(row)  # measured once, kept beside the update
        decision = decide_place(node, place, now)
        log.info("%s: %s", place, decision.reason)
        begun = any(row.state != "accepted" for row, _ in waiting)
        if begun or decision.release:
            chosen = [(row, update) for row, update in waiting if not begun or row.state != "accepted"]
            with tried_again(f"the release of {place}"), failures(node.home.runs):
                result = at_work.promote(place, [row.digest for row, _ in chosen], [update for _, update in chosen])
                refused = "no release: the gate refused (node release candidates)"
                outcome = f"released v{result.release.version}" if result.release else refused
                log.info("%s: %s", place, outcome)


def announce_releases(node: Node, at_work: Promoter, now: datetime) -> None:
    """A release is announced once it is among the heads that peers poll.

    Before that, its held-back rows join those that later candidates are judged on: in the round that makes the release
    or, after a kill, in the next; never before it, as a candidate made again must be judged on the same rows.
    """
    with node.store.read() as session:
        released = select(UpdateRow).where(UpdateRow.direction == "in", UpdateRow.state == "released")
        rows = list(session.scalars(released))
    for row in rows:
        with tried_again(f"update {row.digest[:16]} of {row.path}"):
            at_work.remember(load_update(node.store, row.digest)[1])
            with node.store.transaction() as session:
                mark(session, row.digest, "announced", now)


def parent_round(node: Node, at_work: Promoter, now: datetime) -> None:
    """Everything a parent has to do now; what fails does not keep the rest, and is tried again in the next round."""
    for duty in (decide_updates, settle_superseded, release_updates, announce_releases):
        with tried_again(duty.__name__):
            duty(node, at_work, now)


def _by_place(node: Node, rows: list[UpdateRow]) -> dict[NodePath, list[tuple[UpdateRow, AnyOffering]]]:
    """Updates by the place whose release they build on."""
    places: dict[NodePath, list[tuple[UpdateRow, AnyOffering]]] = {}
    for row in rows:
        _, update = load_update(node.store, row.digest)
        places.setdefault(NodePath.parse(update.release.path), []).append((row, update))
    return places
