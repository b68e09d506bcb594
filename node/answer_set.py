"""Distillation sets: what a graft tells a parent whose base is another (PROTOCOL U14).

The same consent as for a transfer set (`node.transfer`): prompts that their owner lets travel, with this node's own
answers and never with the owner's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.bases import read_manifest
from node.context import Node
from registry.documents import File, ReleasePin
from registry.errors import BadData
from registry.paths import Ref
from registry.rows import Row
from registry.stored import stored_file
from registry.taught import write_taught
from sync.chain import stored_chain

ANSWERS_NAME: Final = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The file as it will travel, its rows, and what its log-probabilities are of; None and 0 where it has none."""

    file: File
    rows: tuple[Row, ...]
    tokenizer: str | None
    top: int


def make_answers(node: Node, ref: Ref, above: ReleasePin, rows: Sequence[Row]) -> AnswerSet:
    """Ask this node's own model of `ref` and store its answers; with log-probabilities where `above` can use them.

    Raises BadData when no prompt has an answer.
    """
    from node.models import load
    from sync.distil import teach, tokenizer_of

    digest, loaded = load(node, ref)
    bases = [stored_chain(node.store, node.blobs, release)[0].release.base for release in (digest, above.digest)]
    ours, theirs = (tokenizer_of(read_manifest(node.blobs, base)) for base in bases)
    top = node.settings.distillation_top if ours is not None and ours == theirs else 0
    taught = teach(loaded, rows, str(ref.path), top)
    if not taught:
        raise BadData("none of the chosen prompts has an answer", "choose other prompts")
    with tempfile.TemporaryDirectory(dir=node.home.partial) as folder:
        file = Path(folder, ANSWERS_NAME)
        write_taught(taught, file)
        stored = stored_file(node.blobs, file)
    return AnswerSet(stored, tuple(one.row for one in taught), ours if top else None, top)
