"""What a fine-tune came to, as the node remembers it: a signed release, the head of its path, the record of the run."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from node.bases import read_manifest
from node.context import Node
from node.footing import Footing
from node.manifest import RunManifest
from node.material import Material
from node.measure import Measured, as_evaluations
from node.preparation import Prepared
from node.speeds import finetuned
from node.training import Scored
from registry.cards import CardFacts, render_card
from registry.documents import Adapter, Evaluation, File, Release, ReleasePin
from registry.evidence import GENERAL, RowsOf, measured
from registry.paths import NodePath, Ref
from registry.store import Session, select
from registry.stored import stored_card, stored_file
from registry.tables import EvidenceRow, RunRow, RunState
from sync.chain import next_version, serve, signed_link
from sync.delta import WEIGHTS_FILE


class Outcome(BaseModel):
    """The end of a run."""

    model_config = ConfigDict(frozen=True)

    release: ReleasePin
    adapter: str
    adapter_bytes: int
    steps: int
    best_epoch: int
    seconds: float
    before: Measured
    after: Measured

    @property
    def gain_points(self) -> float | None:
        """Points of exact match won on own held-out rows."""
        return _points(self.before.own, self.after.own)

    @property
    def forgotten_points(self) -> float | None:
        """Points of exact match lost on the old knowledge."""
        won = _points(self.before.anchors, self.after.anchors)
        return None if won is None else -won

    @property
    def earlier_forgotten_points(self) -> list[float | None]:
        """Points of exact match lost on the rows of each earlier run."""
        pairs = zip(self.before.earlier, self.after.earlier, strict=True)
        return [None if (won := _points(old, new)) is None else -won for old, new in pairs]


def _points(before: object, after: object) -> float | None:
    first, second = getattr(before, "exact_match", None), getattr(after, "exact_match", None)
    return None if first is None or second is None else round(100 * (second - first), 6)


def finished_run(node: Node, footing: Footing, manifest: RunManifest) -> tuple[RunManifest, Outcome] | None:
    """The finished run of the same request, if what it made is the head now: then there is nothing to do again.

    A run stands on the head that it found; its release is the head afterwards, so the same request would stand on
    that. It is the same when it differs in nothing but the ground.
    """
    if footing.start is None:
        return None
    finished = select(RunRow).where(RunRow.path == manifest.path, RunRow.kind == "finetune", RunRow.state == "done")
    with node.store.read() as session:
        rows = list(session.scalars(finished.order_by(RunRow.changed.desc())))
    for row in rows:
        try:
            outcome = Outcome.model_validate_json(row.detail)
        except ValidationError:
            continue
        if outcome.release.digest == footing.start.digest and row.manifest and node.blobs.has(row.manifest):
            earlier = RunManifest.from_bytes(node.blobs.read(row.manifest, 1 << 20))
            if manifest.model_copy(update={"ground": earlier.ground}) == earlier:
                return earlier, outcome
    return None


def note_run(node: Node, manifest: RunManifest, state: RunState, detail: dict[str, object], now: datetime) -> None:
    """Write down where a run is."""
    with node.store.transaction() as session:
        _keep_run(session, manifest, state, json.dumps(detail), adapter=None, now=now)


def _keep_run(
    session: Session, manifest: RunManifest, state: RunState, detail: str, *, adapter: str | None, now: datetime
) -> None:
    row = session.get(RunRow, manifest.run_id)
    if row is None:
        row = RunRow(
            id=manifest.run_id, kind=manifest.kind, path=manifest.path, state="running", created=now, changed=now
        )
        session.add(row)
    row.state = state
    row.manifest, row.adapter, row.detail, row.changed = manifest.digest, adapter, detail, now


def store_result(node: Node, prepared: Prepared, scored: Scored, *, seconds: float, now: datetime) -> Outcome:
    """Store the adapter, then in one transaction the signed release, the head, the figures and the end of the run."""
    footing, manifest, trained = prepared.footing, prepared.manifest, scored.adapter
    file = stored_file(node.blobs, trained.file, WEIGHTS_FILE)
    evaluations = as_evaluations(scored.before, scored.after, manifest.path)
    with node.store.transaction() as session:
        version, previous = next_version(session, footing.path, node.key.public.id)
        card = render_card(_card_facts(node, footing, manifest, Ref(footing.path, version), evaluations))
        release = Release(
            path=manifest.path,
            version=version,
            base=manifest.ground.base,
            base_name=footing.last.release.base_name,
            adapter=Adapter(file=file, shape=trained.shape),
            above=footing.above,
            previous=previous,
            anchors=footing.anchors,
            card=stored_card(node.blobs, card),
            evaluations=evaluations,
            contributions=(),
            recompression_error=trained.recompression_error,
            created=now,
            expires=now + timedelta(days=node.settings.release_valid_days),
        )
        link = signed_link(release, node.key)
        outcome = _outcome(link.pin, file, scored, seconds)
        serve(session, link, now)
        session.add_all(_evidence(manifest, prepared.material, footing.last.digest, scored.before, now))
        session.add_all(_evidence(manifest, prepared.material, link.digest, scored.after, now))
        if speed := finetuned(manifest.path, trained.tokens, trained.tokens_per_s, prepared.memory.total, now):
            session.add(speed)
        _keep_run(session, manifest, "done", outcome.model_dump_json(), adapter=file.sha256, now=now)
    return outcome


def _outcome(release: ReleasePin, file: File, scored: Scored, seconds: float) -> Outcome:
    return Outcome(
        release=release,
        adapter=file.sha256,
        adapter_bytes=file.size,
        steps=scored.adapter.steps,
        best_epoch=scored.adapter.best_epoch,
        seconds=seconds,
        before=scored.before,
        after=scored.after,
    )


def _card_facts(
    node: Node, footing: Footing, manifest: RunManifest, ref: Ref, evaluations: tuple[Evaluation, ...]
) -> CardFacts:
    """What the card says; of the data no more than how many rows there were."""
    plan = manifest.train_plan
    last = footing.last.release
    above = NodePath.parse(footing.above.path) if footing.above else None
    stands_on = f"{last.path}@v{last.version}"
    rehearsed = (
        f"{manifest.replay_rows} rows of old knowledge rehearsed beside them" if manifest.replay_rows else "no replay"
    )
    continued = f" It goes on from the adapter before by {manifest.continuing.method}." if manifest.continuing else ""
    return CardFacts(
        ref=ref,
        title=str(ref),
        languages=ref.path.parts[:1],
        licence=read_manifest(node.blobs, manifest.ground.base).licence,
        base_model=above.hub_id if above else last.base_name,
        relation="adapter",
        library="peft",
        evaluations=evaluations,
        summary=f"Fine-tuned from `{stands_on}` on rows of its owner, which stay where they are.",
        training=(
            f"LoRA of rank {plan.rank} on {', '.join(plan.targets)}; {manifest.data.rows['train']} own training rows, "
            f"{rehearsed}; at most {plan.epochs} epochs, learning rate {plan.learning_rate:g}, seed {plan.seed}."
            f"{continued}"
        ),
        limits="Nobody but its owner has evaluated it; figures are from held-out rows of the same source.",
    )


def _evidence(
    manifest: RunManifest, material: Material, release: str, scored: Measured, now: datetime
) -> list[EvidenceRow]:
    """The figures of one release as rows of this node's evidence. Old knowledge is of every part of the tree."""
    sets = [(RowsOf.of(material.test), scored.own)]
    old = RowsOf.of([example.row for example in material.anchors])
    sets += [(replace(old, domains=(GENERAL,)), scored.anchors)]
    sets += [(RowsOf.of(run.test), figures) for run, figures in zip(material.earlier, scored.earlier, strict=True)]
    return [
        measured(manifest.path, release, of, figures.metrics(), figures.rows, now, machine=str(manifest.machine))
        for of, figures in sets
        if figures
    ]
