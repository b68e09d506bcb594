"""`node evaluate`: how good is the model of a path on a file of rows? The figures are stored as evidence."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from node.context import Node
from node.datasets import load as load_rows
from node.models import load
from registry.paths import Ref
from registry.tables import EvaluationRow
from sync.score import evaluate as score


def evaluate(
    node: Node, ref: Ref, data: Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, object]:
    """Score a release on rows `input, output` (and `task`, if they have one), asked as its path.

    Raises BadData for a file that cannot be read as rows, LocalFailure when the release is not here.
    """
    rows = load_rows(data)
    digest, loaded = load(node, ref)
    scores = score(loaded, rows, str(ref.path), on_progress)
    with data.open("rb") as stream:
        dataset = hashlib.file_digest(stream, "sha256").hexdigest()
    with node.store.transaction() as session:
        session.add(
            EvaluationRow(
                release=digest,
                path=str(ref.path),
                dataset=dataset,
                metrics=json.dumps(scores.metrics()),
                rows=scores.rows,
                seconds=scores.seconds,
                machine=platform.processor() or platform.machine(),
                created=datetime.now(UTC),
            )
        )
    return {"path": str(ref.path), "release": digest, "data": str(data), "rows": scores.rows, **scores.metrics()}
