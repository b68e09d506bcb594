"""The parent's round: move every incoming update towards its verdict, then make a release if the policy says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from node.context import Node
from node.models import composer
from node.validation import add_validation, validation_rows
from registry.documents import Update
from registry.errors import BanyanError
from registry.paths import NodePath
from registry.store import select
from registry.tables import UpdateRow
from sync.inbox import Identity, accepted, advance, mark, undecided, unfinished
from sync.lifecycle import load_update
from sync.parent import PromotionPlan
from sync.policy import PolicySettings, after_time, every_n, first_of, state_of
from sync.promote import Promoter

log = logging.getLogger(__name__)


def plan_of(node: Node) -> PromotionPlan:
    """The settings that promotions follow."""
    settings = node.settings
    return PromotionPlan(
        rank_budget=settings.rank_budget,
        epochs=settings.consolidate_epochs,
        learning_rate=settings.consolidate_learning_rate,
        anchor_rows=settings.anchor_rows,
        max_update_loss_points=settings.behaviour_max_loss_points,
        max_loss_points=settings.gate_max_loss_points,
        min_gain_kept=settings.gate_min_gain_kept,
        size_max_z=settings.size_max_z,
        release_valid_days=settings.release_valid_days,
    )


def promoter(node: Node, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Promoter:
    """The parent at work that this node is."""
    return Promoter(
        composer=composer(node),
        own=Identity(node.key, node.paths),
        runs=node.home.runs,
        plan=plan_of(node),
        known_rows=lambda path: validation_rows(node.home, path),
        keep_rows=lambda path, rows: add_validation(node.home, path, rows),
        now=now,
        on_step=lambda path, step: log.info(
            "%s: step %d of %d, loss %.3f", path, step.step, step.total_steps, step.loss
        ),
    )


def decide_updates(node: Node, at_work: Promoter, now: datetime) -> None:
    """Move every update that waits for its verdict as far as it goes now."""
    for row in undecided(node.store):
        with _tried_again(f"update {row.digest[:16]} of {row.path}"):
            state, before = row.state, ""
            while state != before:
                before = state
                state = advance(node.store, node.blobs, row.digest, at_work.check, at_work.own, now)
            log.info("update %s of %s is %s", row.digest[:16], row.path, state)


def release_updates(node: Node, at_work: Promoter, now: datetime) -> None:
    """Where a policy says so, turn the accepted updates of a place into a release (G1); a killed one goes first."""
    settings = PolicySettings(updates=node.settings.policy_every, wait_s=node.settings.policy_max_wait_s)
    for place, waiting in _by_place(node, [*unfinished(node.store), *accepted(node.store)]).items():
        begun = any(row.state != "accepted" for row, _ in waiting)
        decision = first_of(every_n, after_time)(
            state_of([(row.changed, update) for row, update in waiting], now), settings
        )
        log.info("%s: %s", place, decision.reason)
        if begun or decision.release:
            chosen = [(row, update) for row, update in waiting if not begun or row.state != "accepted"]
            with _tried_again(f"the release of {place}"):
                result = at_work.promote(place, [row.digest for row, _ in chosen], [update for _, update in chosen])
                outcome = f"released v{result.release.version}" if result.release else "no release: the gate refused"
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
        with _tried_again(f"update {row.digest[:16]} of {row.path}"):
            at_work.remember(load_update(node.store, row.digest)[1])
            with node.store.transaction() as session:
                mark(session, row.digest, "announced", now)


def parent_round(node: Node, at_work: Promoter, now: datetime) -> None:
    """Everything a parent has to do now; what fails does not keep the rest, and is tried again in the next round."""
    for duty in (decide_updates, release_updates, announce_releases):
        with _tried_again(duty.__name__):
            duty(node, at_work, now)


@contextmanager
def _tried_again(what: str) -> Iterator[None]:
    """Log what failed, and go on."""
    try:
        yield
    except BanyanError as error:
        log.warning("%s: %s (%s)", what, error.message, error.hint)


def _by_place(node: Node, rows: list[UpdateRow]) -> dict[NodePath, list[tuple[UpdateRow, Update]]]:
    """Updates by the place whose release they build on."""
    places: dict[NodePath, list[tuple[UpdateRow, Update]]] = {}
    for row in rows:
        _, update = load_update(node.store, row.digest)
        places.setdefault(NodePath.parse(update.release.path), []).append((row, update))
    return places
