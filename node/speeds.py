"""How fast this machine was and in how much memory, kept; and what that says of the speeds that are estimated for it.

A factor holds for the machine that it was measured on alone. Of a small model most of a token's time is not the reading
of its weights, so its speed says nothing of larger ones: it does not count.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from datetime import datetime
from typing import Final

from node.context import Node
from recommender.fits import fits_of
from recommender.hardware import Machine, this_machine
from recommender.index import Index
from recommender.speed import own_factor, shipped_constants
from registry.store import select
from registry.tables import SpeedRow

LEAST_TOKENS: Final = 16  # of an answer; a shorter one is mostly its beginning
MOST_ROWS: Final = 1_000  # the newest
READING_SHARE: Final = 0.5  # of the estimated time of a token, at least, must be the reading of weights


def note_answer(node: Node, path: str, tokens: int, seconds: float, now: datetime) -> None:
    """Keep how fast one request was answered alone; one that is too short to tell is left out."""
    if tokens < LEAST_TOKENS or seconds <= 0:
        return
    row = SpeedRow(kind="generate", model=path, tokens=tokens, seconds=seconds, machine=machine_id(), created=now)
    with node.store.transaction() as session:
        session.add(row)


def finetuned(path: str, tokens: int, tokens_per_s: float, estimated_bytes: int, now: datetime) -> SpeedRow | None:
    """A fine-tune's speed, and its peak of memory beside what was estimated; None where nothing was trained now."""
    if not tokens or tokens_per_s <= 0:
        return None
    return SpeedRow(
        kind="finetune",
        model=path,
        tokens=tokens,
        seconds=tokens / tokens_per_s,
        peak_bytes=peak_bytes(),
        estimated_bytes=estimated_bytes,
        machine=machine_id(),
        created=now,
    )


def own_speed(node: Node, index: Index, machine: Machine) -> tuple[float, int]:
    """How much faster than estimated this machine answered, and by how many answers; (1, 0) for another machine."""
    if not _is_this(machine):
        return 1.0, 0
    newest = select(SpeedRow).where(SpeedRow.kind == "generate", SpeedRow.machine == machine_id())
    with node.store.read() as session:
        rows = list(session.scalars(newest.order_by(SpeedRow.id.desc()).limit(MOST_ROWS)))
    if not rows:
        return 1.0, 0
    places = {one.id: place for place, one in enumerate(index.columns.candidates) if one.source == "tree"}
    estimated = fits_of(index.forms, machine, context_tokens=None, least_tokens_per_s=None).tokens_per_s
    fastest = (1 - READING_SHARE) / shipped_constants().fixed_s
    pairs = [
        (row.tokens / row.seconds, float(estimated[places[row.model]]))
        for row in rows
        if row.model in places and estimated[places[row.model]] <= fastest
    ]
    return own_factor(pairs), len(pairs)


def machine_id() -> str:
    """What tells this machine from another on which the same home was before."""
    return f"{platform.node()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def peak_bytes() -> int:
    """The most memory that this process ever had; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _is_this(machine: Machine) -> bool:
    here = this_machine()
    return (machine.name, machine.bandwidth_gb_s) == (here.name, here.bandwidth_gb_s)
