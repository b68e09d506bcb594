"""A byte-level BPE tokenizer as the `tokenizer.ggml.*` fields of a GGUF file.

llama.cpp knows the ways of splitting text before BPE by name and has each in its own code (llama-vocab.cpp), so a
tokenizer is taken only if its own way is one of these exactly; another name would give other tokens, silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from registry.errors import BadData

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's kinds of tokens

LLAMA3_SPLIT: Final = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
QWEN2_SPLIT: Final = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
IGNORES_MERGES: Final = {"llama-bpe": True, "qwen2": False, "smollm": False, "gpt-2": False}


def write_tokenizer(writer: GGUFWriter, tokenizer: Any, described: Mapping[str, Any], vocabulary: int) -> None:
    """Add a tokenizer of transformers; `described` is its tokenizer.json, `vocabulary` the rows of the embedding.

    Raises BadData when llama.cpp would not make the same tokens.
    """
    model = described["model"]
    name = splitting(described)
    tokens = [f"[PAD{token}]" for token in range(vocabulary)]
    types = [UNUSED] * vocabulary
    for token, at in model["vocab"].items():
        tokens[at], types[at] = token, NORMAL
    for added in described.get("added_tokens") or ():
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in model["merges"]])
    marks = {
        "bos": (tokenizer.bos_token_id, writer.add_bos_token_id),
        "eos": (tokenizer.eos_token_id, writer.add_eos_token_id),
        "pad": (tokenizer.pad_token_id, writer.add_pad_token_id),
        "unk": (tokenizer.unk_token_id, writer.add_unk_token_id),
    }
    for token, add in marks.values():
        if token is not None:
            add(token)
    writer.add_add_bos_token(_begins_with_bos(tokenizer))
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def splitting(described: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way a tokenizer splits text. Raises BadData when it has none."""
    model, normalizer = described["model"], described.get("normalizer")
    parts = described.get("pre_tokenizer") or {}
    steps = parts["pretokenizers"] if parts.get("type") == "Sequence" else [parts]
    name = _name(steps)
    if model.get("type") != "BPE" or model.get("byte_fallback") or name is None:
        kinds = ", ".join(str(step.get("type")) for step in steps)
        raise _refused(f"it splits text by {kinds} before {model.get('type')}")
    if normalizer is not None and (name, normalizer.get("type")) != ("qwen2", "NFC"):
        # Qwen's NFC is left out by llama.cpp as well; text that is not normalised is rare.
        raise _refused(f"it changes text by {normalizer.get('type')} first")
    if bool(model.get("ignore_merges")) != IGNORES_MERGES[name]:
        raise _refused(f"its ignore_merges is {model.get('ignore_merges')}, and {name} there has the other")
    return name


def _name(steps: list[Mapping[str, Any]]) -> str | None:
    last, before = steps[-1], steps[:-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    kinds = [step.get("type") for step in before]
    if last.get("use_regex", True):
        if not before:
            return "gpt-2"
        return "smollm" if kinds == ["Digits"] and before[0].get("individual_digits") else None
    if kinds != ["Split"] or before[0].get("behavior") != "Isolated" or before[0].get("invert"):
        return None
    return {LLAMA3_SPLIT: "llama-bpe", QWEN2_SPLIT: "qwen2"}.get(str(before[0].get("pattern", {}).get("Regex")))


def _begins_with_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _refused(why: str) -> BadData:
    return BadData(
        f"llama.cpp would not make the same tokens as this tokenizer: {why}", "export it with --format merged"
    )
