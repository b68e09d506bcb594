"""The smallest base with which a whole grid trains in minutes: the bundled one cut down, then taught old knowledge.

Its vocabulary are the first tokens of the bundled base's, its embeddings the first principal parts of theirs, its one
narrow block is new. It knows the rows that it is taught and nothing else, so that what is forgotten can be seen. What
such a model can learn is little: it stands for how a tree moves, not for how well a tree of grown models answers.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from registry.rows import Row
from sync.model import load_model
from sync.tokens import Example, batches, collate, encode, prompt_places, targets

VOCABULARY: Final = 2048
WIDTH: Final = 128
INNER: Final = 256
LAYERS: Final = 1
CONTEXT: Final = 96
PASSES: Final = 6
BATCH_TOKENS: Final = 2048
LEARNING_RATE: Final = 4e-3
PROMPT_LOSS: Final = 0.2  # so that prompts can be sampled from it, as from the bundled base
TOKENIZER: Final = "tokenizer.json"


def make_tiny(bundled: Path, rows: Sequence[Row], paths: Sequence[str], folder: Path) -> Path:
    """Write a base that answers `rows` as any of the `paths`; from the bundled base's folder, the same every time.

    A folder that is there already is left as it is.
    """
    if (folder / "model.safetensors").exists():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        shutil.copyfile(bundled / name, partial / name)
    (partial / TOKENIZER).write_text(_first_tokens((bundled / TOKENIZER).read_text(encoding="utf-8")), encoding="utf-8")
    _cut(bundled).save_pretrained(partial)
    _teach(partial, rows, paths)
    partial.replace(folder)
    return folder


def _first_tokens(text: str) -> str:
    """A byte-pair tokenizer with its first merges alone: token and merge follow each other, so the ids stay."""
    whole = json.loads(text)
    model = whole["model"]
    left_out = len(model["vocab"]) - VOCABULARY
    model["merges"] = model["merges"][: len(model["merges"]) - left_out]
    model["vocab"] = {token: at for token, at in model["vocab"].items() if at < VOCABULARY}
    return json.dumps(whole, ensure_ascii=False)


def _cut(bundled: Path) -> LlamaForCausalLM:
    """A small new model whose embeddings are those of the bundled one, cut to their first principal parts."""
    large = AutoModelForCausalLM.from_pretrained(
        bundled, local_files_only=True, trust_remote_code=False, dtype=torch.float32
    )
    torch.manual_seed(1)
    shape = {name: getattr(large.config, name) for name in ("pad_token_id", "eos_token_id")}
    small = LlamaForCausalLM(
        LlamaConfig(
            **shape,
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            initializer_range=0.03,
        )
    )
    with torch.no_grad():
        words = large.get_input_embeddings().weight[:VOCABULARY]
        u, s, _ = torch.linalg.svd(words, full_matrices=False)
        parts = u[:, :WIDTH] * s[:WIDTH]
        small.get_input_embeddings().weight.copy_(parts * (words.std() / parts.std()))
    return small


def _teach(folder: Path, rows: Sequence[Row], paths: Sequence[str]) -> None:
    """Train all weights on the rows, each asked as one path after the other."""
    loaded = load_model(folder, [], "fp32")
    encoded = [encode(loaded, Example(row, paths[at % len(paths)], asks=True), CONTEXT) for at, row in enumerate(rows)]
    rng = random.Random(1)  # noqa: S311  an order that can be repeated
    optimiser = torch.optim.AdamW(loaded.model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = PASSES * len(list(batches(encoded, BATCH_TOKENS, None)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps + PASSES * 8)
    for _ in range(PASSES):
        for group in batches(encoded, BATCH_TOKENS, rng):
            batch = [encoded[at] for at in group]
            ids, answers = collate(batch, int(loaded.tokenizer.pad_token_id), loaded.device)
            chosen = answers | prompt_places(batch, answers)
            logits, expected, is_answer = loaded.next_token_logits(ids, chosen), targets(ids, chosen), answers[chosen]
            loss = functional.cross_entropy(logits[is_answer], expected[is_answer])
            loss = loss + PROMPT_LOSS * functional.cross_entropy(logits[~is_answer], expected[~is_answer])
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
    loaded.model.save_pretrained(folder)
