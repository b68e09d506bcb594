"""Transfer sets: prompts that their owner lets travel, each with the node's own model's answer (PROTOCOL U9, U10).

Nothing is chosen here without being asked for, and no answer that the owner wrote is in it. Showing the rows before
they go, and sending them, is left to `publish`.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from node.context import Node
from registry.documents import File
from registry.errors import BadData, LocalFailure
from registry.paths import Ref
from registry.rows import Row, asked, read_rows, write_rows
from registry.stored import stored_file
from registry.tables import RunRow

TRANSFER_NAME: Final = "transfer.jsonl"
TRAINING_ROWS: Final = "train.jsonl"  # in the folder of a fine-tuning run: the rows that it trained on


@dataclass(frozen=True, slots=True)
class TransferSet:
    """The file as it will travel, and its rows."""

    file: File
    rows: tuple[Row, ...]


def chosen_rows(file: Path, node: Node) -> list[Row]:
    """The prompts of a file that the owner wrote, each once.

    Raises BadData when it is not such a file or has too many rows.
    """
    try:
        rows = only_prompts(read_rows(file, node.settings.max_update_bytes))
    except BadData as error:
        raise BadData(error.message, error.hint or "each line is a JSON object with input and output") from error
    return bounded(rows, node, str(file))


def training_prompts(node: Node, run: RunRow, count: int) -> list[Row]:
    """`count` prompts of a run's training rows; the same ones every time.

    Raises LocalFailure when the rows are no longer here, BadData when there are fewer.
    """
    file = node.home.runs / run.id / TRAINING_ROWS
    if not file.is_file():
        raise LocalFailure(f"the training rows of run {run.id} are not here: {file}", "use --transfer-set FILE")
    rows = only_prompts(read_rows(file, 1 << 32))
    if count > len(rows):
        raise BadData(f"{count} prompts were asked for, the run had {len(rows)}", f"--transfer-rows {len(rows)}")
    picked = random.Random(run.id).sample(rows, count)  # noqa: S311 - a choice that can be repeated, no secret
    return bounded(picked, node, "the choice")


def only_prompts(rows: Sequence[Row]) -> list[Row]:
    """What rows ask, each once; their groups stay here, their answers are but a guess at the model's own."""
    return list({asked(row): replace(row, group="") for row in rows}.values())


def make_transfer(node: Node, ref: Ref, rows: Sequence[Row]) -> TransferSet:
    """Give each row the answer of this node's own model of `ref`, and store the file.

    An answer that the row brings travels only where the model gives the very same; then nothing is generated.
    Rows that the model has no answer for stay behind; BadData when none is left.
    """
    answered = _answered(node, ref, rows)
    if not answered:
        raise BadData("none of the chosen prompts has an answer", "choose other prompts")
    with tempfile.TemporaryDirectory(dir=node.home.partial) as folder:
        file = Path(folder, TRANSFER_NAME)
        write_rows(answered, file)
        stored = stored_file(node.blobs, file)
    return TransferSet(stored, tuple(answered))


def _answered(node: Node, ref: Ref, rows: Sequence[Row]) -> list[Row]:
    from node.models import load
    from sync.score import reanswered

    _, loaded = load(node, ref)
    return reanswered(loaded, rows, str(ref.path))


def bounded(rows: list[Row], node: Node, what: str) -> list[Row]:
    """The rows. Raises BadData when more than may travel."""
    most = node.settings.max_transfer_rows
    if len(rows) > most:
        raise BadData(f"{what} has {len(rows)} rows, at most {most} may travel", "choose fewer")
    return rows
