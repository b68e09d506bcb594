"""The child's round: decide for every own release what the parent's new release above it means to it.

The ways and their measurement are `sync.rebase`'s; here the rows are found, the outcome is signed and stored. Staying
is written down too, so that the same release is not tried again.
"""

from __future__ import annotations

import json
import logging
import platform
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from node.context import Node
from node.earlier import own_rows
from node.logs import tried_again
from node.models import composer
from node.outdated import DECISION, outdated
from node.run_lock import run_lock
from registry.cards import MAX_CARD_BYTES, render_next_card
from registry.documents import Adapter, Evaluation, Release
from registry.evidence import RowsOf, measured
from registry.paths import NodePath, Ref
from registry.rows import Row, read_rows
from registry.stored import stored_card, stored_file
from registry.tables import DecisionRow
from sync.chain import Link, serve, signed_link
from sync.consolidate import CONSOLIDATION_TOKENS
from sync.delta import WEIGHTS_FILE, write_adapter
from sync.rebase import Option, Rebase, choose
from sync.train import StepReport, TrainPlan

log = logging.getLogger(__name__)

MAX_ROWS_BYTES: Final = 256 << 20
MAX_JUDGED_ROWS: Final = 500
MAX_REHEARSED_ROWS: Final = 3000
MAX_NEWS: Final = 8000  # to a graft, at its first look, everything is new


@dataclass(frozen=True, slots=True)
class Rebased:
    """What came of one rebase: the way taken, the release that is now served, and what every way measured."""

    path: str
    above: int
    way: str
    version: int
    options: list[dict[str, object]]


def rebase_round(
    node: Node, now: datetime, on_step: Callable[[StepReport], None] = lambda report: None
) -> list[Rebased]:
    """Rebase what is outdated; what fails is logged and tried again in the next round."""
    done: list[Rebased] = []
    with tried_again("rebasing"):
        done += rebase_all(node, now, on_step)
    for one in done:
        log.info("%s: %s over the parent's v%d, now v%d", one.path, one.way, one.above, one.version)
    return done


def rebase_all(node: Node, now: datetime, on_step: Callable[[StepReport], None] = lambda report: None) -> list[Rebased]:
    """Rebase every own release below a newer one (G8). Raises LocalFailure when a run is at work on a path."""
    done = []
    for own, above in outdated(node):
        with run_lock(node.home, NodePath.parse(own.release.path)):
            done.append(_rebase(node, own, above, now, on_step))
    return done


def _rebase(node: Node, own: Link, above: Link, now: datetime, on_step: Callable[[StepReport], None]) -> Rebased:
    making = composer(node)
    train, test = own_rows(node, NodePath.parse(own.release.path))
    anchors = _anchors(node, above.release)
    random.Random(above.digest).shuffle(anchors)  # noqa: S311  a choice that can be repeated, no secret
    held = min(len(anchors) // 10, MAX_JUDGED_ROWS)
    judged, anchors = anchors[:held], anchors[held:]
    below = making.chain(own.digest)[:-1]  # nothing below a graft: it has the anchors that it learned from last
    known = {(row.input, row.task) for row in _anchors(node, (below[-1] if below else own).release)}
    shape = own.release.adapter.shape if own.release.adapter else None
    plan = TrainPlan(
        epochs=node.settings.rebase_epochs,
        learning_rate=node.settings.consolidate_learning_rate,
        batch_tokens=CONSOLIDATION_TOKENS,
    )
    if shape:
        targets = tuple(dict.fromkeys((*plan.targets, *shape.targets)))
        plan = replace(plan, rank=shape.rank, alpha=float(shape.rank), targets=targets)
    rebase = Rebase(
        composer=making,
        own=own,
        old_above=below,
        new_above=making.chain(above.digest),
        own_train=train,
        own_test=test[:MAX_JUDGED_ROWS],
        parent_anchors=[row for row in anchors if (row.input, row.task) in known][:MAX_REHEARSED_ROWS],
        parent_test=judged,
        rank_budget=node.settings.rank_budget,
        plan=plan,
        work=node.home.runs / f"rebase-{own.digest[:8]}-{above.digest[:8]}",
        on_step=on_step,
        parent_news=[row for row in anchors if (row.input, row.task) not in known][:MAX_NEWS],
    )
    options = rebase.options()
    chosen = choose(options)
    version = _store(node, rebase, options, chosen, now)
    shutil.rmtree(rebase.work, ignore_errors=True)
    return Rebased(own.release.path, above.release.version, chosen.way, version, [_shown(one) for one in options])


def _anchors(node: Node, release: Release) -> list[Row]:
    if release.anchors is None:
        return []
    return read_rows(node.blobs.open_verified(release.anchors.sha256), MAX_ROWS_BYTES)


def _shown(option: Option) -> dict[str, object]:
    return {key: value for key, value in asdict(option).items() if key != "delta"}


def _store(node: Node, rebase: Rebase, options: list[Option], chosen: Option, now: datetime) -> int:
    """Sign the outcome and serve it, or note that the node stays; in one transaction with the decision."""
    above = rebase.new_above[-1]
    shown = [_shown(one) for one in options]
    about = {"path": rebase.own.release.path, "above": above.digest, "way": chosen.way, "options": shown}
    body = json.dumps(about, allow_nan=False)
    with node.store.transaction() as session:
        session.add(DecisionRow(at=now, kind=DECISION, subject=rebase.own.digest, body=body))
        if chosen.way == "stay":
            return rebase.own.release.version
        release = _new_release(node, rebase, chosen, now)
        link = signed_link(release, node.key)
        serve(session, link, now)
        figures = {"exact_match": chosen.own_rows}
        if count := len(rebase.own_test):
            of = RowsOf.of(rebase.own_test)
            session.add(measured(release.path, link.digest, of, figures, count, now, machine=platform.machine()))
    return release.version


def _new_release(node: Node, rebase: Rebase, chosen: Option, now: datetime) -> Release:
    old, above = rebase.own.release, rebase.new_above[-1]
    own = {"exact_match": chosen.own_rows, "exact_match_before": chosen.own_before}
    evaluations = tuple(
        Evaluation(dataset=dataset, split="test", rows=rows, metrics=metrics, path=old.path)
        for dataset, rows, metrics in (
            ("own", len(rebase.own_test), own),
            ("anchors", len(rebase.parent_test), {"exact_match": chosen.parent_rows}),
        )
        if rows
    )
    card = _card(node, rebase, chosen, evaluations)
    return Release(
        path=old.path,
        version=old.version + 1,
        base=old.base if chosen.way == "distil" else above.release.base,
        base_name=old.base_name if chosen.way == "distil" else above.release.base_name,
        adapter=_adapter(node, rebase, chosen),
        above=None if chosen.way == "distil" else above.pin,
        previous=rebase.own.digest,
        anchors=above.release.anchors,
        card=stored_card(node.blobs, card),
        evaluations=evaluations,
        contributions=(),
        recompression_error=chosen.recompression_error or None,
        created=now,
        expires=now + timedelta(days=node.settings.release_valid_days),
    )


def _adapter(node: Node, rebase: Rebase, chosen: Option) -> Adapter | None:
    """The adapter that goes with the chosen way, stored: the old one where it is adopted as it is."""
    if chosen.delta is None or chosen.way == "adopt":
        return rebase.own.release.adapter
    file = rebase.work / WEIGHTS_FILE
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shape = write_adapter(chosen.delta, file)
    return Adapter(file=stored_file(node.blobs, file), shape=shape)


def _card(node: Node, rebase: Rebase, chosen: Option, evaluations: tuple[Evaluation, ...]) -> str:
    old, above = rebase.own.release, rebase.new_above[-1].release
    version = old.version + 1
    return render_next_card(
        node.blobs.read(old.card.sha256, MAX_CARD_BYTES).decode(),
        Ref(NodePath.parse(old.path), version),
        old.base_name,
        evaluations=evaluations,
        summary=f"Version {version} of {old.path}, after {above.path}@v{above.version}: {chosen.way}.",
    )
