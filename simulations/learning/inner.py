"""A node that has children: it checks what they send, releases when its policy says so, and offers that upwards.

What it calls is the product's: stages 1 to 7 and the verdict, promotion with its gate, `sync.policy`, `sync.rebase`.
The measured times of checks are set to nothing, as they would make two runs of one seed differ.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from registry.documents import AnyOffering, CheckResult, Evaluation, Release
from registry.paths import NodePath
from registry.rows import Row, read_rows, write_rows
from registry.store import select
from registry.stored import stored_file
from registry.tables import UpdateRow
from simulations.learning.making import next_release, put_adapter
from simulations.learning.world import Composed, World
from simulations.member import Member
from simulations.work import Made, offer
from sync.candidate import Candidate
from sync.chain import Link, serve, signed_link, stored_chain
from sync.inbox import accepted, advance, mark, undecided
from sync.lifecycle import UNDECIDED, load_update
from sync.parent import PromotionPlan
from sync.policy import POLICIES, Decision, PolicyState, oracle
from sync.policy_state import policy_state
from sync.promote import Promoter
from sync.rebase import Rebase, choose
from sync.score import evaluate_rows, reanswered
from sync.search import search
from sync.superseded import supersede
from sync.train import TrainPlan

TRAVELLING: Final = 30  # prompts that an inner node lets travel upwards
UPDATE_LIFE: Final = timedelta(days=60)
WORTH: Final = 0.01  # the share of hidden rows that the oracle wants a release to win
NEED_NORMS: Final = frozenset({"drift", "event", "lazy"})
MAX_ROWS_BYTES: Final = 64 << 20


class StillPromoter(Promoter):
    """A promoter whose checks say what they found and not how long that took."""

    def check(self, update: AnyOffering, file: Path, transfer: Path | None) -> list[CheckResult]:
        """See Promoter."""
        return [still(one) for one in Promoter.check(self, update, file, transfer)]

    def blamed(self, digests: Sequence[str], checks: Sequence[CheckResult]) -> dict[str, CheckResult]:
        """See Promoter."""
        return {digest: still(one) for digest, one in Promoter.blamed(self, digests, checks).items()}


def still(check: CheckResult) -> CheckResult:
    """A result without its time."""
    return check.model_copy(update={"cost_ms": 0.0})


@dataclass(frozen=True, slots=True)
class Released:
    """What came of one look: the new release if there is one, when to look again without a cause."""

    link: Link | None
    again: datetime | None = None


@dataclass
class Inner:
    """One such node. `hidden` are rows that only the oracle looks at; `known` what the node itself judges with."""

    member: Member
    world: World
    plan: PromotionPlan
    policy: str
    hidden: Callable[[], Sequence[Row]]
    known: dict[NodePath, list[Row]] = field(default_factory=dict)
    refusals: int = 0

    def __post_init__(self) -> None:
        member = self.member
        self.composer = Composed(
            member.store, member.blobs, lambda digest: self.world.folder, "fp32", template=self.world.template
        )
        self.promoter = StillPromoter(
            composer=self.composer,
            own=member.own,
            runs=member.home.runs,
            refused=member.home.refused,
            plan=self.plan,
            known_rows=lambda place: self.known.get(place, []),
            now=member.watch.now,
            keep_rows=self.keep,
        )

    @property
    def place(self) -> NodePath:
        """Where it stands in the tree."""
        return self.member.place

    def keep(self, place: NodePath, rows: list[Row]) -> None:
        """Judge with these rows as well from now on."""
        here = self.known.setdefault(place, [])
        asked = {(row.input, row.task) for row in here}
        here += [row for row in rows if (row.input, row.task) not in asked]

    def chain(self) -> list[Link]:
        """What it serves, with the releases above."""
        return stored_chain(self.member.store, self.member.blobs, self.member.heads()[str(self.place)].digest)

    # Updates

    def look(self) -> Released:
        """Decide what waits for its verdict, then release if the policy says so."""
        member, now = self.member, self.member.watch.now()
        for row in undecided(member.store):
            before, state = "", row.state
            while state in UNDECIDED and state != before:
                before = state
                state = advance(member.store, member.blobs, row.digest, self.promoter.check, member.own, now)
        supersede(member.store, member.own, now)
        rows = accepted(member.store)
        if not rows:
            return Released(None)
        if self.policy in NEED_NORMS:
            for row in rows:
                self.promoter.norms(row)
        decision = self.decide(
            policy_state(member.store, member.blobs, member.own.key.public.id, self.place, now), rows
        )
        return self.release(rows) if decision.release else Released(None, decision.again)

    def decide(self, state: PolicyState, rows: Sequence[UpdateRow]) -> Decision:
        """What the policy says."""
        numbers = self.world.scenario.numbers
        if self.policy == "oracle":
            return oracle(replace(state, oracle=self.is_worth_it(rows)), numbers)
        return POLICIES[self.policy](state, numbers)

    def is_worth_it(self, rows: Sequence[UpdateRow]) -> bool:
        """Whether a release now would win enough of the hidden rows: it is made, looked at and put away."""
        updates = {row.digest: load_update(self.member.store, row.digest)[1] for row in rows}
        chain, hidden = self.chain(), self.hidden()
        candidate = Candidate(self.promoter, chain, updates)
        best = search(candidate, self.plan.tries)[0]
        if not best.passed:
            return True  # the gate will say who is to blame; without that they wait for ever
        loaded = self.composer.load_chain(chain)
        before = self.world.right(loaded, hidden, str(self.place))
        candidate.exchange(loaded, best.merged.delta)
        after = self.world.right(loaded, hidden, str(self.place))
        return sum(after) - sum(before) >= WORTH * len(hidden)

    def release(self, rows: Sequence[UpdateRow]) -> Released:
        """Make a release of accepted updates, if the gate lets it pass."""
        member = self.member
        digests = [row.digest for row in rows]
        found = self.promoter.promote(self.place, digests, [load_update(member.store, one)[1] for one in digests])
        if found.digest is None:
            self.refusals += 1
            return Released(None, member.watch.now() + timedelta(days=1) if accepted(member.store) else None)
        member.is_published = False
        with member.store.read() as session:
            released = list(session.scalars(select(UpdateRow).where(UpdateRow.state == "released")))
        for row in released:
            self.promoter.remember(load_update(member.store, row.digest)[1])
            with member.store.transaction() as session:
                mark(session, row.digest, "announced", member.watch.now())
        return Released(self.chain()[-1])

    # Upwards

    def offer_upwards(self) -> None:
        """Sign an update of what it serves for its parent, with prompts that came with its children's updates."""
        member, chain = self.member, self.chain()
        own = chain[-1].release
        if member.parent is None or own.adapter is None or own.above is None:
            return
        base_asks = {(row.input, row.task) for row in self.world.anchors}
        news = [row for row in self.anchors(own) if (row.input, row.task) not in base_asks][-TRAVELLING:]
        loaded = self.composer.load_chain(chain)
        said = reanswered(loaded, news, str(self.place))
        file = member.home.partial / "transfer.jsonl"
        write_rows(said, file)
        made = Made(
            own.above,
            own.adapter,
            self.claims(chain),
            stored_file(member.blobs, file) if said else None,
            len(said),
        )
        offer(member, member.parent, UPDATE_LIFE, made)

    def claims(self, chain: Sequence[Link]) -> tuple[Evaluation, ...]:
        """What its own adapter wins of the rows that it judges with."""
        rows, path = self.known.get(self.place, []), str(self.place)
        if not rows:
            return ()
        before = evaluate_rows(self.composer.load_chain(chain[:-1]), rows, path)[0].exact_match
        after = evaluate_rows(self.composer.load_chain(chain), rows, path)[0].exact_match
        metrics = {"exact_match_before": before, "exact_match": after}
        return (
            Evaluation(dataset="own", split="test", rows=len(rows), metrics=metrics, path=path),
            Evaluation(dataset="own", split="train", rows=len(rows), metrics={}, path=path),
        )

    def anchors(self, release: Release) -> list[Row]:
        """The anchors of a release that is here."""
        if release.anchors is None:
            return []
        return read_rows(self.member.blobs.open_verified(release.anchors.sha256), MAX_ROWS_BYTES)

    # Downwards

    def rebase(self) -> Link | None:
        """Decide what the newest release above means to the own one; the new own release, None to stay."""
        chain, above = self.chain(), self.above()
        own = chain[-1]
        if above is None or own.release.above is None or own.release.above.digest == above.digest:
            return None
        member, plan = self.member, self.plan
        rows = self.anchors(above.release)
        rank = own.release.adapter.shape.rank if own.release.adapter else plan.rank_budget
        rebase = Rebase(
            composer=self.composer,
            own=own,
            old_above=chain[:-1],
            new_above=stored_chain(member.store, member.blobs, above.digest),
            own_train=(),
            own_test=self.known.get(self.place, []),
            parent_anchors=rows[1::2],
            parent_test=rows[::2],
            rank_budget=plan.rank_budget,
            plan=TrainPlan(rank=rank, alpha=float(rank), epochs=0),  # own rows: an inner node has none to train on
            work=member.home.runs / f"rebase-{own.digest[:8]}-{above.digest[:8]}",
        )
        chosen = choose(rebase.options())
        shutil.rmtree(rebase.work, ignore_errors=True)
        if chosen.way == "stay":
            return None
        adapter = own.release.adapter
        if chosen.way != "adopt" and chosen.delta is not None:
            adapter = put_adapter(member, chosen.delta)
        return self.serve(next_release(member, own.release, above.pin, own.digest, adapter, chosen.way))

    def above(self) -> Link | None:
        """The newest release of the parent that is here."""
        parent = self.place.parent
        row = self.member.heads().get(str(parent)) if parent is not None else None
        return stored_chain(self.member.store, self.member.blobs, row.digest)[-1] if row else None

    def serve(self, release: Release) -> Link:
        """Sign a release and make it the head of its place."""
        link = signed_link(release, self.member.key)
        with self.member.store.transaction() as session:
            serve(session, link, self.member.watch.now())
        self.member.is_published = False
        return link
