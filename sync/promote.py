"""The parent's side of knowledge: check what an update does, and turn accepted updates into a new release.

A promotion makes one candidate (`sync.candidate`) and settles the states of the updates in it. When to promote is
`sync.policy`'s question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.documents import AnyOffering, CheckResult, Distillation, Release
from registry.durable import make_folder
from registry.errors import BadData
from registry.paths import NodePath
from registry.tables import HeadRow, UpdateRow
from sync.candidate import Candidate, Gathered
from sync.chain import Link
from sync.cohort import kept_norms
from sync.delta import WEIGHTS_FILE, write_adapter
from sync.inspection import inspect_update
from sync.judging import GAIN
from sync.lessons import divided
from sync.lifecycle import State, mark, results_of, update_row
from sync.parent import Parent
from sync.refused import Refused, RefusedTry, keep_table
from sync.review import conclude_again
from sync.search import Try, search
from sync.student import check_taught

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

    def check(self, update: AnyOffering, file: Path, transfer: Path | None) -> list[CheckResult]:
        """Stages 2 to 7 on an update whose files are here; of a distillation set, what is there in their place."""
        if isinstance(update, Distillation):
            return check_taught(self, update, file)
        return inspect_update(self, update, file, transfer)

    def norms(self, row: UpdateRow) -> dict[str, float] | None:
        """The norms of an update, kept beside it; None where its adapter is gone and they were never measured."""
        return kept_norms(self.composer, row)

    def promote(self, path: NodePath, digests: Sequence[str], updates: Sequence[AnyOffering]) -> Promotion:
        """Make, judge and, if it passes, release a candidate of `path` from accepted updates (G5); resumable.

        Where old knowledge is lost in every try, the costliest update is quarantined and the candidate made again of
        the rest. Where only gains are lost, those updates are quarantined, the others accepted again, and there is no
        release. A candidate that is given up is kept with its table.
        """
        with self.composer.store.read() as session:
            head = session.get(HeadRow, str(path))
        if head is None:
            raise BadData(f"there is no release at {path} to promote", f"node import BASE --path {path}")
        chain = self.composer.chain(head.release)
        waiting, checks = dict(zip(digests, updates, strict=True)), list[CheckResult]()
        while waiting:
            candidate = Candidate(self, chain, waiting)
            self.move(waiting, "aggregated")
            tries = search(candidate, self.plan.tries)
            checks = tries[0].checks
            if tries[0].passed:
                self.move(waiting, "gated")
                checks = [*checks, tries[0].merged.rule]
                release, digest = candidate.release(tries[0].merged, checks, tries[0].held_right)
                candidate.clean_up()
                return Promotion(release, digest, checks)
            blamed = self.blamed(candidate.digests, checks)
            others = {digest: update for digest, update in waiting.items() if digest not in blamed}
            again = bool(tries[0].lost)
            self.keep_refused(candidate, tries)
            self.part(blamed, [] if again else others)
            candidate.clean_up()
            waiting = others if again else {}
        return Promotion(None, None, checks)

    def release_gathered(self, chain: list[Link], gathered: Gathered) -> Promotion:
        """Make, judge and, if the gate lets it pass, release a candidate of what federated rounds came to (J7).

        One that is given up is kept with its table.
        """
        candidate = Candidate(self, chain, {}, gathered)
        tries = search(candidate, self.plan.tries)
        best = tries[0]
        try:
            if not best.passed:
                self.keep_refused(candidate, tries)
                return Promotion(None, None, best.checks)
            checks = [*best.checks, best.merged.rule]
            return Promotion(*candidate.release(best.merged, checks, best.held_right), checks)
        finally:
            candidate.clean_up()

    def keep_refused(self, candidate: Candidate, tries: Sequence[Try]) -> None:
        """Keep a candidate that came to nothing: the best try's adapter and the table of all."""
        told = tuple(
            RefusedTry(
                start=t.start,
                part=t.part,
                seconds=t.seconds,
                recompression_error=t.merged.error,
                checks=tuple(t.checks),
            )
            for t in tries
        )
        table = Refused(
            path=candidate.path,
            version=candidate.old.version + 1,
            instead_of=candidate.chain[-1].digest,
            updates=candidate.digests,
            created=self.now(),
            tries=told,
        )
        place = self.refused / candidate.work.name
        make_folder(place)
        write_adapter(tries[0].merged.delta, place / WEIGHTS_FILE)
        keep_table(table, place)

    def move(self, digests: Iterable[str], state: State) -> None:
        """Mark updates on their way, all or none."""
        with self.composer.store.transaction() as session:
            for digest in digests:
                mark(session, digest, state, self.now())

    def blamed(self, digests: Sequence[str], checks: Sequence[CheckResult]) -> dict[str, CheckResult]:
        """The updates that the gate stopped a candidate for, with the check that says why; empty if it did not.

        `checks` are those of `Candidate.judge`: the old knowledge, and the gain of each of `digests` in their order.
        """
        gains = [check for check in checks if check.name.startswith(GAIN)]
        lost = [check for check in checks if not check.passed and check not in gains]
        if lost:
            return {self.costliest(digests): lost[0]}
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

    def remember(self, update: AnyOffering) -> None:
        """Keep the rows of a released update that were held back, to judge with later; the same again adds nothing.

        They are judged with in both roles, as this place and as the child's.
        """
        held = divided(self, update)[1]
        for place in dict.fromkeys((update.release.path, update.path)) if held else ():
            self.keep_rows(NodePath.parse(place), held)


def points_lost_alone(results: Sequence[CheckResult]) -> float:
    """Points of the known rows that an update lost when it was checked; 0 where that was not measured."""
    return next((one.value for one in results if one.name == KNOWN_ROWS and one.value is not None), 0.0)
