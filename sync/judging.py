"""Judging a candidate: the sets of rows that a release must not lose, and the gain that it must keep (G3, G4, G9).

Rows of the place itself and of every place above it are asked as the place; rows of a place below it as that place,
because whoever rebases plays that role. Canaries are prompts that the old release says to itself: they cost no rows,
and nobody without this node's key can tell which they are. What the figures must be is left to `sync.gate`.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from registry.documents import CheckResult
from registry.evidence import RowsOf, measured
from registry.paths import NodePath
from registry.rows import Row, refuse_contradictions
from registry.tables import EvidenceRow
from sync.chain import Link
from sync.gate import check_gain, check_loss
from sync.lessons import Taught
from sync.model import LoadedModel
from sync.parent import MAX_JUDGED_ROWS, Parent
from sync.sampled import sampled
from sync.score import evaluate_rows

KNOWN: Final = "gate.known"
CANARIES: Final = "gate.canaries"
GAIN: Final = "gate.gain"
CANARY_SURE: Final = 0.9
# Points of canaries that may change: of such prompts, which no person wrote, honest merges that lost 1.5 points of what
# people ask changed 6 to 15 (ARCHITECTURE.md, decision 130); what destroys a model changes most of them.
CANARY_POINTS: Final = 10.0
# Of the canaries, that a child answers as before: whose model changes more of them is no child that knows better, and a
# lie among federated contributions must not empty the set that it would fail (ARCHITECTURE.md, decision 131).
LEAST_ALIKE: Final = 1 / 3
MAX_NAME_CHARS: Final = 60
MAX_PLACES: Final = 64  # a verdict has room for 200 checks


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """Rows that must not be lost: the check that says so, and the path that they are asked as."""

    name: str
    path: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the gate says of a candidate, and which of each child's held rows the candidate answers."""

    checks: list[CheckResult]
    held_right: list[list[bool]]


def anchor_sets(parent: Parent, path: str, roles: Iterable[str]) -> list[AnchorSet]:
    """The sets of a place, those of the places above it and below it that have rows here; its own first.

    Raises BadData where the rows of a place contradict each other.
    """
    here = NodePath.parse(path)
    places = [(str(place), path) for place in reversed(here.chain())]
    places += [(role, role) for role in roles if role != path]
    sets = []
    for place, asked_as in places[:MAX_PLACES]:
        rows = parent.known_rows(NodePath.parse(place))
        refuse_contradictions(rows, f"what is known of {place}")
        if rows:
            sets.append(AnchorSet(check_name(place), asked_as, rows[:MAX_JUDGED_ROWS]))
    return sets


def check_name(place: str) -> str:
    """The name of the check on the rows of a place: `gate.known.en.finance`; a long one ends with a digest."""
    name = f"{KNOWN}.{place.replace('/', '.')}".lower()
    if len(name) <= MAX_NAME_CHARS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME_CHARS - len(digest) - 1]}-{digest}"


def canaries(parent: Parent, loaded: LoadedModel, link: Link, tasks: Iterable[str]) -> AnchorSet:
    """Prompts that a release says to itself as its path, with answers that it is sure of (G9).

    They are the same at every call and hidden from others: the draw follows from a signature of this node's key, so
    they are kept nowhere and cannot be made elsewhere.
    """
    secret = parent.own.key.ed25519.sign(f"banyan canaries of {link.digest}".encode())
    seed = int.from_bytes(hashlib.sha256(secret).digest()[:7], "big")
    named = sorted(set(tasks)) or [""]
    path = link.release.path
    return AnchorSet(CANARIES, path, sampled(loaded, path, parent.plan.canaries, seed, named, least_sure=CANARY_SURE))


def undisputed(rows: Sequence[Row], says: Iterable[Sequence[bool]]) -> list[Row]:
    """The canaries that no child answers anew (G9); `says`: which of them each child answers as before."""
    counted = [same for same in says if sum(same) >= LEAST_ALIKE * len(same)]
    return [row for at, row in enumerate(rows) if all(same[at] for same in counted)]


def right(loaded: LoadedModel, rows: Sequence[Row], path: str) -> list[bool]:
    """Which rows the model answers as expected."""
    return evaluate_rows(loaded, rows, path)[1] if rows else []


def loss_checks(
    sets: Sequence[AnchorSet], before: Sequence[Sequence[bool]], loaded: LoadedModel, path: str, max_points: float
) -> list[CheckResult]:
    """Old knowledge (G3, G9): all rows asked as the path together, then every set by itself."""
    timed = [timed_right(loaded, one.rows, one.path) for one in sets]
    lines = [
        check_loss(one.name, old, new, max(max_points, CANARY_POINTS if one.name == CANARIES else 0.0), cost)
        for one, old, (new, cost) in zip(sets, before, timed, strict=True)
    ]
    own = [number for number, one in enumerate(sets) if one.path == path and one.name != CANARIES]
    together = check_loss(
        KNOWN,
        [row for number in own for row in before[number]],
        [row for number in own for row in timed[number][0]],
        max_points,
        sum(timed[number][1] for number in own),
    )
    return [together, *(line for number, line in enumerate(lines) if number not in own or len(own) > 1)]


def timed_right(loaded: LoadedModel, rows: Sequence[Row], path: str) -> tuple[list[bool], float]:
    """Which rows the model answers as expected, and the milliseconds that it took."""
    started = time.monotonic()
    return right(loaded, rows, path), (time.monotonic() - started) * 1000


def gain_checks(
    taught: Sequence[Taught],
    claims: Sequence[float],
    before: Sequence[Sequence[bool]],
    after: Sequence[tuple[Sequence[bool], float]],
    min_kept: float,
) -> list[CheckResult]:
    """New knowledge (G4): of every child, what its claim and its own model on the held rows both say that it gained.

    `before` and `after` are the old release and the candidate on those rows, `after` with the milliseconds it took.
    """
    lines = zip(taught, claims, before, after, strict=True)
    return [
        check_gain(f"{GAIN}-{number}", old, new, one.held_right, claimed, min_kept, cost)
        for number, (one, claimed, old, (new, cost)) in enumerate(lines, 1)
    ]


def judged_evidence(path: str, release: str, rows: Sequence[Row], right: Sequence[bool], now: datetime) -> EvidenceRow:
    """What a new release answers of the rows that a child's knowledge was judged with."""
    metrics = {"exact_match": sum(right) / len(rows)}
    machine = platform.machine()
    return measured(path, release, RowsOf.of(rows), metrics, len(rows), now, machine=machine, right=right)
