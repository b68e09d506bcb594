"""The parent's side of knowledge: check what an update does, and turn accepted updates into a new release.

A promotion makes one candidate (`sync.candidate`) and settles the states of the updates in it. When to promote is
`sync.policy`'s question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
from sync.lifecycle import State, mark, results_of, update_row
from sync.model import LoadedModel, add
from sync.parent import Parent
from sync.review import conclude_again

MAX_HISTORY = 32
KNOWN_ROWS = "behaviour.anchors"  # the check of `sync.checks.behaviour` that counts lost known rows


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
        """Stages 2, 3 and 7 on an update whose files are here (C21); the later ones only if the files passed."""
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
        """Make, judge and, if it passes, release a candidate of `path` from accepted updates (G5); resumable.

        Where old knowledge is lost, the costliest update is quarantined and the candidate made again of the rest. Where
        only gains are lost, those updates are quarantined, the others accepted again, and there is no release.
        """
        with self.composer.store.read() as session:
            head = session.get(HeadRow, str(path))
            if head is None:
                raise BadData(f"there is no release at {path} to promote", f"node import BASE --path {path}")
            chain = self.composer.chain(head.release)
        waiting, checks = dict(zip(digests, updates, strict=True)), list[CheckResult]()
        while waiting:
            candidate = Candidate(self, chain, waiting)
            merged, delta = candidate.train()
            self.move(waiting, "aggregated")
            checks = candidate.judge(delta)
            blamed = self.blamed(candidate.digests, checks)
            if not blamed:
                self.move(waiting, "gated")
                release, digest = candidate.release(delta, merged, checks)
                candidate.clean_up()
                return Promotion(release, digest, checks)
            others = {digest: update for digest, update in waiting.items() if digest not in blamed}
            again = not checks[0].passed
            self.part(blamed, [] if again else others)
            candidate.clean_up()
            waiting = others if again else {}
        return Promotion(None, None, checks)

    def move(self, digests: Iterable[str], state: State) -> None:
        """Mark updates on their way, all or none."""
        with self.composer.store.transaction() as session:
            for digest in digests:
                mark(session, digest, state, self.now())

    def blamed(self, digests: Sequence[str], checks: Sequence[CheckResult]) -> dict[str, CheckResult]:
        """The updates that the gate stopped a candidate for, with the check that says why; empty if it did not.

        `checks` are those of `Candidate.judge`: the old knowledge, then the gain of each of `digests`.
        """
        known, *gains = checks
        if not known.passed:
            return {self.costliest(digests): known}
        return {digest: gain for digest, gain in zip(digests, gains, strict=True) if not gain.passed}

    def costliest(self, digests: Sequence[str]) -> str:
        """The update that lost most of the known rows when it was checked alone; the newest of those alike."""
        with self.composer.store.read() as session:
            rows = [update_row(session, digest) for digest in digests]
        return max(rows, key=lambda row: (points_lost_alone(results_of(row)), row.received, row.digest)).digest

    def part(self, blamed: Mapping[str, CheckResult], others: Iterable[str]) -> None:
        """Quarantine updates and give others back, in one transaction."""
        with self.composer.store.transaction() as session:
            for digest, check in blamed.items():
                conclude_again(session, digest, "quarantined", check, self.own, self.now())
            for digest in others:
                mark(session, digest, "accepted", self.now(), reason="the gate stopped a candidate for another update")

    def remember(self, update: Update) -> None:
        """Keep the rows of a released update that were held back, to judge with later; the same again adds nothing."""
        held = divided(self, update)[1]
        if held:
            self.keep_rows(NodePath.parse(update.release.path), held)


def points_lost_alone(results: Sequence[CheckResult]) -> float:
    """Points of the known rows that an update lost when it was checked; 0 where that was not measured."""
    return next((one.value for one in results if one.name == KNOWN_ROWS and one.value is not None), 0.0)


def base_norms(loaded: LoadedModel) -> dict[str, float]:
    """Frobenius norms of the modules of the model that a delta would be added to."""
    return {name: float(module.weight.detach().float().norm()) for name, module in loaded.linear_modules()}
