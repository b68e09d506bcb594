"""The node's evidence as the recommender takes it: its own measurements, and those that releases carry, signed.

A release that came from the parent brings what the parent measured; what this node measured of it counts before that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from node.context import Node
from node.tree import Place, topics_of
from recommender.own_scores import OwnScore
from registry.documents import Evaluation, Release
from registry.evidence import CLASSIFICATION, GENERAL, unpacked
from registry.store import func, select
from registry.tables import EvidenceRow
from sync.chain import stored_link

OLD_KNOWLEDGE = "anchors"  # the name of the evaluation on what was known before
MOST_SCORES = 10_000  # the newest; more than any question needs


def own_scores(node: Node, places: Sequence[Place]) -> list[OwnScore]:
    """What is known of the releases that are served and of models that the user told of, newest first."""
    served = {place.digest: place.path for place in places}
    newest = select(EvidenceRow).where(EvidenceRow.score.is_not(None)).order_by(EvidenceRow.id.desc())
    with node.store.read() as session:
        rows = list(session.scalars(newest.limit(MOST_SCORES)))
        releases = [(place, stored_link(session, node.blobs, place.digest).release) for place in places]
    kept = [row for row in rows if row.release is None or row.release in served]
    measured_here = {row.release for row in kept}
    found = [_kept(row) for row in kept]
    for place, release in releases:
        if place.digest not in measured_here or not place.own:
            found += _signed(release, here=place.own)
    return found


def newest_score(node: Node) -> int:
    """The number of the newest piece of evidence; 0 before the first."""
    with node.store.read() as session:
        return session.scalar(select(func.max(EvidenceRow.id))) or 0


def _kept(row: EvidenceRow) -> OwnScore:
    language, *topics = topics_of(row.model) if row.release else ("", "", "")
    return OwnScore(
        model=row.model,
        benchmark=row.benchmark,
        task=row.task,
        languages=tuple(json.loads(row.languages)) or ((language,) if language else ()),
        domains=tuple(json.loads(row.domains)) or tuple(filter(None, topics)),
        score=float(row.score or 0.0),
        rows=row.rows,
        here=row.here,
        source=row.source,
        measured=row.created,
        half_width=row.half_width,
        right=None if row.right_bits is None else tuple(unpacked(row.right_bits, row.rows)),
    )


def _signed(release: Release, *, here: bool) -> Iterator[OwnScore]:
    """The shares of right answers that a release states. Free text, where equal words mean nothing, has none."""
    language, *topics = topics_of(release.path)
    for one in release.evaluations:
        if not one.metrics.get("exact_match") or not one.rows:
            continue
        yield OwnScore(
            model=release.path,
            benchmark=f"{one.dataset} of {release.path}@v{release.version}",
            task=_task(one),
            languages=(language,) if language else (),
            domains=(GENERAL,) if one.dataset == OLD_KNOWLEDGE else tuple(filter(None, topics)),
            score=100 * min(1.0, max(0.0, one.metrics["exact_match"])),
            rows=one.rows,
            here=here,
            source=f"the signer of {release.path}@v{release.version}",
            measured=release.created,
        )


def _task(one: Evaluation) -> str:
    """Answers that name an intent or a tool sort what they answer; of others a release says no task."""
    return CLASSIFICATION if "name_accuracy" in one.metrics and one.dataset != OLD_KNOWLEDGE else ""
