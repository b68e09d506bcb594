"""Bring this node's copies of the parent's releases up to date; what they mean for own releases is the rebase's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from node.arrivals import fetch_checked
from node.context import Node, parent_of
from node.parent_repository import parent_listing
from node.trust import vouched
from registry.documents import ReleasePin
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from registry.store import select
from registry.tables import HeadRow, ReleaseRow
from sync.fetch import OnProgress, no_progress


@dataclass(frozen=True, slots=True)
class Pulled:
    """One path after a pull; `before` is the version that was served until then.

    `new`: it is served now. `held`: why it is not, in the words of the verdict on it.
    """

    path: str
    version: int
    digest: str
    before: int | None
    new: bool
    held: str = ""


def pull(node: Node, path: NodePath | None, now: datetime, on_progress: OnProgress = no_progress) -> list[Pulled]:
    """Fetch what the parent serves at `path`, or else at and above every place of this node, check and serve it here.

    Without a path, places at which this node serves a release of its own are left alone. One place that cannot be
    proven does not keep the others.

    Raises LocalFailure when there is no parent, or it does not answer or does not serve the path; BadData when what it
    serves cannot be proven. What was fetched before stays.
    """
    listing = parent_listing(node, now)
    heads = listing.heads
    if path is None:
        return take(node, followed(node, list(heads.values())), now, on_progress)
    if path not in heads:
        served = ", ".join(sorted(map(str, heads))[:20]) or "nothing"
        raise LocalFailure(f"{listing.url} does not serve {path}; it serves {served}", "node pull one of these")
    return take(node, [heads[path]], now, on_progress)


def offered(node: Node, now: datetime) -> list[ReleasePin]:
    """What the parent lists of all that is followed here; raises as `parent_listing` does."""
    return followed(node, list(parent_listing(node, now).heads.values()))


def followed(node: Node, offers: Sequence[ReleasePin]) -> list[ReleasePin]:
    """Of what a parent offers, what lies at or above a place of this node and is not its own, top first."""
    current = heads_here(node)
    own = {path for path, row in current.items() if row.own}
    near = [pin for pin in offers if any(place.is_within(NodePath.parse(pin.path)) for place in node.paths)]
    return sorted((pin for pin in near if pin.path not in own), key=lambda pin: NodePath.parse(pin.path))


def take(node: Node, pins: Sequence[ReleasePin], now: datetime, on_progress: OnProgress = no_progress) -> list[Pulled]:
    """Fetch releases that the parent lists; raises as `pull` does, after it has tried all of them."""
    current, peer = heads_here(node), node.peer(parent_of(node).url)
    pulled: list[Pulled] = []
    problem: BadData | None = None
    for pin in pins:
        here = current.get(pin.path)
        before = here.version if here else None
        try:
            is_new = here is None or here.digest != pin.digest
            held = fetch_checked(node, peer, pin, now, vouched(node, [pin]), on_progress) if is_new else ""
        except BadData as error:
            problem = problem or error
            continue
        pulled.append(Pulled(pin.path, pin.version, pin.digest, before, is_new and not held, held))
    if problem is not None:
        raise problem
    return pulled


def heads_here(node: Node) -> dict[str, ReleaseRow]:
    """What this node serves, by path."""
    with node.store.read() as session:
        rows = session.scalars(select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest)).all()
    return {row.path: row for row in rows}
