"""The parent's side of a federated run: it sets the tasks, judges what comes back, merges it and keeps the record.

No transport: `sync.federation.strategy` hands in what Flower brought. Of every answer there is a verdict, of those that
were signed a signed one with a leaf of the log; none ends the run, unless too few are left to go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from registry.documents import AdapterShape, CheckResult, Verdict, seal_document
from registry.envelope import MAX_ENVELOPE_BYTES
from registry.errors import BadData, LocalFailure
from registry.log.entry import log_entry
from registry.log.leaves import append
from registry.rounds import RoundTask
from sync.candidate import Gathered
from sync.chain import Link
from sync.checks.version import checker_version
from sync.consolidate import merge
from sync.delta import Delta
from sync.enrolled import Speaker, speaker
from sync.federation.arrays import digest_of, with_half
from sync.federation.contributions import Asked, Brought, verify
from sync.federation.inspection import Reference, inspect_numbers, inspect_round
from sync.federation.plan import RoundsPlan
from sync.lifecycle import LOGGED
from sync.parent import Parent
from sync.verdict import Outcome, failed, failure, judge, write_verdict


class TooFew(LocalFailure):
    """A round has fewer contributions than the run needs: it ends without a release (J5)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from one client of Flower, `client`: the arrays as they were read, or why there are none."""

    client: str
    envelope: bytes = b""
    delta: Delta | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of one answer; `issuer`, `path` and `digest` are empty where nothing signed came."""

    round: int
    client: str
    outcome: Outcome
    reason: str
    issuer: str = ""
    path: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A contribution that counts: its envelope's digest, the client of Flower that brought it, its factors."""

    digest: str
    client: str
    delta: Delta


@dataclass(slots=True)
class _Case:
    answer: Answer
    results: list[CheckResult] = field(default_factory=list)
    brought: Brought | None = None


@dataclass(slots=True)
class Desk:
    """One run of rounds over a release. `run` is 64 hex characters drawn for it; `tell` hears of every ruling."""

    parent: Parent
    link: Link
    plan: RoundsPlan
    shape: AdapterShape
    run: str
    against: Reference
    tell: Callable[[Ruling], None] = lambda ruling: None
    asked: Asked | None = None
    start: Delta = field(default_factory=dict)
    rulings: list[Ruling] = field(default_factory=list)
    contributions: list[str] = field(default_factory=list)  # digests of all that counted, in any round
    last: list[Accepted] = field(default_factory=list)  # those of the newest round
    noised: Delta | None = None  # what the newest round came to, where the parent adds noise

    def ask(self, number: int, start: Delta) -> bytes:
        """Begin a round from these factors; the signed task for all clients."""
        now = self.parent.now()
        task = RoundTask(
            issuer=self.parent.own.key.public.id,
            created=now,
            expires=now + timedelta(seconds=self.plan.deadline_s),
            run=self.run,
            round=number,
            rounds=self.plan.rounds,
            release=self.link.pin,
            base=self.link.release.base,
            start=digest_of(start),
            shape=self.shape,
            frozen=self.plan.frozen(number),
            seed=self.plan.seed,
        )
        self.asked, self.start = Asked(task, seal_document(task, self.parent.own.key)), start
        return self.asked.envelope

    def receive(self, answers: Sequence[Answer]) -> list[Accepted]:
        """Judge what came back in the round (J3 to J6); the contributions that count, in the order of their digests.

        Raises TooFew where they are fewer than the plan needs.
        """
        asked = self._asked()
        cases = [self._verified(answer, asked) for answer in answers]
        sound: dict[str, Delta] = {}
        for case in cases:
            delta = case.answer.delta
            if case.brought and delta and case.brought.contribution.issuer in sound:
                case.results.append(failure("envelope.once", "another contribution of this key came in this round"))
            elif case.brought and delta:
                case.results += inspect_numbers(delta, self.start, asked.task.frozen)
                if not failed(case.results):
                    sound[case.brought.contribution.issuer] = delta
        found = inspect_round(sound, self.start, self.against)
        self.last = []
        for case in cases:
            if case.brought and not failed(case.results):
                case.results += found[case.brought.contribution.issuer]
            self._conclude(case, asked.task.round)
        self.last.sort(key=lambda one: one.digest)
        self.contributions += [one.digest for one in self.last]
        if len(self.last) < self.plan.least:
            raise TooFew(
                f"round {asked.task.round}: {len(self.last)} of {len(answers)} contributions were accepted, "
                f"{self.plan.least} are needed",
                "node federate show says why; wait for more children, or lower --least",
            )
        return self.last

    def merged(self, deltas: Sequence[Delta]) -> Delta:
        """The contributions of a round as the factors that the next one begins with, by the plan's rule."""
        return merge(None, deltas, self.shape.rank, rule=self.plan.rule, f=self.plan.f, seed=self.plan.seed).delta

    def next_start(self, aggregated: Delta) -> Delta:
        """What the next round begins with; remembered where noise was added: nothing without it may leave (J8)."""
        begun = with_half(aggregated, self.start, self._asked().task.frozen)
        if self.plan.private:
            self.noised = begun
        return begun

    def gathered(self) -> Gathered:
        """What the run came to, for a candidate (J7)."""
        increments = (self.noised,) if self.noised is not None else tuple(one.delta for one in self.last)
        return Gathered(tuple(self.contributions), increments)

    def _asked(self) -> Asked:
        if self.asked is None:
            raise BadData("an answer came before anything was asked")
        return self.asked

    def _speaker(self, issuer: str) -> Speaker:
        with self.parent.composer.store.read() as session:
            return speaker(session, issuer, self.parent.own, self.parent.now())

    def _verified(self, answer: Answer, asked: Asked) -> _Case:
        """Stage 1, and of the arrays whether they could be read; the first failure ends it."""
        case = _Case(answer)
        if answer.delta is None:
            case.results.append(failure("files.arrays", answer.problem or "no arrays came"))
            return case
        if not answer.envelope or len(answer.envelope) > MAX_ENVELOPE_BYTES:
            case.results.append(failure("envelope.signature", "it is not signed"))
            return case
        try:
            case.brought = verify(answer.envelope, asked, digest_of(answer.delta), self._speaker)
        except BadData as error:
            case.results.append(failure("envelope.signature", error.message))
            return case
        return case

    def _conclude(self, case: _Case, number: int) -> None:
        """Write the verdict down; one on signed words is signed and logged (J6)."""
        outcome, now = judge(case.results), self.parent.now()
        envelope = case.answer.envelope
        subject = case.brought.digest if case.brought else hashlib.sha256(envelope).hexdigest()
        verdict = write_verdict(subject, outcome, case.results, now)
        if case.brought:
            self._log(verdict)
            if outcome == "accepted" and case.answer.delta is not None:
                self.last.append(Accepted(case.brought.digest, case.answer.client, case.answer.delta))
        said = case.brought.contribution if case.brought else None
        ruling = Ruling(
            number,
            case.answer.client,
            outcome,
            verdict.reason,
            issuer=said.issuer if said else "",
            path=said.path if said else "",
            digest=subject if said else "",
        )
        self.rulings.append(ruling)
        self.tell(ruling)

    def _log(self, verdict: Verdict) -> None:
        signed = seal_document(verdict, self.parent.own.key)
        kind, checker = LOGGED[verdict.outcome], checker_version()
        entry = log_entry(
            kind, verdict.update, verdict.created, document=signed, checks=verdict.checks, checker=checker
        )
        self.parent.composer.blobs.put_bytes(signed)
        with self.parent.composer.store.transaction() as session:
            append(session, entry)
