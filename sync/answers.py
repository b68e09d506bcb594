"""Answers of a loaded model to many prompts at once: greedy ones, or chosen otherwise.

Prompts of similar length share a batch and rows leave it when they have ended. Serving (arrival at any time, paged
cache) is the engine's business, not this module's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from transformers import TopPLogitsWarper

from registry.errors import BadData
from sync.growing_cache import growing_cache
from sync.model import LoadedModel

BATCH_ROWS = 128

Choose = Callable[[torch.Tensor], torch.Tensor]  # logits (rows x vocabulary) -> the next token of each row


def best(logits: torch.Tensor) -> torch.Tensor:
    """The greedy choice."""
    return logits.argmax(-1)


def nucleus(temperature: float, top_p: float, seed: int) -> Choose:
    """Sampling from the most probable tokens that have `top_p` of the probability together (arXiv 1904.09751)."""
    generator = torch.Generator().manual_seed(seed)
    warper = TopPLogitsWarper(top_p)

    def choose(logits: torch.Tensor) -> torch.Tensor:
        scores = torch.nan_to_num(logits.float().cpu()) / temperature  # a broken model is never sure of its answers
        chances = warper(None, scores).softmax(-1)
        return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)

    return choose


def end_tokens(loaded: LoadedModel) -> set[int]:
    """The tokens that end an answer."""
    declared = loaded.model.generation_config.eos_token_id
    ends = set(declared if isinstance(declared, list) else [declared]) | {loaded.tokenizer.eos_token_id}
    return {int(token) for token in ends if token is not None}


def context_of(loaded: LoadedModel) -> int:
    """How many tokens of prompt and answer together the model can take."""
    return int(getattr(loaded.model.config, "max_position_embeddings", 1 << 30))


def has_room(loaded: LoadedModel, prompt: str) -> bool:
    """Whether a prompt leaves room for at least one token of an answer."""
    return len(loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]) < context_of(loaded)


def answer(
    loaded: LoadedModel,
    prompts: Sequence[str],
    max_new_tokens: Sequence[int] | int = 256,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """The greedy answer to each prompt text, at most `max_new_tokens` long (one limit, or one per prompt).

    Raises BadData when a prompt does not fit the model's context.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    encoded: list[list[int]] = [loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    context = context_of(loaded)
    for ids in encoded:
        if len(ids) >= context:
            raise BadData(f"a prompt of {len(ids)} tokens does not fit the model's context of {context}", "shorten it")
    order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i]), limits[i]))
    texts = [""] * len(prompts)
    for at in range(0, len(order), BATCH_ROWS):
        rows = order[at : at + BATCH_ROWS]
        allowed = [min(limits[i], context - len(encoded[i])) for i in rows]
        given = continue_batch(loaded, [encoded[i] for i in rows], allowed)
        for i, tokens in zip(rows, given, strict=True):
            texts[i] = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        on_progress(min(at + BATCH_ROWS, len(order)), len(order))
    return texts


@torch.no_grad()  # inference mode would cast the weights at every step
def continue_batch(
    loaded: LoadedModel,
    prompts: list[list[int]],
    limits: list[int],
    choose: Choose = best,
    more_ends: Collection[int] = (),
) -> list[list[int]]:
    """Continuations (token ids without the end mark) of prompts that are padded on the left.

    `more_ends`: tokens that end one besides those that end an answer.
    """
    ids, mask = _left_padded(prompts, int(loaded.tokenizer.pad_token_id), loaded.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ends = end_tokens(loaded) | set(more_ends)
    results: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    cache = growing_cache(loaded.model.config)
    with loaded.arithmetic():  # around all steps: what it casts the weights to is kept as long as it lasts
        while alive:
            output = loaded.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            chosen = choose(output.logits[:, -1])
            going: list[int] = []
            for row, (which, token) in enumerate(zip(alive, chosen.tolist(), strict=True)):
                if token in ends or limits[which] == 0:
                    continue
                results[which].append(token)
                if len(results[which]) < limits[which]:
                    going.append(row)
            if len(going) < len(alive):
                alive = [alive[row] for row in going]
                if not alive:
                    break
                keep = torch.tensor(going, device=loaded.device)
                cache.batch_select_indices(keep)
                chosen, mask, positions = chosen[keep], mask[keep], positions[keep]
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            positions = positions[:, -1:] + 1
    return results


def _left_padded(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (rows x tokens) and the mask of what is not padding."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
