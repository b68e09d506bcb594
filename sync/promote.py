"""The parent's side of knowledge: check what an update does, and turn accepted updates into a new release.

A promotion makes one candidate (`sync.candidate`) and settles the states of the updates in it. When to promote is
`sync.policy`'s question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.documents import CheckResult, Release, Update
from registry.envelope import peek_payload
from registry.errors import BadData
from registry.paths import NodePath
from registry.rows import read_rows
from registry.store import select
from registry.tables import HeadRow, UpdateRow
from sync.candidate import MAX_ROWS_BYTES, Candidate, divided
from sync.checks.behaviour import check_behaviour
from sync.checks.files import check_files
from sync.checks.size import check_size, module_norms
from sync.delta import read_adapter
from sync.inbox import settle
from sync.lifecycle import mark, update_row
from sync.model import LoadedModel, add
from sync.parent import Parent

MAX_HISTORY = 32


@dataclass(frozen=True, slots=True)
class Promotion:
    """How a promotion ended: the new release, or none and the checks that say why."""

    release: Release | None
    digest: str | None
    checks: list[CheckResult]


@dataclass(frozen=True, slots=True)
class Promoter(Parent):
    """A parent that checks what comes in and promotes what it accepted."""

    def check(self, update: Update, adapter: Path, transfer: Path | None) -> list[CheckResult]:
        """Stages 2, 3 and 7 on an update whose envelope and files are here; the later ones only if the files passed."""
        chain = self.composer.chain(update.release.digest)
        base = self.composer.base_folder(update.base)
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        results = check_files(adapter, update.adapter, config)
        if not all(result.passed for result in results):
            return results
        loaded = self.composer.load_chain(chain)
        norms = module_norms(adapter, update.adapter.shape)
        results += check_size(norms, base_norms(loaded), self.history(update), z_limit=self.plan.size_max_z)
        rows = read_rows(transfer, MAX_ROWS_BYTES) if transfer else []
        if len(rows) != update.transfer_rows:
            raise BadData(f"the transfer set has {len(rows)} rows, the update declares {update.transfer_rows}")
        path = update.release.path
        known = self.known(path)
        before = self.right_before(loaded, update.release.digest, known, path)
        add(loaded, read_adapter(adapter, update.adapter.shape))
        return results + check_behaviour(
            before,
            loaded,
            known,
            rows,  # all of them: what is not judged could be anything
            path=path,
            sender=update.path,
            max_loss_points=self.plan.max_update_loss_points,
        )

    def history(self, update: Update) -> list[dict[str, float]]:
        """The norms of the updates that were let into releases of the same path before; each is measured once."""
        with self.composer.store.read() as session:
            rows = select(UpdateRow).where(
                UpdateRow.direction == "in", UpdateRow.release.is_not(None), UpdateRow.path == update.path
            )
            earlier = list(session.scalars(rows.order_by(UpdateRow.changed.desc()).limit(MAX_HISTORY)))
        found = [self.norms(row) for row in earlier]
        return [norms for norms in found if norms is not None]

    def norms(self, row: UpdateRow) -> dict[str, float] | None:
        """The norms of an update, kept beside it; None where its adapter is gone and they were never measured."""
        if row.norms is not None:
            return dict(json.loads(row.norms))
        adapter = Update.from_bytes(peek_payload(row.envelope)).adapter  # verified when it came in
        if not self.composer.blobs.has(adapter.file.sha256):
            return None
        norms = module_norms(self.composer.blobs.open_verified(adapter.file.sha256), adapter.shape)
        with self.composer.store.transaction() as session:
            update_row(session, row.digest).norms = json.dumps(norms, allow_nan=False)
        return norms

    def promote(self, path: NodePath, digests: Sequence[str], updates: Sequence[Update]) -> Promotion:
        """Make, judge and, if it passes, release a candidate of `path` from accepted updates; resumable."""
        with self.composer.store.read() as session:
            head = session.get(HeadRow, str(path))
            if head is None:
                raise BadData(f"there is no release at {path} to promote", f"node import BASE --path {path}")
            chain = self.composer.chain(head.release)
        candidate = Candidate(self, chain, dict(zip(digests, updates, strict=True)))
        merged, delta = candidate.train()
        with self.composer.store.transaction() as session:
            for digest in digests:
                mark(session, digest, "aggregated", self.now())
        checks = candidate.judge(delta)
        if not all(check.passed for check in checks):
            failed = next(check for check in checks if not check.passed)
            for digest in digests:
                settle(self.composer.store, digest, "quarantined", failed, self.own, self.now())
            candidate.clean_up()
            return Promotion(None, None, checks)
        with self.composer.store.transaction() as session:
            for digest in digests:
                mark(session, digest, "gated", self.now())
        release, digest = candidate.release(delta, merged, checks)
        candidate.clean_up()
        return Promotion(release, digest, checks)

    def remember(self, update: Update) -> None:
        """Keep the rows of a released update that were held back, to judge with later; the same again adds nothing."""
        held = divided(self, update)[1]
        if held:
            self.keep_rows(NodePath.parse(update.release.path), held)


def base_norms(loaded: LoadedModel) -> dict[str, float]:
    """Frobenius norms of the modules of the model that a delta would be added to."""
    return {name: float(module.weight.detach().float().norm()) for name, module in loaded.linear_modules()}
