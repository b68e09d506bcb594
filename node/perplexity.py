"""How well a served model predicts a text: perplexity, and bits per byte, which models of any tokenizer share.

The text is read in windows that overlap by half, so that every token but those of a document's first window has at
least half a window before it (https://huggingface.co/docs/transformers/perplexity). The engine itself is measured, with
its adapters, device and arithmetic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.engine.requests import Generation
from node.engine.sampling import SamplingParams
from node.serving.models import Served
from node.serving.translation import translated
from registry.errors import BadData, LocalFailure

MAX_FILE_BYTES: Final = 64 << 20
WINDOW_TOKENS: Final = 1_024  # the logits of a longer one would fill the memory of a small machine


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was predicted and at which cost. A first token that nothing stands before is not counted."""

    documents: int
    tokens: int
    bytes: int
    nats: float

    @property
    def perplexity(self) -> float:
        """Exp of the mean cost of a token."""
        return math.exp(min(self.nats / self.tokens, 700.0)) if self.tokens else 1.0

    @property
    def bits_per_byte(self) -> float:
        """Bits to write down a byte of the text."""
        return self.nats / math.log(2) / self.bytes if self.bytes else 0.0


def read_documents(file: Path) -> list[str]:
    """The texts of a file: each line's `text` of a .jsonl file, the whole of any other. Raises BadData."""
    try:
        with file.open("rb") as source:
            data = source.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise LocalFailure(f"{file} cannot be read: {error.strerror}", f"check it: ls -l {file}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadData(f"{file} is larger than {MAX_FILE_BYTES:,} bytes", "measure a part of it")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadData(f"{file} is not UTF-8 at byte {error.start}", "convert it with iconv") from error
    documents = [text] if file.suffix.lower() != ".jsonl" else list(_texts(file, text))
    found = [document for document in documents if document.strip()]
    if not found:
        raise BadData(f"{file} holds no text", 'write text, or lines of JSONL such as {"text": "..."}')
    return found


def _texts(file: Path, lines: str) -> Iterator[str]:
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{file}, line {number} is not JSON: {error}", "write one object in each line") from error
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise BadData(f"{file}, line {number} has no text", "rows with input and output: node evaluate")
        yield value["text"]


async def predict(
    served: Served, documents: Sequence[str], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Predicted:
    """Measure a model on texts. Raises Unavailable when the engine stops, Busy when it has too much to do."""
    tokenizer, context = served.base.engine.tokenizer, served.base.engine.context
    special = frozenset(tokenizer.all_special_ids)
    tokens = size = 0
    nats = 0.0
    for done, document in enumerate(documents, 1):
        ids: list[int] = tokenizer(document)["input_ids"]
        for start, stop, new in windows(len(ids), min(WINDOW_TOKENS, context - 1)):
            nats += await _cost(served, ids[start:stop], new)
        if len(ids) > 1:
            tokens += len(ids) - 1
            unseen = 0 if ids[0] in special else len(tokenizer.decode(ids[:1]).encode())
            size += len(document.encode()) - unseen
        on_progress(done, len(documents))
    return Predicted(len(documents), tokens, size, nats)


def windows(tokens: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Where the windows over a document begin and end, and how many tokens at the end of each are new.

    Every token but the first is new exactly once.
    """
    stop, step = 1, max(1, width // 2)
    while stop < tokens:
        start = max(0, stop - (width - step)) if stop > 1 else 0
        end = min(tokens, start + width)
        yield start, end, end - stop
        stop = end


async def _cost(served: Served, ids: Sequence[int], new: int) -> float:
    """The cost of the last `new` tokens, in nats."""
    asked = Generation(served.model, tuple(ids), SamplingParams(1, temperature=0.0, logprobs=0, prompt_logprobs=True))
    with translated():
        async with aclosing(served.base.engine.generate(asked)) as chunks:
            async for chunk in chunks:
                if chunk.prompt_logprobs:
                    return -math.fsum(token.logprob for token in chunk.prompt_logprobs[-new:])
    raise LocalFailure("the engine gave no probabilities", "try again")
