"""A parent of the toy tree that promotes: with small batches, chosen hidden rows and a clock that stands still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from node.context import Node
from node.promotions import plan_of, promoter
from registry.documents import Update
from registry.paths import NodePath
from registry.rows import Row
from registry.store import select
from registry.tables import UpdateRow
from sync.chain import Link
from sync.lifecycle import load_update
from sync.parent import PromotionPlan
from sync.promote import Promoter, Promotion
from tests.toy import KNOWN, held_out

EN = NodePath.parse("en")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

LAX = {"epochs": 1, "max_loss_points": 100.0, "min_gain_kept": 0.0}


def plan(node: Node, **changes: Any) -> PromotionPlan:
    return replace(plan_of(node), batch_tokens=512, **changes)


def at_work(node: Node, known: Sequence[Row] = tuple(held_out(KNOWN)), **changes: Any) -> Promoter:
    """The node as a parent with a clock that stands still."""
    return replace(
        promoter(node),
        plan=plan(node, **changes),
        known_rows=lambda place: list(known) if place == EN else [],
        now=lambda: NOW,
    )


def updates_of(node: Node) -> tuple[list[str], list[Update]]:
    """The updates that came in, first accepted first."""
    with node.store.read() as session:
        digests = list(session.scalars(select(UpdateRow.digest).order_by(UpdateRow.changed, UpdateRow.digest)))
    return digests, [load_update(node.store, digest)[1] for digest in digests]


@dataclass(frozen=True)
class Done:
    node: Node
    first: Link
    result: Promotion
