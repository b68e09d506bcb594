"""A real parent, and keys that it enrolled: what the attacks are made on.

The parent has a tiny Llama as its base, a release at `en`, and checks updates as it does at work: stages 1, 2, 3 and 7.
Every scene brings new keys, so that no attack leaves anything for the next.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from node.context import Node
from registry.documents import Adapter, ReleasePin, Update, Verdict, open_document, seal_document
from registry.envelope import seal
from registry.errors import BanyanError
from registry.keys import PrivateKey
from registry.store import func, select
from registry.tables import DecisionRow, SequenceRow, UpdateRow
from sync.checks.envelope import Limits
from sync.inbox import Checks, Identity, advance, append_file, file_offset, receipt_of, receive, undecided, verdict_of
from tests.attacks.adapters import declared, honest, written
from tests.node.tiny_models import save_tiny
from tests.toy_tree import enrol, head_of, make_parent
from tests.world import utc_now

HONEST = written(honest())
PIECE_BYTES = 4096
DAY = timedelta(days=1)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Attack:
    """One attack: what the attacker does, the rule of PROTOCOL.md that it breaks, the words in which it is refused.

    `does` is given the scene (the liar, where the parent attacks); it returns what was answered, or raises the refusal.
    """

    name: str
    rule: str
    does: Callable[[Any], str]
    refused: str


def make_victim(folder: Path) -> Node:
    """The parent that is attacked."""
    save_tiny(folder / "base", hidden_size=32)
    return make_parent(folder / "home", folder / "base", anchors=[])


@dataclass
class Scene:
    """A parent at one moment; `child` and `sibling` are enrolled for places of their own."""

    node: Node
    checks: Checks
    folder: Path
    serve: Callable[..., str]
    now: datetime = field(default_factory=utc_now)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.path, self.child = f"en/c{number}", enrol(self.node, f"en/c{number}").key
        self.sibling_path, self.sibling = f"en/s{number}", enrol(self.node, f"en/s{number}").key
        self.fresh = written(honest(seed=1000 + number))  # nobody has sent it before
        self.own = Identity(self.node.key, self.node.paths)

    @property
    def pin(self) -> ReleasePin:
        return head_of(self.node, "en").pin

    def fields(self, **changes: Any) -> dict[str, Any]:
        """What the child would honestly say, and the changes."""
        fields: dict[str, Any] = {
            "path": self.path,
            "issuer": self.child.public.id,
            "audience": self.node.key.public.id,
            "base": head_of(self.node, "en").release.base,
            "release": self.pin,
            "sequence": 1,
            "created": self.now,
            "expires": self.now + 30 * DAY,
            "adapter": declared(HONEST),
            "claims": (),
            "run": "6" * 64,
            "transfer": None,
            "transfer_rows": 0,
        }
        return fields | changes

    def update(self, **changes: Any) -> Update:
        return Update(**self.fields(**changes))

    def sealed(self, key: PrivateKey | None = None, **changes: Any) -> bytes:
        """A signed update of the child; whatever it says, the child's key signed it, unless `key` did."""
        return seal_document(self.update(**changes), key or self.child)

    def forced(self, change: Callable[[str], str], key: PrivateKey | None = None) -> bytes:
        """An update whose text was changed before it was signed, so that no class of ours could have made it."""
        text = self.update().to_bytes().decode()
        changed = change(text)
        assert changed != text
        return seal(changed.encode(), Update.PAYLOAD_TYPE, key or self.child)

    def send(self, envelope: bytes, *files: bytes) -> str:
        """Offer an update, upload its files, let the parent decide: its state, and every check that failed."""
        digest = self.offer(envelope)
        for data in files:
            if receipt_of(self.node.store, self.node.blobs, digest).state == "received":
                self.upload(digest, data)
        return self.decided(digest)

    def offer(self, envelope: bytes) -> str:
        return receive(self.node.store, self.node.blobs, envelope, self.own, self.now, limits=self.limits).digest

    def upload(self, digest: str, data: bytes, sha256: str | None = None) -> None:
        """Send a file in pieces, from where the parent is."""
        store, blobs = self.node.store, self.node.blobs
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
        offset = file_offset(store, blobs, digest, sha256)
        while True:  # also an empty file is sent once
            piece = data[offset : offset + max(PIECE_BYTES, len(data) // 4)]
            offset = append_file(store, blobs, digest, sha256, offset=offset, data=piece)
            if offset >= len(data):
                return

    def decided(self, digest: str, now: datetime | None = None) -> str:
        """Move an update as far as it goes; what the signed verdict says."""
        state, before = "received", ""
        while state != before:
            before = state
            state = advance(self.node.store, self.node.blobs, digest, self.checks, self.own, now or self.now)
        return f"{state}: {self.said(digest)}"

    def said(self, digest: str) -> str:
        """The failed checks of the verdict, which the parent signed and wrote down."""
        envelope = verdict_of(self.node.store, digest)
        if envelope is None:
            return "no verdict"
        verdict, _ = open_document(envelope, Verdict, [self.node.key.public])
        assert verdict.update == digest
        with self.node.store.read() as session:
            rows = session.scalars(select(DecisionRow).where(DecisionRow.subject == digest).order_by(DecisionRow.id))
            assert [row.kind for row in rows][-1] == f"update.{verdict.outcome}"
        return (
            "; ".join(f"{check.name}: {check.reason}" for check in verdict.checks if not check.passed) or "all passed"
        )

    def file(self, data: bytes, adapter: Adapter | None = None, **changes: Any) -> str:
        """An update with this adapter file, which is rightly declared unless `adapter` says otherwise."""
        return self.send(self.sealed(adapter=adapter or declared(data), **changes), data)

    def taken(self, key: PrivateKey | None = None, path: str | None = None) -> int:
        """The highest sequence that was taken from a key."""
        with self.node.store.read() as session:
            row = session.get(SequenceRow, ((key or self.child).public.id, path or self.path))
        return row.highest if row else 0

    def rows(self, *states: str) -> int:
        """How many updates of this scene's keys are stored."""
        mine = (self.child.public.id, self.sibling.public.id)
        query = select(func.count()).select_from(UpdateRow).where(UpdateRow.issuer.in_(mine))
        with self.node.store.read() as session:
            return session.scalars(query.where(UpdateRow.state.in_(states)) if states else query).one()

    def leftovers(self) -> list[str]:
        """What an attack left that should not be there."""
        problems = [*self.node.store.check_integrity(), *self.node.blobs.check_integrity()]
        with self.node.store.read() as session:
            rows = session.scalars(
                select(UpdateRow).where(UpdateRow.state.in_(("accepted", "rejected", "quarantined")))
            )
            problems += [f"update {row.digest} is {row.state} without a verdict" for row in rows if row.verdict is None]
        partial = self.node.home.partial
        names = {entry.name for entry in partial.iterdir()} if partial.is_dir() else set()
        return problems + sorted(name for name in names if len(name) == 64 or name.startswith(".new-"))

    def end(self) -> None:
        """What still waits is given up, as its time has passed."""
        for row in undecided(self.node.store):
            self.decided(row.digest, self.now + 3 * DAY)


def answer_of(attack: Attack, scene: object) -> str:
    """What came of an attack, in words; any exception that is not ours is a crash, and passes."""
    try:
        return attack.does(scene)
    except BanyanError as error:
        return f"{type(error).__name__}: {error.message}"


def table(*parts: Sequence[Attack]) -> dict[str, Attack]:
    """All attacks by name; a name is given once."""
    attacks = [attack for part in parts for attack in part]
    by_name = {attack.name: attack for attack in attacks}
    assert len(by_name) == len(attacks), json.dumps(sorted(attack.name for attack in attacks))
    return by_name
