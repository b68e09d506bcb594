"""What an update to the parent is made of: our own release of a path, the run behind it, the rows that may travel.

Nothing is sent from here; `publish` shows an offer, signs it and sends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from node.context import Node, parent_of
from node.transfer import TransferSet
from registry.documents import Adapter, Evaluation, File, ReleasePin, Update
from registry.errors import LocalFailure
from registry.keys import PublicKey
from registry.paths import NodePath, Ref
from registry.rows import Row, read_rows
from registry.store import select
from registry.tables import PeerRow, RunRow
from sync.chain import Link, find_release, stored_link

SHOWN_ROWS: Final = 5


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Everything that would leave this machine, for a person to look at: names with sizes, figures, rows."""

    parent_url: str
    parent_fingerprint: str
    path: str
    version: int
    envelope_bytes: int
    files: tuple[File, ...]
    claims: tuple[Evaluation, ...]
    transfer_rows: int
    samples: tuple[Row, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of the document and its files."""
        return self.envelope_bytes + sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Offer:
    """Our own release, what it stands on, the run that made it, and the parent it is for."""

    parent: PeerRow
    own: Link
    adapter: Adapter
    above: ReleasePin
    run: RunRow
    manifest: str

    @property
    def ref(self) -> Ref:
        """The release that is offered."""
        return Ref(NodePath.parse(self.own.release.path), self.own.release.version)

    def update(self, sequence: int, transfer: TransferSet | None, now: datetime, valid_days: int) -> Update:
        """The document that is to be signed (U9)."""
        release = self.own.release
        return Update(
            path=release.path,
            issuer=self.own.signer.id,
            audience=self.parent.key_id,
            base=release.base,
            release=self.above,
            sequence=sequence,
            created=now,
            expires=now + timedelta(days=valid_days),
            adapter=self.adapter,
            claims=release.evaluations,
            run=self.manifest,
            transfer=transfer.file if transfer else None,
            transfer_rows=len(transfer.rows) if transfer else 0,
        )

    def outgoing(self, node: Node, update: Update, envelope_bytes: int) -> Outgoing:
        """What leaves with a signed update."""
        samples: list[Row] = []
        if update.transfer is not None:
            samples = read_rows(node.blobs.open_verified(update.transfer.sha256), update.transfer.size)[:SHOWN_ROWS]
        return Outgoing(
            parent_url=self.parent.url,
            parent_fingerprint=PublicKey.from_hex(self.parent.public_key).fingerprint,
            path=update.path,
            version=self.own.release.version,
            envelope_bytes=envelope_bytes,
            files=files_of(update),
            claims=update.claims,
            transfer_rows=update.transfer_rows,
            samples=tuple(samples),
        )


def files_of(update: Update) -> tuple[File, ...]:
    """The files that travel with an update."""
    return (update.adapter.file, update.transfer) if update.transfer else (update.adapter.file,)


def make_offer(node: Node, path: NodePath) -> Offer:
    """What can be offered of a path. Raises LocalFailure, with the next step, when something of it is not there."""
    parent = parent_of(node)
    head = find_release(node.store, Ref(path))
    with node.store.read() as session:
        own = stored_link(session, node.blobs, head)
        done = select(RunRow).where(RunRow.path == str(path), RunRow.manifest.is_not(None), RunRow.state == "done")
        runs = session.scalars(done.order_by(RunRow.created.desc(), RunRow.id)).all()
    release = own.release
    if own.signer.id != node.key.public.id or release.adapter is None:
        raise LocalFailure(
            f"{path}@v{release.version} is not this node's own work", f"node finetune {path} --data FILE"
        )
    if release.above is None:
        raise LocalFailure(f"{path}@v{release.version} stands on no release of the parent", "node pull, then fine-tune")
    made_it = [run for run in runs if run.adapter == release.adapter.file.sha256]
    run = next(iter([*made_it, *runs]), None)  # a rebase changes the adapter, not what it was trained on
    if run is None or run.manifest is None:
        raise LocalFailure(
            f"there is no record of the run that made {path}@v{release.version}", f"node finetune {path} --data FILE"
        )
    return Offer(parent, own, release.adapter, release.above, run, run.manifest)
