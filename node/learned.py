"""What a release knows that was merged here of updates from below: its gain, and the prompts that may go on with it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from node.context import Node
from node.measure import OWN
from node.offer import Offer
from node.transfer import bounded, only_prompts
from registry.documents import AnyOffering, Evaluation, Release
from registry.errors import BadData
from registry.rows import Row, asked, read_rows
from sync.chain import stored_chain, stored_link
from sync.lifecycle import load_update

MAX_ROWS_BYTES: Final = 256 << 20


def gained(node: Node, offer: Offer) -> Evaluation | None:
    """The claim on a merged release: what was held back of what travelled to it, before it and with it.

    Rows that were known before would make the gain small, and the gate above it easy. None where nothing travelled.
    """
    from node.promotions import promoter
    from sync.lessons import divided
    from sync.score import evaluate

    at_work, path = promoter(node), offer.own.release.path
    rows = [row for update in _merged(node, offer) for row in divided(at_work, update)[1]]
    if not rows:
        return None
    making, chain = at_work.composer, stored_chain(node.store, node.blobs, offer.own.digest)
    after = evaluate(making.load_chain(chain), rows, path).exact_match
    before = evaluate(making.load_chain(chain[:-1]), rows, path).exact_match
    metrics = {"exact_match": after, "exact_match_before": before}
    return Evaluation(dataset=OWN, split="test", rows=len(rows), metrics=metrics, path=path)


def _merged(node: Node, offer: Offer) -> list[AnyOffering]:
    """The updates that the release was merged of."""
    with node.store.read() as session:
        release = stored_link(session, node.blobs, offer.record).release
    return [load_update(node.store, digest)[1] for digest in release.contributions]


def learned_prompts(node: Node, offer: Offer, count: int) -> list[Row]:
    """`count` prompts that a merged release has beyond what it stands on; the same ones every time.

    They are among its anchors, so whoever wrote them let them travel. Raises BadData when there are fewer.
    """
    rows = beyond(node, offer)
    if count > len(rows):
        raise BadData(
            f"{count} prompts were asked for, {offer.ref} has {len(rows)} that {offer.above.path} has not",
            f"--transfer-rows {len(rows)}",
        )
    picked = random.Random(offer.record).sample(rows, count)  # noqa: S311 - a choice that can be repeated, no secret
    return bounded(picked, node, "the choice")


def beyond(node: Node, offer: Offer) -> list[Row]:
    """The prompts among a release's anchors that the release above it does not have."""
    chain = stored_chain(node.store, node.blobs, offer.own.digest)
    known = {asked(row) for link in chain[:-1] for row in _anchors(node, link.release)}
    return only_prompts([row for row in _anchors(node, chain[-1].release) if asked(row) not in known])


def _anchors(node: Node, release: Release) -> Sequence[Row]:
    if release.anchors is None:
        return []
    return read_rows(node.blobs.open_verified(release.anchors.sha256), MAX_ROWS_BYTES)
