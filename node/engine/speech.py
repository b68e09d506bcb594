"""`Speech`: what the tokens of a base mean: their bytes, those that end an answer, the grammars over them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from node.engine.errors import EngineError
from node.engine.grammar import Grammars
from node.engine.text import TokenBytes

END_FILES = ("generation_config.json", "config.json")


@dataclass(frozen=True, slots=True)
class Speech:
    """The tokenizer of a base and what follows from it."""

    tokenizer: PreTrainedTokenizerFast
    names: TokenBytes
    ends: frozenset[int]
    grammars: Grammars


def load_speech(base: Path, vocabulary: int) -> Speech:
    """Read the tokenizer of a model folder, whose logits are `vocabulary` wide. Raises EngineError if it has none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EngineError(f"the tokenizer of {base} cannot be read: {error}", "use a complete model folder") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise EngineError(f"{base} has no tokenizer.json", "save its tokenizer as a fast tokenizer of transformers")
    own = tokenizer.eos_token_id
    ends = _ends(base) | (frozenset({own}) if own is not None else frozenset())
    grammars = Grammars(tokenizer, vocabulary, sorted(ends))
    return Speech(tokenizer, TokenBytes(tokenizer), ends, grammars)


def _ends(base: Path) -> frozenset[int]:
    """The tokens that the model's settings name as the end of an answer: those for generation, if there are any."""
    for name in END_FILES:
        if (file := base / name).is_file():
            ends = json.loads(file.read_bytes()).get("eos_token_id")
            if ends is not None:
                return frozenset(ends if isinstance(ends, list) else [ends])
    return frozenset()
