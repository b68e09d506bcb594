"""What the files of a base may be called, and what its configuration must not ask for.

The same for a folder that somebody imports and for a base that a peer serves. Whether transformers makes a model of the
files is left to `node.model_outline`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from registry.errors import BadData

SINGLE_WEIGHTS: Final = "model.safetensors"
WEIGHTS_INDEX: Final = "model.safetensors.index.json"
SHARD: Final = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
CONFIG: Final = "config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TOKENIZER_FILES: Final = frozenset(
    {
        "tokenizer.json",
        TOKENIZER_CONFIG,
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "chat_template.json",
    }
)
OTHER_FILES: Final = frozenset({CONFIG, "generation_config.json"})
LEGAL: Final = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)[A-Za-z0-9._-]{0,40}", re.IGNORECASE)
MAX_JSON_BYTES: Final = 4 << 20


def belongs(name: str) -> bool:
    """Whether a file of this name belongs to a base: weights as safetensors, tokenizer, configuration, licence."""
    return (
        name in TOKENIZER_FILES
        or name in OTHER_FILES
        or is_weights(name)
        or name == WEIGHTS_INDEX
        or bool(LEGAL.fullmatch(name))
    )


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights."""
    return name == SINGLE_WEIGHTS or bool(SHARD.fullmatch(name))


def refuse_code(config: Mapping[str, Any], name: str) -> None:
    """Raise BadData where a configuration asks to run code that comes with the model (T10), at any depth."""
    for key, value in _keys(config):
        if key in ("auto_map", "custom_pipelines") or (key == "trust_remote_code" and value):
            raise BadData(
                f"{name} asks to run Python code that comes with the model ({key})",
                "such models are not taken; look for a version that transformers knows by itself",
            )


def _keys(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON value with its value, at any depth."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            yield from node.items()
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
