"""What a candidate learns from its children, and what of it is held back to judge the candidate with.

Every child is a teacher (G10): its model is the release that its update builds on, with the update's adapter. The
prompts that it answers come from, in this order and up to the plan's number: the transfer set that the child let
travel; prompts of this node's own, each given to the child that is surest of its answer; prompts sampled from the
child's model. All of it lies in the candidate's work folder, so that a candidate that was killed goes on with the same.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from registry.documents import AnyOffering, BaseManifest, Distillation, Update
from registry.envelope import MAX_ENVELOPE_BYTES
from registry.errors import LocalFailure
from registry.paths import NodePath
from registry.rows import Asked, Row, asked, contradictions, read_rows, write_rows
from registry.taught import TopTokens
from sync.consolidate import Lesson
from sync.distil import tokenizer_of
from sync.model import LoadedModel, add
from sync.parent import MAX_JUDGED_ROWS, Parent
from sync.sampled import LEAST_SURE, sampled
from sync.score import answered, evaluate_rows
from sync.travelled import MAX_ROWS_BYTES, travelled

Source = Literal["travelled", "own", "sampled"]

HELD_BACK: Final = 0.1  # part of a child's rows that the candidate is judged on and not trained on
NOTE: Final = "lessons.json"  # written last: with it, everything is there


@dataclass(frozen=True, slots=True)
class Taught:
    """What one child teaches, by where its prompts came from, and what of it is held back.

    `held_right` says which of the held rows the child's own model answers so, asked as the child.
    """

    path: str
    rows: Mapping[Source, Sequence[Row]]
    held: Sequence[Row]
    held_right: Sequence[bool]

    @property
    def lesson(self) -> Lesson:
        """All rows to learn from."""
        return Lesson(self.path, [row for rows in self.rows.values() for row in rows])

    @property
    def may_travel(self) -> list[Row]:
        """Those whose prompts may go on to others: what the child let travel, and what no person wrote."""
        return [*self.rows["travelled"], *self.rows["sampled"]]


def divided(parent: Parent, update: AnyOffering) -> tuple[list[Row], list[Row]]:
    """A child's rows: most to learn from, some held back to judge with; the same at every call."""
    return split([one.row for one in travelled(parent.composer.blobs, update)], parent.plan.seed)


def choices_of(parent: Parent, updates: Sequence[AnyOffering], base: str) -> dict[Row, tuple[TopTokens, ...]]:
    """What teachers with the tokenizer of our base might have said instead, by the row."""
    ours = tokenizer_of(base_of(parent, base))
    told = [one for one in updates if isinstance(one, Distillation) and one.top and one.tokenizer == ours]
    return {one.row: one.top for update in told for one in travelled(parent.composer.blobs, update)}


def base_of(parent: Parent, digest: str) -> BaseManifest:
    """The manifest of a base that is here."""
    return BaseManifest.from_bytes(parent.composer.blobs.read(digest, MAX_ENVELOPE_BYTES))


def split(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and rows to judge with; the same at every call."""
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)  # noqa: S311  a choice that can be repeated, no secret
    held = min(round(len(mixed) * HELD_BACK), MAX_JUDGED_ROWS)
    return mixed[held:], mixed[:held]


def teach(parent: Parent, updates: Sequence[AnyOffering], work: Path) -> list[Taught]:
    """What every update teaches: made once, then read from the work folder.

    What two children answer differently teaches nothing and judges nobody: it is left out.
    """
    if not (work / NOTE).exists():
        work.mkdir(parents=True, exist_ok=True)
        _write(
            _agreed([_drawn(parent, update, own) for update, own in _assigned(parent, updates)]), parent, updates, work
        )
    facts = json.loads((work / NOTE).read_text(encoding="utf-8"))
    return [
        Taught(
            update.path,
            {source: _rows(work, number, source) for source in ("travelled", "own", "sampled")},
            _rows(work, number, "held"),
            fact["held_right"],
        )
        for number, (update, fact) in enumerate(zip(updates, facts, strict=True))
    ]


def in_words(taught: Sequence[Taught]) -> str:
    """How many prompts came from where."""
    words: dict[Source, str] = {
        "travelled": "that travelled",
        "own": "of this node",
        "sampled": "sampled from the children's models",
    }
    found = {what: sum(len(one.rows[source]) for one in taught) for source, what in words.items()}
    return ", ".join(f"{count} prompts {what}" for what, count in found.items() if count) or "no prompts"


def teacher_of(parent: Parent, update: Update) -> LoadedModel:
    """The child's own model."""
    loaded = parent.composer.load(update.release.digest)
    add(loaded, parent.composer.delta(update.adapter))
    return loaded


def _assigned(parent: Parent, updates: Sequence[AnyOffering]) -> list[tuple[AnyOffering, list[Row]]]:
    """The node's own prompts with an answer, each at the child that is surest of it, if any is."""
    prompts = parent.own_prompts(NodePath.parse(updates[0].release.path)) if updates else []
    best: dict[Asked, tuple[float, int, Row]] = {}
    if prompts and parent.plan.prompts:
        for number, update in enumerate(updates):
            if not isinstance(update, Update):  # whose model is not here
                continue
            for row, sure in answered(teacher_of(parent, update), prompts, update.path):
                if sure >= max(LEAST_SURE, best.get(asked(row), (0.0, 0, row))[0]):
                    best[asked(row)] = (sure, number, row)
    chosen = list(best.values())
    return [(update, [row for _, which, row in chosen if which == number]) for number, update in enumerate(updates)]


def _drawn(parent: Parent, update: AnyOffering, own: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of one lesson by their source, and those held back."""
    brought, held = divided(parent, update)
    room = max(0, parent.plan.prompts - len(brought) - len(held))
    own, own_held = split(own[:room], parent.plan.seed)
    room -= len(own) + len(own_held)
    known = [*brought, *held, *own, *own_held]
    said: list[Row] = []
    if room and isinstance(update, Update):
        said = sampled(teacher_of(parent, update), update.path, room, parent.plan.seed, known=known)
    said, said_held = split(said, parent.plan.seed)
    return {"travelled": brought, "own": own, "sampled": said, "held": [*held, *own_held, *said_held]}


def _agreed(drawn: Sequence[dict[str, list[Row]]]) -> list[dict[str, list[Row]]]:
    """The same without what is answered in two ways."""
    disputed = contradictions(row for parts in drawn for rows in parts.values() for row in rows)
    return [{name: [r for r in rows if asked(r) not in disputed] for name, rows in parts.items()} for parts in drawn]


def _write(drawn: Sequence[dict[str, list[Row]]], parent: Parent, updates: Sequence[AnyOffering], work: Path) -> None:
    facts = []
    for number, (update, parts) in enumerate(zip(updates, drawn, strict=True)):
        for name, rows in parts.items():
            write_rows(rows, _file(work, number, name))
        right = _teacher_right(parent, update, parts["held"])
        facts.append({"held_right": right})
    partial = work / f"{NOTE}.partial"
    try:
        partial.write_text(json.dumps(facts), encoding="utf-8")
        partial.replace(work / NOTE)
    except OSError as error:
        raise LocalFailure(f"cannot write {work / NOTE}: {error.strerror}", "node doctor") from error


def _teacher_right(parent: Parent, update: AnyOffering, held: Sequence[Row]) -> list[bool]:
    """Which rows the child's own model answers so; of a distillation set, whose model is elsewhere, all."""
    if isinstance(update, Distillation):
        return [True] * len(held)
    return evaluate_rows(teacher_of(parent, update), held, update.path)[1] if held else []


def _rows(work: Path, number: int, name: str) -> list[Row]:
    return read_rows(_file(work, number, name), MAX_ROWS_BYTES)


def _file(work: Path, number: int, name: str) -> Path:
    return work / f"lesson-{number}-{name}.jsonl"
