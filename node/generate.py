"""`node generate`: one greedy answer of the model of a path."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from node.context import Node
from node.models import load
from node.speeds import note_answer
from registry.paths import Ref
from registry.rows import Row
from sync.answers import answer
from sync.prompt import conversation, prompt_text


def generate(node: Node, ref: Ref, text: str, task: str = "", max_new_tokens: int = 256) -> dict[str, object]:
    """Answer one request, asked as the release's path. Raises BadData when it does not fit the model's context."""
    digest, loaded = load(node, ref)
    prompt = prompt_text(loaded.tokenizer, conversation(Row(input=text, output="", task=task), str(ref.path)))
    started = time.monotonic()
    [output] = answer(loaded, [prompt], max_new_tokens)
    tokens = len(loaded.tokenizer(output, add_special_tokens=False)["input_ids"])
    note_answer(node, str(ref.path), tokens, time.monotonic() - started, datetime.now(UTC))
    return {"path": str(ref.path), "release": digest, "input": text, "output": output}
