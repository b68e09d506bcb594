"""`node evaluate`: how good is the model of a path on a file of rows? The figures are stored as evidence."""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from node.context import Node
from node.datasets import load as load_rows
from node.models import load
from registry.evidence import RowsOf, measured
from registry.paths import Ref
from sync.score import evaluate_rows


def evaluate(
    node: Node, ref: Ref, data: Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, object]:
    """Score a release on rows `input, output` (and `task`, if they have one), asked as its path.

    Raises BadData for a file that cannot be read as rows, LocalFailure when the release is not here.
    """
    rows = load_rows(data)
    digest, loaded = load(node, ref)
    scores, right = evaluate_rows(loaded, rows, str(ref.path), on_progress)
    machine = platform.processor() or platform.machine()
    now = datetime.now(UTC)
    of = RowsOf.of(rows)
    with node.store.transaction() as session:
        session.add(
            measured(str(ref.path), digest, of, scores.metrics(), scores.rows, now, machine=machine, right=right)
        )
    return {"path": str(ref.path), "release": digest, "data": str(data), "rows": scores.rows, **scores.metrics()}
