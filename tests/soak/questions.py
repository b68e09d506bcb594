"""Prompts with the one right answer of each model, computed by transformers and PEFT before the soak begins."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.benchmarks.serving.jobs import Prompts
from tests.benchmarks.serving.models import Model

NEW = (4, 48)
PROMPT = (8, 200)
# Sums in another order move logits by about 1e-5: answers that hang on less than this prove nothing.
CLEAR = 1e-3


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to a model by name, and the text that follows it in `new` greedy tokens."""

    model: str
    prompt: str
    new: int
    answer: str


def make_questions(model: Model, adapters: Sequence[tuple[str, Path]], each: int, seed: int) -> list[Question]:
    """So many for the base and for each adapter (name, folder), in random lengths."""
    source = random.Random(seed)
    base = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).eval()
    found = _questions("base", model, base, each, source)
    if adapters:
        mixed: Any = None
        with warnings.catch_warnings():  # PEFT reads what transformers will rename
            warnings.simplefilter("ignore", FutureWarning)
            for name, folder in adapters:
                if mixed is None:
                    mixed = PeftModel.from_pretrained(base, folder, adapter_name=name)
                else:
                    mixed.load_adapter(folder, adapter_name=name)
        for name, _ in adapters:
            mixed.set_adapter(name)
            found += _questions(name, model, mixed.eval(), each, source)
    return found


def _questions(name: str, model: Model, reference: Any, count: int, source: random.Random) -> list[Question]:
    prompts = Prompts(model.tokenizer)
    found: list[Question] = []
    while len(found) < count:
        text, new = prompts.text(source, source.randint(*PROMPT)), source.randint(*NEW)
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            made = reference.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        best = torch.stack([scores[0].topk(2).values for scores in made.scores])
        if float((best[:, 0] - best[:, 1]).min()) > CLEAR:
            tokens = made.sequences[0, ids.shape[1] :].tolist()
            found.append(Question(name, text, new, model.tokenizer.decode(tokens, skip_special_tokens=True)))
    return found
