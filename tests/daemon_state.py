"""What a home of `tests.daemon_tree` shows: what is wrong with it at any moment, and what a finished cycle left.

Seen from outside, through the database, the blobs and the served metadata, so that it holds whatever the daemon's inner
shape.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from node.context import Node, opened_node
from node.repository import release_of
from node.settings import load_settings
from node.validation import validation_rows
from registry.documents import Release, Update
from registry.envelope import peek_payload
from registry.keys import PublicKey
from registry.paths import NodePath
from registry.store import func, select
from registry.tables import DecisionRow, HeadRow, ReleaseRow, SequenceRow, UpdateRow
from registry.trust.client import Client, begin
from registry.trust.files import locked
from sync.chain import release_files
from sync.lifecycle import CHECKING, RELEASING, UNDECIDED
from sync.transport import HttpTransport, Peer
from sync.tuf_fetcher import PeerFetcher
from tests.daemon_log import log_problems
from tests.world import utc_now

STARTS = {"received"}
MADE = {"released", "announced"}


def problems(home: Path) -> list[str]:
    """What is wrong in a home that may have been left at any moment."""
    with opened_node(load_settings({"home": home})) as node:
        found = [*node.blobs.check_integrity(), *node.store.check_integrity(), *_half_done(node), *log_problems(node)]
    return [f"{home.name}: {one}" for one in found]


def lost(parent: Path, child: Path) -> list[str]:
    """Updates that the parent acknowledged and does not have, or not as they were sent."""
    with opened_node(load_settings({"home": child})) as node, node.store.read() as session:
        sent = list(session.scalars(select(UpdateRow).where(UpdateRow.direction == "out", UpdateRow.state != "ready")))
    with opened_node(load_settings({"home": parent})) as node, node.store.read() as session:
        here = {row.digest: row for row in session.scalars(select(UpdateRow).where(UpdateRow.direction == "in"))}
        found = [f"the acknowledged update {row.digest} is lost" for row in sent if row.digest not in here]
        for row in sent:
            if row.digest in here and here[row.digest].state in UNDECIDED:
                update = Update.from_bytes(peek_payload(row.envelope))
                files = (update.adapter.file, update.transfer)
                gone = [file.name for file in files if file and not _is_here(node, file)]
                found += [f"the acknowledged {name} is lost" for name in gone]
    return found


def _is_here(node: Node, file: Any) -> bool:
    return node.blobs.has(file.sha256) or node.blobs.partial_size(file.sha256) == file.size


def _half_done(node: Node) -> Iterator[str]:
    """States that do not go with what else is stored."""
    with node.store.read() as session:
        releases = {row.digest: row for row in session.scalars(select(ReleaseRow))}
        heads = {row.path: row.release for row in session.scalars(select(HeadRow))}
        updates = list(session.scalars(select(UpdateRow).where(UpdateRow.direction == "in")))
        sequences = {(row.issuer, row.path): row.highest for row in session.scalars(select(SequenceRow))}
        decisions = list(session.scalars(select(DecisionRow).order_by(DecisionRow.id)))
    for row in releases.values():
        release = Release.from_bytes(peek_payload(row.envelope))
        missing = [file.name for file in release_files(release) if not node.blobs.has(file.sha256)]
        missing += [name for name, digest in (("base", row.base), ("key", row.signer)) if not node.blobs.has(digest)]
        yield from (f"{row.path}@v{row.version} is visible without its {name}" for name in missing)
        if row.above is not None and row.above not in releases:
            yield f"{row.path}@v{row.version} is visible without the release above it"
    for update in updates:
        yield from _half_accepted(node, update, releases, heads)
        yield from _wrong_way(update, [one.kind for one in decisions if one.subject == update.digest])
        taken = [one for one in updates if one.issuer == update.issuer and one.path == update.path]
        highest = max((one.sequence for one in taken if one.state != "rejected"), default=0)
        if sequences.get((update.issuer, update.path), 0) < highest:
            yield f"the sequence table says less than {highest} for {update.path}"


def _half_accepted(node: Node, row: UpdateRow, releases: dict[str, ReleaseRow], heads: dict[str, str]) -> Iterator[str]:
    update = Update.from_bytes(peek_payload(row.envelope))
    if (row.verdict is None) != (row.state in UNDECIDED):
        yield f"an update is {row.state} {'without' if row.verdict is None else 'with'} a verdict"
    if row.state not in ("received", "rejected"):
        files = (update.adapter.file, update.transfer)
        gone = [file.name for file in files if file and not node.blobs.has(file.sha256)]
        yield from (f"an update is {row.state} without its {name}" for name in gone)
    if (row.state in MADE) != (row.release is not None):
        yield f"an update is {row.state} and its release is {row.release}"
    if row.release is not None:
        made = releases.get(row.release)
        if made is None or row.digest not in Release.from_bytes(peek_payload(made.envelope)).contributions:
            yield "an update is said to be in a release that does not hold it"
        elif heads.get(made.path) != made.digest:
            yield f"{made.path}@v{made.version} was made and is not served"
    elif any(row.digest in Release.from_bytes(peek_payload(one.envelope)).contributions for one in releases.values()):
        yield f"an update is {row.state} and in a release"


def _wrong_way(row: UpdateRow, kinds: list[str]) -> Iterator[str]:
    """Decisions that are no way along the arrows to the state of now."""
    states = [kind.removeprefix("update.") for kind in kinds if kind.startswith("update.")]
    arrows = {
        before: CHECKING.get(before, frozenset()) | RELEASING.get(before, frozenset())
        for before in (*CHECKING, *RELEASING)
    }
    steps = pairwise(states)
    if not states or states[0] not in STARTS or states[-1] != row.state:
        yield f"an update is {row.state}, its decisions are {states}"
    elif any(after not in arrows.get(before, ()) for before, after in steps):  # type: ignore[call-overload]
        yield f"the decisions about an update are {states}"


def listed(home: Path, url: str, key: str) -> set[tuple[str, int]]:
    """The releases that a fresh TUF client reads from a node, bound to its public key (hex)."""
    with tempfile.TemporaryDirectory() as name:
        folder, peer = Path(name), Peer(HttpTransport(allow_private=True), url)
        metadata = f"{url}/v1/tuf/metadata"
        with locked(folder):
            begin(folder, metadata, PeerFetcher(peer), PublicKey.from_hex(key))
            client = Client(folder, metadata, PeerFetcher(peer), now=utc_now())
            client.refresh()
            pins = [release_of(name, target.hashes["sha256"]) for name, target in client.targets.items()]
    assert home.exists()
    return {(pin.path, pin.version) for pin in pins if pin is not None}


def result(home: Path) -> dict[str, Any]:
    """What a finished cycle left, without times and signatures, which differ from try to try.

    Of a rebase only how often it was decided: what it measures on follows from the digest of the parent's release.
    """
    with opened_node(load_settings({"home": home})) as node, node.store.read() as session:
        rows = {row.digest: row for row in session.scalars(select(ReleaseRow)) if row.path == "en" or row.version == 1}
        decisions = select(func.count()).select_from(DecisionRow).where(DecisionRow.kind == "release.rebase")
        releases = [Release.from_bytes(peek_payload(row.envelope)) for row in rows.values()]
        sent = session.scalars(select(UpdateRow))
        return {
            "releases": sorted(_content(release) for release in releases),
            "head": [rows[head.release].version for head in session.scalars(select(HeadRow)) if head.path == "en"],
            "updates": sorted((u.path, u.sequence, u.state if u.direction == "in" else "sent") for u in sent),
            "sequences": sorted((row.path, row.highest) for row in session.scalars(select(SequenceRow))),
            "validation": sorted(row.input for row in validation_rows(node.home, NodePath.parse("en"))),
            "rebases": session.scalars(decisions).one(),
        }


def _content(release: Release) -> str:
    """What is in a release, but for the update's digest, which is signed at another time each time."""
    adapter, anchors, above = release.adapter, release.anchors, release.above
    content = {
        "version": f"{release.path}@v{release.version}",
        "base": release.base,
        "adapter": adapter.file.sha256 if adapter else None,
        "anchors": anchors.sha256 if anchors else None,
        "above": above.version if above else None,
        "contributions": len(release.contributions),
        "figures": [one.metrics for one in release.evaluations],
    }
    return json.dumps(content, sort_keys=True)


def history(home: Path) -> tuple[int, ...]:
    """How much a home remembers: what a second run of the same must not add to."""
    with opened_node(load_settings({"home": home})) as node, node.store.read() as session:
        tables = (ReleaseRow, UpdateRow, DecisionRow, SequenceRow)
        rows = tuple(session.scalars(select(func.count()).select_from(table)).one() for table in tables)
    return (*rows, len(list(home.glob("repository/*.json"))))
