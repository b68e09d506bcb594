"""Bring this node's copies of the parent's releases up to date; what they mean for own releases is the rebase's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from node.context import Node, parent_of
from node.trust import trusted_keys
from registry.documents import ReleasePin
from registry.errors import LocalFailure
from registry.paths import NodePath
from registry.store import select
from registry.tables import HeadRow, ReleaseRow
from sync.fetch import OnProgress, no_progress
from sync.pull import fetch_release, poll


@dataclass(frozen=True, slots=True)
class Pulled:
    """One path after a pull; `before` is the version that was served until then."""

    path: str
    version: int
    digest: str
    before: int | None
    new: bool


def pull(node: Node, path: NodePath | None, now: datetime, on_progress: OnProgress = no_progress) -> list[Pulled]:
    """Fetch what the parent serves at `path`, or else at and above every place of this node, and serve it here too.

    Without a path, places at which this node serves a release of its own are left alone.

    Raises LocalFailure when there is no parent, or it does not answer or does not serve the path; BadData when what it
    serves cannot be proven. What was fetched before stays.
    """
    parent = parent_of(node)
    peer = node.peer(parent.url)
    heads = {NodePath.parse(pin.path): pin for pin in poll(peer)}
    if path is not None and path not in heads:
        served = ", ".join(sorted(map(str, heads))[:20]) or "nothing"
        raise LocalFailure(f"{parent.url} does not serve {path}; it serves {served}", "node pull one of these")
    wanted = [path] if path is not None else sorted(p for p in heads if any(own.is_within(p) for own in node.paths))
    current = _heads(node)
    pulled: list[Pulled] = []
    for place in wanted:
        here = current.get(str(place))
        if path is None and here is not None and here.own:
            continue
        pulled.append(_one(node, heads[place], here, now, on_progress))
    return pulled


def _heads(node: Node) -> dict[str, ReleaseRow]:
    """What this node serves, by path."""
    with node.store.read() as session:
        rows = session.scalars(select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest)).all()
    return {row.path: row for row in rows}


def _one(node: Node, pin: ReleasePin, here: ReleaseRow | None, now: datetime, on_progress: OnProgress) -> Pulled:
    if here is None or here.digest != pin.digest:
        fetch_release(
            node.peer(parent_of(node).url),
            pin,
            trusted=trusted_keys(node, now),
            store=node.store,
            blobs=node.blobs,
            now=now,
            on_progress=on_progress,
        )
    return Pulled(
        pin.path, pin.version, pin.digest, here.version if here else None, here is None or here.digest != pin.digest
    )
