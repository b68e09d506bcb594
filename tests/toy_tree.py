"""A parent of the toy model at `en`, and children that offer what they learned (see `tests.toy`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from node.context import Node, open_node
from node.promotions import promoter
from node.settings import Settings
from registry.cards import CardFacts, render_card
from registry.documents import (
    Adapter,
    BaseManifest,
    Enrolment,
    Evaluation,
    File,
    Release,
    ReleasePin,
    Update,
    seal_document,
)
from registry.keys import PrivateKey
from registry.paths import NodePath, Ref
from registry.rows import Row, write_rows
from registry.store import select
from registry.tables import EnrolmentRow, HeadRow, ReleaseRow, UpdateRow
from sync.chain import Link, release_row, serve, signed_link, stored_chain
from sync.delta import WEIGHTS_FILE, Delta, write_adapter
from sync.enrolled import Identity
from sync.inbox import Checks, State, advance, receive
from tests.toy import KNOWN, SHAPES, TOOLS, rows
from tests.world import make_node, put, put_base, utc_now

SETTINGS = {
    "threads": 1,
    "precision": "fp32",
    "rank_budget": 16,
    "consolidate_epochs": 8,
    "consolidate_learning_rate": 1.5e-2,
    "consolidate_prompts": 0,
    "triggers_max_collapse": 1.0,  # with ten answers in all, any strange word brings one of them
}
TAUGHT = {"en/shapes": SHAPES, "en/tools": TOOLS}


def make_parent(home: Path, toy_base: Path, *paths: str, anchors: Sequence[Row] | None = None) -> Node:
    """A node with a first release at each of its paths (by default `en`), each over the one before."""
    node = make_node(home, *(paths or ("en",)), **SETTINGS)
    base = put_base(node, {file.name: file.read_bytes() for file in toy_base.iterdir()})
    above: ReleasePin | None = None
    for path in paths or ("en",):
        above = put_toy_release(node, path, base, above=above, anchors=rows(KNOWN) if anchors is None else anchors)
    return node


def put_file(node: Node, name: str, table: Sequence[Row]) -> File | None:
    """Store rows; no file for no rows."""
    if not table:
        return None
    write_rows(table, node.home.partial / name)
    return put(node, name, (node.home.partial / name).read_bytes())


def put_adapter(node: Node, delta: Delta) -> Adapter:
    file = node.home.partial / WEIGHTS_FILE
    shape = write_adapter(delta, file)
    return Adapter(file=put(node, WEIGHTS_FILE, file.read_bytes()), shape=shape)


def put_toy_release(
    node: Node,
    path: str,
    base: BaseManifest,
    *,
    version: int = 1,
    above: ReleasePin | None = None,
    delta: Delta | None = None,
    anchors: Sequence[Row] = (),
    previous: str | None = None,
    signer: PrivateKey | None = None,
) -> ReleasePin:
    """Sign and store a release as the head of its path; by another key, it counts as fetched."""
    key, now = signer or node.key, utc_now()
    facts = CardFacts(
        ref=Ref(NodePath.parse(path), version), title=path, languages=("en",), licence="MIT", base_model=base.name,
        relation="adapter", library="peft",
    )  # fmt: skip
    release = Release(
        path=path,
        version=version,
        base=base.digest,
        base_name=base.name,
        adapter=put_adapter(node, delta) if delta else None,
        above=above,
        previous=previous,
        anchors=put_file(node, "anchors.jsonl", anchors),
        card=put(node, "README.md", render_card(facts).encode()),
        evaluations=(),
        contributions=(),
        recompression_error=None,
        created=now,
        expires=now + timedelta(days=30),
    )
    link = signed_link(release, key)
    node.blobs.put_bytes(key.public.raw)
    with node.store.transaction() as session:
        if signer is None:
            serve(session, link, now)
        else:
            session.add(release_row(link, own=False))
            session.flush()
            session.merge(HeadRow(path=path, release=link.digest, changed=now))
    return link.pin


def head_of(node: Node, path: str) -> Link:
    """The release that is served at a path."""
    with node.store.read() as session:
        row = session.get(HeadRow, path)
    assert row is not None
    return stored_chain(node.store, node.blobs, row.release)[-1]


def releases_of(node: Node, path: str) -> list[int]:
    """The versions that are stored of a path."""
    with node.store.read() as session:
        return sorted(session.scalars(select(ReleaseRow.version).where(ReleaseRow.path == path)))


@dataclass
class Child:
    """A key that was enrolled at a parent for a path, and what it has sent."""

    parent: Node
    path: str
    key: PrivateKey
    sequence: int = 0

    def offer(
        self,
        delta: Delta,
        transfer: Sequence[Row] = (),
        *,
        pin: ReleasePin | None = None,
        gain: tuple[float, float] = (0.0, 1.0),
        **changes: Any,
    ) -> str:
        """Send an update with its files; its digest. It waits for the checks."""
        self.sequence += 1
        now, release = utc_now(), head_of(self.parent, pin.path if pin else "en")
        metrics = {"exact_match_before": gain[0], "exact_match": gain[1]}
        file = put_file(self.parent, "transfer.jsonl", transfer)
        fields: dict[str, Any] = {
            "path": self.path,
            "issuer": self.key.public.id,
            "audience": self.parent.key.public.id,
            "base": release.release.base,
            "release": pin or release.pin,
            "sequence": self.sequence,
            "created": now,
            "expires": now + timedelta(days=30),
            "adapter": put_adapter(self.parent, delta),
            "claims": (Evaluation(dataset="own", split="test", rows=30, metrics=metrics, path=self.path),),
            "run": "6" * 64,
            "transfer": file,
            "transfer_rows": len(transfer),
        }
        envelope = seal_document(Update(**(fields | changes)), self.key)
        return receive(self.parent.store, self.parent.blobs, envelope, identity(self.parent), now).digest


def identity(node: Node) -> Identity:
    return Identity(node.key, node.paths)


def enrol(parent: Node, path: str) -> Child:
    """A child with a new key, enrolled."""
    key, now = PrivateKey.generate(), utc_now()
    enrolment = Enrolment(
        path=path, key=key.public.hex, issuer=parent.key.public.id, issuer_path=str(parent.paths[0]),
        created=now, expires=now + timedelta(days=300),
    )  # fmt: skip
    with parent.store.transaction() as session:
        session.add(
            EnrolmentRow(
                key_id=key.public.id,
                path=path,
                public_key=key.public.hex,
                state="active",
                request=b"",
                envelope=seal_document(enrolment, parent.key),
                changed=now,
            )
        )
    return Child(parent, path, key)


def decide(parent: Node, digest: str, checks: Checks | None = None) -> State:
    """Move an update to its verdict."""
    check = checks or promoter(parent).check
    state: State = "received"
    while state in ("received", "verified", "checked"):
        state = advance(parent.store, parent.blobs, digest, check, identity(parent), utc_now())
    return state


def state_of(parent: Node, digest: str) -> tuple[str, str | None]:
    """The state of an update and the release that it went into."""
    with parent.store.read() as session:
        row = session.get(UpdateRow, digest)
    assert row is not None
    return row.state, row.release


def reopened(home: Path) -> Node:
    """The node of a home that exists."""
    return open_node(Settings(home=home))


def make_child(home: Path, toy_base: Path, adapters: dict[str, Delta], *, version: int = 2) -> tuple[Node, PrivateKey]:
    """A child that learned shapes over its parent's `en`; the parent's next release, which knows tools, is here too."""
    node, parent = make_node(home, "en/shapes", **SETTINGS), PrivateKey.generate()
    base = put_base(node, {file.name: file.read_bytes() for file in toy_base.iterdir()})
    first = put_toy_release(node, "en", base, anchors=rows(KNOWN), signer=parent)
    put_toy_release(node, "en/shapes", base, above=first, delta=adapters["en/shapes"], anchors=rows(KNOWN), version=4)
    if version > 1:
        follow_up(node, parent, adapters["en/tools"], version)
    return node, parent


def follow_up(node: Node, parent: PrivateKey, delta: Delta, version: int = 2) -> ReleasePin:
    """The parent's next release, as it lies here once it was fetched."""
    old = head_of(node, "en")
    base = BaseManifest.from_bytes(node.blobs.read(old.release.base, 1 << 20))
    anchors = [*rows(KNOWN, range(14)), *rows(TOOLS, range(14))]
    return put_toy_release(
        node, "en", base, version=version, delta=delta, anchors=anchors, previous=old.digest, signer=parent
    )
