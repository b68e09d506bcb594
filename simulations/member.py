"""An honest node of the network in memory: its real store, blobs, keys, repository and log, without a process.

What it answers is `server`'s, what it asks its parent `rounds`', what it does with updates `work`'s. Put together here
is what `node` does for a node with settings and an interface; the rules are those of `registry` and `sync`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from registry.blobs import BlobStore
from registry.documents import Adapter, CheckResult, ReleasePin
from registry.home import Home
from registry.keys import PrivateKey, PublicKey
from registry.log.checkpoint import Checkpoint, origin_of, sign_checkpoint
from registry.log.leaves import log_root, log_size
from registry.paths import NodePath
from registry.store import Session, Store, select
from registry.tables import HeadRow, LogCheckpointRow, ReleaseRow
from registry.trust.keyring import Keyring
from registry.trust.repository import Repository, Target
from registry.trust.roles import Lives
from simulations.clock import Watch
from simulations.network import MemoryTransport, Network, url_of
from simulations.weights import check_adapter
from sync.checks.envelope import Limits as InboxLimits
from sync.enrolled import Identity
from sync.peers import Allowance
from sync.transport import Limits, Peer

SKEW_S: Final = 300.0
LIVES: Final = Lives(root=timedelta(days=365), metadata=timedelta(days=30), timestamp=timedelta(hours=24))
LIMITS: Final = Limits(clock_skew_s=SKEW_S)
INBOX_LIMITS: Final = InboxLimits(skew_s=SKEW_S)
ALLOWANCE: Final = Allowance()


@dataclass(frozen=True, slots=True)
class Parent:
    """The pinned parent: its host, its key, the place that it was found at."""

    host: str
    key: PublicKey
    place: NodePath


@dataclass(eq=False)
class Member:
    """One node, responsible for one place. `wake` is called when an update came that waits for work.

    `check_adapter` is stage 2 of the checks, over the base of this tree.
    """

    host: str
    key: PrivateKey
    place: NodePath
    home: Home
    store: Store
    blobs: BlobStore
    watch: Watch
    network: Network
    parent: Parent | None = None
    children: dict[str, PublicKey] = field(default_factory=dict)  # by host
    log_peers: tuple[str, ...] = ()
    wake: Callable[[], None] = lambda: None
    check_adapter: Callable[[Path, Adapter], list[CheckResult]] = check_adapter
    is_published: bool = False  # all that is served; whoever serves something new says that it is not
    due: datetime | None = None

    @property
    def own(self) -> Identity:
        """Who this node is to its children."""
        return Identity(self.key, (self.place,))

    def peer(self, host: str) -> Peer:
        """Another node, over the network."""
        return Peer(MemoryTransport(self.network, self.host), url_of(host), LIMITS)

    def trusted(self, path: NodePath) -> list[PublicKey]:
        """The keys that may sign a release of a path (R7)."""
        own = [self.key.public] if path.is_within(self.place) else []
        return own + ([self.parent.key] if self.parent is not None and self.is_parents(path) else [])

    def is_parents(self, path: NodePath) -> bool:
        """Whether a path lies above or below the place of the parent, who may vouch for it (F9)."""
        return self.parent is not None and (path.is_within(self.parent.place) or self.parent.place.is_within(path))

    def heads(self) -> dict[str, ReleaseRow]:
        """What this node serves, by path."""
        with self.store.read() as session:
            return heads_in(session)

    def renew(self) -> None:
        """Publish what changed and what is about to expire (F1, F6)."""
        now = self.watch.now()
        if not self.is_published or self.due is None or now >= self.due:
            with self.store.read() as session:
                wanted = _listed(session)
            self.due = self.repository.publish(wanted, now)
            self.is_published = True

    @property
    def repository(self) -> Repository:
        """The repository that this node publishes."""
        return Repository(self.home.repository, Keyring(self.home.key_file.parent), self.key, LIVES)

    def checkpoint(self) -> str | None:
        """The newest checkpoint of the log, made anew where the log grew (L6); None of an empty log."""
        with self.store.transaction() as session:
            last = session.scalars(select(LogCheckpointRow).order_by(LogCheckpointRow.size.desc()).limit(1)).first()
            size = log_size(session)
            if last is None or size > last.size:
                if size == 0:
                    return None
                note = sign_checkpoint(Checkpoint(origin_of(self.key.public), size, log_root(session, size)), self.key)
                last = LogCheckpointRow(size=size, note=note, created=self.watch.now())
                session.add(last)
        return last.note


def target_name(pin: ReleasePin | ReleaseRow) -> str:
    """What the envelope of a release is called as a target."""
    return f"{pin.path}/v{pin.version}"


def heads_in(session: Session) -> dict[str, ReleaseRow]:
    """What a node serves, by path."""
    return {row.path: row for row in session.scalars(_HEADS)}


_HEADS: Final = select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest)


def _listed(session: Session) -> dict[str, Target]:
    """What is served and what was before (F1)."""
    heads = {head.path: head.release for head in session.scalars(select(HeadRow))}
    rows = sorted(session.scalars(select(ReleaseRow)), key=lambda row: heads.get(row.path) != row.digest)
    served = {row.path: row.version for row in rows if heads.get(row.path) == row.digest}
    found: dict[str, Target] = {}
    for row in rows:
        if row.version <= served.get(row.path, 0):
            found.setdefault(target_name(row), Target(len(row.envelope), row.digest))
    return found
