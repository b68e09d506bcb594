"""One candidate for a release: merge → consolidate → gate → release.

Everything that takes long happens in a work folder whose name follows from the inputs, so a killed promotion goes on
where it was; the release, the head and the updates' states change in one transaction. Which updates are in it, and
what becomes of them when the gate refuses, is left to `sync.promote`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

from registry.cards import MAX_CARD_BYTES, CardFacts, parse_card, render_card
from registry.documents import Adapter, AdapterShape, CheckResult, Evaluation, File, Release, Update
from registry.errors import LocalFailure
from registry.paths import NodePath, Ref
from registry.rows import Row, read_rows, split_of, write_rows
from registry.store import select
from registry.tables import EnrolmentRow, HeadRow
from sync.chain import Link, serve, signed_link
from sync.consolidate import Lesson, Merged, consolidate, lessons_as_examples, merge
from sync.delta import WEIGHTS_FILE, Delta, write_adapter
from sync.gate import check_gain, check_loss
from sync.lifecycle import mark
from sync.model import LoadedModel, add
from sync.parent import MAX_JUDGED_ROWS, Parent
from sync.score import evaluate_rows, reanswered
from sync.train import TrainPlan

MAX_ROWS_BYTES = 64 << 20
HELD_BACK = 0.1  # part of every transfer set that the candidate is judged on and not trained on


class Candidate:
    """One promotion: the old release, the updates, and the folder in which the new adapter comes to be."""

    def __init__(self, parent: Parent, chain: list[Link], updates: Mapping[str, Update]) -> None:
        self.parent, self.chain = parent, chain
        self.digests = tuple(sorted(updates))  # in whatever order they are given, the outcome is the same
        self.updates = [updates[digest] for digest in self.digests]
        self.composer, self.plan = parent.composer, parent.plan
        self.old = chain[-1].release
        self.path = self.old.path
        inputs = json.dumps([chain[-1].digest, self.digests, asdict(self.plan)])
        self.work = parent.runs / f"release-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
        parts = [divided(parent, update) for update in self.updates]
        self.lessons = [Lesson(update.path, lesson) for update, (lesson, _) in zip(self.updates, parts, strict=True)]
        self.judged = [held for _, held in parts]

    def own_delta(self) -> Delta | None:
        """The adapter of the release that is to be replaced."""
        return self.composer.delta(self.old.adapter) if self.old.adapter else None

    def anchors(self) -> list[Row]:
        """The old release's anchor rows."""
        if self.old.anchors is None:
            return []
        return read_rows(self.composer.blobs.open_verified(self.old.anchors.sha256), MAX_ROWS_BYTES)

    def roles(self) -> list[str]:
        """Paths below this one whose keys are enrolled: their roles must keep working when they rebase."""
        place = NodePath.parse(self.path)
        with self.composer.store.read() as session:
            rows = session.scalars(select(EnrolmentRow.path).where(EnrolmentRow.state == "active"))
            return sorted({path for path in rows if NodePath.parse(path).is_within(place)})

    def train(self) -> tuple[Merged, Delta]:
        """Merge and consolidate; the candidate's own adapter."""
        increments = [self.composer.delta(update.adapter) for update in self.updates]
        merged = merge(self.own_delta(), increments, self.plan.rank_budget)
        rehearsed = [
            row for row in self.anchors() if split_of(row) != "test"
        ]  # what everybody measures with stays unseen
        examples = lessons_as_examples(
            self.lessons, rehearsed, self.path, self.roles(), seed=self.plan.seed, passes=self.plan.epochs
        )
        rank = max(factor.rank for factor in merged.delta.values())
        plan = TrainPlan(
            rank=rank,
            alpha=float(rank),
            epochs=1,
            learning_rate=self.plan.learning_rate,
            batch_tokens=self.plan.batch_tokens,
            seed=self.plan.seed,
        )
        above = self.without_own_adapter()
        result = consolidate(
            above, merged.delta, examples, plan, self.work, lambda report: self.parent.on_step(self.path, report)
        )
        return merged, result.delta

    def without_own_adapter(self) -> LoadedModel:
        """The model that the path's own adapter is added to."""
        loaded = self.composer.load_chain(self.chain)
        own = self.own_delta()
        if own:
            add(loaded, own, by=-1.0)
        return loaded

    def judge(self, delta: Delta) -> list[CheckResult]:
        """The gate: old knowledge on hidden rows, each child's gain on rows that were held back."""
        known = self.parent.known(self.path)
        loaded = self.composer.load_chain(self.chain)
        before = self.parent.right_before(loaded, self.chain[-1].digest, known, self.path)
        before_gain = [self.right(loaded, rows) for rows in self.judged]
        own = self.own_delta()
        if own:
            add(loaded, own, by=-1.0)
        add(loaded, delta)
        started = time.monotonic()
        checks = [check_loss("gate.known", before, self.right(loaded, known), self.plan.max_loss_points)]
        gains = zip(self.updates, self.judged, before_gain, strict=True)
        for number, (update, rows, old_right) in enumerate(gains, 1):
            checks.append(
                check_gain(
                    f"gate.gain-{number}",
                    old_right,
                    self.right(loaded, rows),
                    claimed_gain(update),
                    self.plan.min_gain_kept,
                )
            )
        cost = (time.monotonic() - started) * 1000 / len(checks)
        return [check.model_copy(update={"cost_ms": cost}) for check in checks]

    def right(self, loaded: LoadedModel, rows: Sequence[Row]) -> list[bool]:
        """Which rows the model answers as expected, asked as this path."""
        return evaluate_rows(loaded, rows, self.path)[1] if rows else []

    def release(self, delta: Delta, merged: Merged, checks: Sequence[CheckResult]) -> tuple[Release, str]:
        """Write the files and the signed release (G6); visible in one transaction together with the updates' states."""
        now = self.parent.now()
        self.work.mkdir(parents=True, exist_ok=True)
        shape = write_adapter(delta, self.work / WEIGHTS_FILE)
        adapter = self.file(self.work / WEIGHTS_FILE)
        anchors_file = self.work / "anchors.jsonl"
        write_rows(self.new_anchors(delta), anchors_file)
        evaluations = tuple(gate_evaluations(self.path, checks))
        version = self.old.version + 1
        card_file = self.work / "README.md"
        card_file.write_text(self.card(shape, version, evaluations, merged.error), encoding="utf-8")
        release = Release(
            path=self.path,
            version=version,
            base=self.old.base,
            base_name=self.old.base_name,
            adapter=Adapter(file=adapter, shape=shape),
            above=self.old.above,
            previous=self.chain[-1].digest,
            anchors=self.file(anchors_file),
            card=self.file(card_file),
            evaluations=evaluations,
            contributions=self.digests,
            recompression_error=merged.error,
            created=now,
            expires=now + timedelta(days=self.plan.release_valid_days),
        )
        link = signed_link(release, self.parent.own.key)
        with self.composer.store.transaction() as session:
            head = session.get(HeadRow, self.path)
            if head is None or head.release != self.chain[-1].digest:
                raise LocalFailure(f"{self.path} got another release meanwhile", "the candidate is made again over it")
            serve(session, link, now)
            for update in self.digests:
                mark(session, update, "released", now, release=link.digest)
        return release, link.digest

    def clean_up(self) -> None:
        """Remove the work folder, once nothing is left to resume."""
        shutil.rmtree(self.work, ignore_errors=True)

    def file(self, path: Path) -> File:
        """Put a file among the blobs and describe it."""
        return File(name=path.name, size=path.stat().st_size, sha256=self.composer.blobs.put_file(path))

    def new_anchors(self, delta: Delta) -> list[Row]:
        """Old and new prompts with the candidate's own answers: what the nodes below replay from now on.

        The children's share is what they allowed to travel; the total stays within the plan's number of rows.
        """
        rng = random.Random(self.plan.seed)  # noqa: S311  a choice that can be repeated, no secret
        old = self.anchors()
        new = [row for lesson in self.lessons for row in lesson.rows]
        room = self.plan.anchor_rows
        new = rng.sample(new, min(len(new), max(room // 2, room - len(old))))
        old = rng.sample(old, min(len(old), room - len(new)))
        loaded = self.without_own_adapter()
        add(loaded, delta)
        anywhere = [replace(row, lang="", domain="", subdomain="") for row in old + new]  # asked as whoever replays it
        return reanswered(loaded, anywhere, self.path)

    def card(self, shape: AdapterShape, version: int, evaluations: Sequence[Evaluation], error: float) -> str:
        """The model card of the new release."""
        old = parse_card(self.composer.blobs.read(self.old.card.sha256, MAX_CARD_BYTES).decode())
        facts = CardFacts(
            ref=Ref(NodePath.parse(self.path), version),
            title=self.path,
            languages=old.languages,
            licence=old.licence or "Apache-2.0",
            base_model=self.old.base_name,
            relation="adapter",
            library="peft",
            evaluations=tuple(evaluations),
            summary=f"Version {version} of {self.path}: a LoRA adapter of rank {shape.rank} over {self.old.base_name}.",
            training=f"Merged from {len(self.digests)} checked updates and consolidated on their transfer rows and "
            f"on the anchors of version {self.old.version}; recompression error {error:.2g}.",
        )
        return render_card(facts)


def divided(parent: Parent, update: Update) -> tuple[list[Row], list[Row]]:
    """A child's transfer rows: most to learn from, some held back to judge with; the same at every call."""
    if update.transfer is None:
        return [], []
    rows = read_rows(parent.composer.blobs.open_verified(update.transfer.sha256), MAX_ROWS_BYTES)
    random.Random(parent.plan.seed).shuffle(rows)  # noqa: S311  a choice that can be repeated, no secret
    held = min(round(len(rows) * HELD_BACK), MAX_JUDGED_ROWS)
    return rows[held:], rows[:held]


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
        if check.value is not None
    ]
