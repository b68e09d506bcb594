"""What an update to the parent is made of: our own release of a path, how it came to be, the rows that may travel.

A release comes of a fine-tuning run, or of updates from below that were merged here. A graft, whose base is not the
parent's, offers answers instead of its adapter.

Nothing is sent from here; `publish` shows an offer, signs it and sends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from node.answer_set import AnswerSet
from node.context import Node, parent_of
from node.former_keys import own_keys
from node.transfer import TransferSet
from registry.documents import Adapter, AnyOffering, Distillation, Evaluation, File, ReleasePin, Update
from registry.errors import LocalFailure
from registry.keys import KeyId, PublicKey
from registry.paths import NodePath, Ref
from registry.rows import Row, read_rows
from registry.store import select
from registry.tables import HeadRow, PeerRow, ReleaseRow, RunRow
from registry.taught import read_taught
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
    """Our own release, what it stands on, how it was made, the parent it is for, and the key that will sign.

    `run` is None where it was merged of what came from below; `record` is the digest of the run's manifest, else of the
    release that the merge made. `is_graft`: it stands on no release of the parent, and `above` is the one that the
    parent is to add answers to.
    """

    parent: PeerRow
    own: Link
    adapter: Adapter
    above: ReleasePin
    run: RunRow | None
    record: str
    issuer: KeyId
    is_graft: bool = False
    measured: tuple[Evaluation, ...] = ()  # of the model, for this offer

    @property
    def ref(self) -> Ref:
        """The release that is offered."""
        return Ref(NodePath.parse(self.own.release.path), self.own.release.version)

    def update(
        self, sequence: int, travelling: TransferSet | AnswerSet | None, now: datetime, valid_days: int
    ) -> AnyOffering:
        """The document that is to be signed (U9)."""
        release = self.own.release
        said: dict[str, Any] = {
            "path": release.path,
            "issuer": self.issuer,
            "audience": self.parent.key_id,
            "base": release.base,
            "release": self.above,
            "sequence": sequence,
            "created": now,
            "expires": now + timedelta(days=valid_days),
            "claims": (*(release.evaluations if self.run else ()), *self.measured),
            "run": self.record,
        }
        if isinstance(travelling, AnswerSet):
            return Distillation(
                **said,
                teacher=self.own.digest,
                answers=travelling.file,
                answer_rows=len(travelling.rows),
                top=travelling.top,
                tokenizer=travelling.tokenizer,
            )
        return Update(
            **said,
            adapter=self.adapter,
            transfer=travelling.file if travelling else None,
            transfer_rows=len(travelling.rows) if travelling else 0,
        )

    def outgoing(self, node: Node, update: AnyOffering, envelope_bytes: int) -> Outgoing:
        """What leaves with a signed update."""
        return Outgoing(
            parent_url=self.parent.url,
            parent_fingerprint=PublicKey.from_hex(self.parent.public_key).fingerprint,
            path=update.path,
            version=self.own.release.version,
            envelope_bytes=envelope_bytes,
            files=update.files,
            claims=update.claims,
            transfer_rows=update.rows,
            samples=tuple(_travelling(node, update)[:SHOWN_ROWS]),
        )


def _travelling(node: Node, update: AnyOffering) -> list[Row]:
    """The rows that leave with an update."""
    if isinstance(update, Distillation):
        answers = node.blobs.open_verified(update.answers.sha256)
        return [one.row for one in read_taught(answers, update.answers.size, update.answer_rows, update.top)]
    if update.transfer is None:
        return []
    return read_rows(node.blobs.open_verified(update.transfer.sha256), update.transfer.size)


def make_offer(node: Node, path: NodePath) -> Offer:
    """What can be offered of a path. Raises LocalFailure, with the next step, when something of it is not there."""
    parent = parent_of(node)
    head = find_release(node.store, Ref(path))
    with node.store.read() as session:
        own = stored_link(session, node.blobs, head)
    release = own.release
    if own.signer not in own_keys(node) or release.adapter is None:
        raise LocalFailure(
            f"{path}@v{release.version} is not this node's own work", f"node finetune {path} --data FILE"
        )
    above = release.above or _parents_release(node, path)
    if above is None:
        raise LocalFailure(f"{path}@v{release.version} stands on no release of the parent", "node pull, then fine-tune")
    run, record = _made_by(node, own)
    if record is None:
        raise LocalFailure(
            f"there is no record of the run that made {path}@v{release.version}", f"node finetune {path} --data FILE"
        )
    is_graft = release.above is None
    return Offer(parent, own, release.adapter, above, run, record, node.key.public.id, is_graft)


def _made_by(node: Node, own: Link) -> tuple[RunRow | None, str | None]:
    """The run or the merge that a release comes of, and its record; a rebase changes the adapter, not what it knows."""
    done = select(RunRow).where(RunRow.path == own.release.path, RunRow.manifest.is_not(None), RunRow.state == "done")
    with node.store.read() as session:
        runs = session.scalars(done.order_by(RunRow.created.desc(), RunRow.id)).all()
        by_adapter = {run.adapter: run for run in reversed(runs)}
        link = own
        while True:
            adapter = link.release.adapter
            if adapter is not None and adapter.file.sha256 in by_adapter:
                run = by_adapter[adapter.file.sha256]
                return run, run.manifest
            if link.release.contributions:
                return None, link.digest
            if link.release.previous is None or session.get(ReleaseRow, link.release.previous) is None:
                return (runs[0], runs[0].manifest) if runs else (None, None)
            link = stored_link(session, node.blobs, link.release.previous)


def _parents_release(node: Node, path: NodePath) -> ReleasePin | None:
    """The nearest release above a path that is the parent's and was pulled; None where there is none."""
    places = [str(place) for place in path.chain()[:-1]]
    heads = select(ReleaseRow).join(HeadRow, HeadRow.release == ReleaseRow.digest)
    with node.store.read() as session:
        rows = {row.path: row for row in session.scalars(heads.where(ReleaseRow.path.in_(places), ~ReleaseRow.own))}
    nearest = next((rows[place] for place in reversed(places) if place in rows), None)
    return ReleasePin(path=nearest.path, version=nearest.version, digest=nearest.digest) if nearest else None
