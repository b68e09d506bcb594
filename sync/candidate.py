"""One candidate for a release: lessons → merge → consolidate → gate → release.

Everything that takes long happens in a work folder whose name follows from the inputs, so a killed promotion goes on
where it was; the release, the head and the updates' states change in one transaction. Which merges are tried is
left to `sync.search`, which updates are in it, and what becomes of them when the gate refuses, to `sync.promote`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cached_property

from registry.cards import MAX_CARD_BYTES, render_next_card
from registry.documents import (
    Adapter,
    AdapterShape,
    AnyOffering,
    CheckResult,
    Evaluation,
    Release,
    Update,
)
from registry.errors import LocalFailure
from registry.paths import NodePath, Ref
from registry.rows import Row, asked, read_rows, refuse_contradictions, split_of, write_rows
from registry.store import select
from registry.stored import stored_file
from registry.tables import EnrolmentRow, HeadRow
from sync.chain import Link, serve, signed_link
from sync.consolidate import Merged, consolidate, lessons_as_examples, merge
from sync.delta import WEIGHTS_FILE, Delta, recompress, write_adapter
from sync.distil import with_choices
from sync.input_grams import cohort_grams
from sync.judging import (
    AnchorSet,
    Judged,
    anchor_sets,
    canaries,
    gain_checks,
    judged_evidence,
    loss_checks,
    right,
    timed_right,
    undisputed,
)
from sync.lessons import Taught, choices_of, in_words, teach, teacher_of
from sync.lifecycle import mark, results_of, update_row
from sync.model import LoadedModel, add
from sync.parent import Parent
from sync.score import reanswered
from sync.tokens import Example
from sync.travelled import MAX_ROWS_BYTES

LESSON = "behaviour.lesson"  # the share of held-back answers that our model won of a distillation set
NOTHING_TO_MERGE = CheckResult(
    name="merge.rule", value=None, threshold=None, passed=True, reason="answers alone: no adapter to merge", cost_ms=0.0
)
OTHER_STARTS = ("ties", "dare")  # that keep of every update what stands out, where a mean blurs it
MAX_GRAM_ROWS = 500  # of a child, and of the anchors: what RegMean looks at
MAX_ASKED = 16  # contributions whose models are asked for the canaries: each costs a pass over them
MAX_CONTRIBUTIONS = 2000  # that a release can name


@dataclass(frozen=True, slots=True)
class Gathered:
    """What federated rounds came to: digests of the contributions that count, and the last round's deltas."""

    contributions: tuple[str, ...] = ()
    increments: tuple[Delta, ...] = ()


class Candidate:
    """One promotion: the old release, the updates, and the folder in which the new adapter comes to be."""

    def __init__(
        self,
        parent: Parent,
        chain: list[Link],
        updates: Mapping[str, AnyOffering],
        gathered: Gathered = Gathered(),
    ) -> None:
        self.parent, self.chain, self.gathered = parent, chain, gathered
        self.digests = tuple(sorted(updates))  # in whatever order they are given, the outcome is the same
        self.updates = [updates[digest] for digest in self.digests]
        self.composer, self.plan = parent.composer, parent.plan
        self.old = chain[-1].release
        self.path = self.old.path
        rounds = [gathered.contributions] if gathered.contributions else []
        inputs = json.dumps([chain[-1].digest, self.digests, asdict(self.plan), *rounds])
        self.work = parent.runs / f"release-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"

    @cached_property
    def taught(self) -> list[Taught]:
        """What the children teach, and what of it is held back."""
        return teach(self.parent, self.updates, self.work)

    @cached_property
    def canaries(self) -> AnchorSet:
        """The old release's canaries that no child answers anew (G9): a child may know better, a merge may not."""
        tasks = {row.task for row in (*self.anchors, *self.parent.known(self.path))}
        found = canaries(self.parent, self.composer.load_chain(self.chain), self.chain[-1], tasks)
        return replace(found, rows=undisputed(found.rows, self.answered_alike(found.rows)))

    def answered_alike(self, rows: Sequence[Row]) -> Iterator[list[bool]]:
        """Which rows each child's model answers as they say, and each contribution to the last round, of so many."""
        for update in self.updates:
            if isinstance(update, Update):  # of others no model is here to be asked
                yield right(teacher_of(self.parent, update), rows, self.path)
        for delta in self.gathered.increments[:MAX_ASKED]:
            loaded = self.composer.load_chain(self.chain)  # not minus the one before: of a loud one something is left
            add(loaded, delta)
            yield right(loaded, rows, self.path)

    def own_delta(self) -> Delta | None:
        """The adapter of the release that is to be replaced."""
        return self.composer.delta(self.old.adapter) if self.old.adapter else None

    @cached_property
    def anchors(self) -> list[Row]:
        """The old release's anchor rows. Raises BadData where they contradict each other."""
        if self.old.anchors is None:
            return []
        rows = read_rows(self.composer.blobs.open_verified(self.old.anchors.sha256), MAX_ROWS_BYTES)
        refuse_contradictions(rows, f"the anchors of {self.path}@v{self.old.version}")
        return rows

    def roles(self) -> list[str]:
        """Paths below this one that are enrolled or served here: their roles must keep working when they rebase."""
        place = NodePath.parse(self.path)
        with self.composer.store.read() as session:
            enrolled = session.scalars(select(EnrolmentRow.path).where(EnrolmentRow.state == "active"))
            served = session.scalars(select(HeadRow.path))
            below = {path for path in (*enrolled, *served) if NodePath.parse(path).is_within(place)}
        return sorted(below - {self.path})

    def starts(self) -> list[str]:
        """The rules to merge by, the plan's first; of fewer than two adapters every rule makes much the same."""
        adapters = sum(isinstance(one, Update) for one in self.updates) + len(self.gathered.increments)
        others = [rule for rule in OTHER_STARTS if rule != self.plan.aggregation and adapters > 1]
        return [self.plan.aggregation, *others]

    def merged(self, rule: str) -> Merged:
        """The updates made one by a rule of aggregation, and added to the own adapter."""
        plan = self.plan
        increments = [self.composer.delta(one.adapter) for one in self.updates if isinstance(one, Update)]
        increments += self.gathered.increments
        if not increments:
            delta, error = recompress(self.own_delta() or {}, plan.rank_budget)
            return Merged(delta, error, NOTHING_TO_MERGE)
        return merge(
            self.own_delta(),
            increments,
            plan.rank_budget,
            rule=rule,
            f=plan.aggregation_f,
            grams=lambda: cohort_grams(self.composer.load_chain(self.chain), increments, self.prompts()),
            seed=plan.seed,
        )

    def prompts(self) -> list[list[Example]]:
        """What each child's model is run on where a rule asks what goes into its modules: own rows and the anchors."""
        rng = random.Random(self.plan.seed)  # noqa: S311  a choice that can be repeated, no secret

        def some(rows: Sequence[Row], path: str) -> list[Example]:
            return [Example(row, path) for row in rng.sample(rows, min(len(rows), MAX_GRAM_ROWS))]

        old = some(self.rehearsed(), self.path)
        children = zip(self.updates, self.taught, strict=True)
        return [some(one.lesson.rows, one.path) + old for update, one in children if isinstance(update, Update)]

    def rehearsed(self) -> list[Row]:
        """The anchors that may be trained on.

        What everybody measures with stays unseen, and what a child answers anew is not rehearsed as it was.
        """
        anew = {asked(row) for one in self.taught for row in one.lesson.rows}
        return [row for row in self.anchors if split_of(row) != "test" and asked(row) not in anew]

    @cached_property
    def examples(self) -> list[Example]:
        """What every start is trained on: the lessons and the anchors, as they are asked."""
        lessons = [one.lesson for one in self.taught]
        examples = lessons_as_examples(
            lessons, self.rehearsed(), self.path, self.roles(), seed=self.plan.seed, passes=self.plan.epochs
        )
        return with_choices(examples, choices_of(self.parent, self.updates, self.old.base))

    def train(self, rule: str) -> tuple[Merged, Delta]:
        """Merge by a rule and consolidate; the candidate's own adapter."""
        merged = self.merged(rule)
        result = consolidate(
            self.without_own_adapter(),
            merged.delta,
            self.examples,
            self.plan.consolidation(merged.delta),
            self.work / rule,
            lambda report: self.parent.on_step(self.path, report),
        )
        return merged, result.delta

    def without_own_adapter(self) -> LoadedModel:
        """The model that the path's own adapter is added to."""
        loaded = self.composer.load_chain(self.chain)
        self.take_off(loaded)
        return loaded

    def take_off(self, loaded: LoadedModel) -> None:
        """Take the path's own adapter off the release."""
        own = self.own_delta()
        if own:
            add(loaded, own, by=-1.0)

    def judge(self, delta: Delta) -> Judged:
        """The gate: old knowledge on every anchor set and the canaries, each child's gain on what was held back."""
        loaded = self.composer.load_chain(self.chain)
        sets = [*anchor_sets(self.parent, self.path, self.roles()), *([self.canaries] if self.canaries.rows else [])]
        old = self.chain[-1].digest
        before = [self.parent.right_before(loaded, old, one.rows, one.path) for one in sets]
        gained_before = [self.parent.right_before(loaded, old, one.held, self.path) for one in self.taught]
        self.exchange(loaded, delta)
        claims = [self.expected_gain(digest, one) for digest, one in zip(self.digests, self.updates, strict=True)]
        held = [timed_right(loaded, one.held, self.path) for one in self.taught]
        checks = [
            *loss_checks(sets, before, loaded, self.path, self.plan.max_loss_points),
            *gain_checks(self.taught, claims, gained_before, held, self.plan.min_gain_kept),
        ]
        return Judged(checks, [right for right, _ in held])

    def exchange(self, loaded: LoadedModel, delta: Delta) -> None:
        """Put an adapter in the place of the path's own."""
        self.take_off(loaded)
        add(loaded, delta)

    def expected_gain(self, digest: str, update: AnyOffering) -> float:
        """What an update's sender claims; of a distillation set, what our own model won when it was checked (G4)."""
        if isinstance(update, Update):
            return claimed_gain(update)
        with self.composer.store.read() as session:
            results = results_of(update_row(session, digest))
        return max((one.value for one in results if one.name == LESSON and one.value is not None), default=0.0)

    def release(
        self, merged: Merged, checks: Sequence[CheckResult], held_right: Sequence[Sequence[bool]]
    ) -> tuple[Release, str]:
        """Write the files and the signed release (G6); visible in one transaction together with the updates' states.

        What it answers of the rows that were held back is kept as evidence.
        """
        now = self.parent.now()
        self.work.mkdir(parents=True, exist_ok=True)
        shape = write_adapter(merged.delta, self.work / WEIGHTS_FILE)
        adapter = stored_file(self.composer.blobs, self.work / WEIGHTS_FILE)
        anchors_file = self.work / "anchors.jsonl"
        write_rows(self.new_anchors(merged.delta), anchors_file)
        evaluations = tuple(gate_evaluations(self.path, checks))
        version = self.old.version + 1
        card_file = self.work / "README.md"
        card_file.write_text(self.card(shape, version, evaluations, merged), encoding="utf-8")
        release = Release(
            path=self.path,
            version=version,
            base=self.old.base,
            base_name=self.old.base_name,
            adapter=Adapter(file=adapter, shape=shape),
            above=self.old.above,
            previous=self.chain[-1].digest,
            anchors=stored_file(self.composer.blobs, anchors_file),
            card=stored_file(self.composer.blobs, card_file),
            evaluations=evaluations,
            contributions=(*self.digests, *self.gathered.contributions)[-MAX_CONTRIBUTIONS:],
            recompression_error=merged.error,
            created=now,
            expires=now + timedelta(days=self.plan.release_valid_days),
        )
        link = signed_link(release, self.parent.own.key)
        with self.composer.store.transaction() as session:
            head = session.get(HeadRow, self.path)
            if head is None or head.release != self.chain[-1].digest:
                raise LocalFailure(f"{self.path} got another release meanwhile", "the candidate is made again over it")
            serve(session, link, now, checks)
            for update in self.digests:
                mark(session, update, "released", now, release=link.digest)
            for one, answered in zip(self.taught, held_right, strict=True):
                if one.held:
                    session.add(judged_evidence(self.path, link.digest, one.held, answered, now))
        return release, link.digest

    def clean_up(self) -> None:
        """Remove the work folder, once nothing is left to resume."""
        shutil.rmtree(self.work, ignore_errors=True)

    def new_anchors(self, delta: Delta) -> list[Row]:
        """Old and new prompts with the candidate's own answers: what the nodes below replay from now on.

        The children's share is what they allowed to travel and what was sampled from them, not this node's own
        prompts; the total stays within the plan's number of rows.
        """
        rng = random.Random(self.plan.seed)  # noqa: S311  a choice that can be repeated, no secret
        old = self.anchors
        new = [row for one in self.taught for row in one.may_travel]
        room = self.plan.anchor_rows
        new = rng.sample(new, min(len(new), max(room // 2, room - len(old))))
        old = rng.sample(old, min(len(old), room - len(new)))
        loaded = self.without_own_adapter()
        add(loaded, delta)
        anywhere = [replace(row, lang="", domain="", subdomain="") for row in old + new]  # asked as whoever replays it
        return reanswered(loaded, anywhere, self.path)

    def card(self, shape: AdapterShape, version: int, evaluations: Sequence[Evaluation], merged: Merged) -> str:
        """The model card of the new release."""
        brought = f"{len(self.digests)} checked updates"
        if self.gathered.contributions:
            brought = f"{len(self.gathered.contributions)} checked contributions to federated rounds"
        return render_next_card(
            self.composer.blobs.read(self.old.card.sha256, MAX_CARD_BYTES).decode(),
            Ref(NodePath.parse(self.path), version),
            self.old.base_name,
            evaluations=evaluations,
            summary=f"Version {version} of {self.path}: a LoRA adapter of rank {shape.rank} over {self.old.base_name}.",
            training=f"Merged from {brought} and consolidated on {in_words(self.taught)} and "
            f"on the anchors of version {self.old.version}; recompression error {merged.error:.2g}. "
            f"How they were merged: {merged.rule.reason}.",
        )


def claimed_gain(update: Update) -> float:
    """The largest gain in exact match that an update claims on held-out rows, 0 to 1; 0 where it claims none."""
    gains = [
        claim.metrics["exact_match"] - claim.metrics["exact_match_before"]
        for claim in update.claims
        if {"exact_match", "exact_match_before"} <= claim.metrics.keys()
    ]
    return max([0.0, *gains])


def gate_evaluations(path: str, checks: Sequence[CheckResult]) -> list[Evaluation]:
    """The gate's figures as evaluations that travel with the release."""
    return [
        Evaluation(dataset=check.name, split="gate", rows=0, metrics={"value": check.value}, path=path)
        for check in checks
        if check.value is not None and check.name.startswith("gate.")
    ]
