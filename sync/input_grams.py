"""What goes into each linear module of a model: the Gram matrices of its inputs over some prompts, as RegMean needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from registry.errors import BadData
from sync.aggregate.cohort import NotCovered, modules_of
from sync.delta import Delta
from sync.model import LoadedModel, add
from sync.tokens import Example, batches, collate, encode, length_limit

GRAM_TOKENS = 512  # of one row
GRAM_BATCH_TOKENS = 2048
MAX_GRAM_BYTES = 2 << 30  # of all clients together


def cohort_grams(
    loaded: LoadedModel, cohort: Sequence[Delta], examples: Sequence[Sequence[Example]]
) -> list[dict[str, Tensor]]:
    """For each delta, the Gram matrices of the model with that delta, over the examples of its client.

    `loaded` is the model that the deltas are relative to, and is that again afterwards, to rounding. Raises as
    `input_grams` does.
    """
    names, found = modules_of(cohort), list[dict[str, Tensor]]()
    for delta, asked in zip(cohort, examples, strict=True):
        add(loaded, delta)
        found.append(input_grams(loaded, asked, names, MAX_GRAM_BYTES // len(cohort)))
        add(loaded, delta, by=-1.0)
    return found


def input_grams(
    loaded: LoadedModel, examples: Sequence[Example], names: Collection[str], most_bytes: int = MAX_GRAM_BYTES
) -> dict[str, Tensor]:
    """Mean of x·xᵀ over all tokens of the examples, for the input x of each named linear module: in x in, float32.

    Raises NotCovered without examples and where the matrices would take more than `most_bytes`, BadData for a module
    that the model lacks.
    """
    modules = {name: module for name, module in loaded.linear_modules() if name in names}
    if missing := sorted(set(names) - modules.keys()):
        raise BadData(f"the model has no module {missing[0]}", "give deltas of this base")
    if not examples:
        raise NotCovered("RegMean needs prompts: none travelled, and there are no anchors", "let some prompts travel")
    wanted = sum(4 * module.in_features**2 for module in modules.values())
    if wanted > most_bytes:
        raise NotCovered(
            f"RegMean needs {wanted >> 20} MiB of Gram matrices of each client, {most_bytes >> 20} are allowed",
            "take another rule of aggregation",
        )
    sums = {name: torch.zeros(m.in_features, m.in_features, device=loaded.device) for name, m in modules.items()}
    limit = length_limit(loaded, GRAM_TOKENS)
    encoded = [encode(loaded, example, limit) for example in examples]
    real = torch.zeros(0, dtype=torch.bool)

    def watch(name: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(_: Any, inputs: tuple[Tensor, ...]) -> None:
            seen = inputs[0][real].float()
            sums[name] += seen.T @ seen

        return hook

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
    try:
        for group in batches(encoded, GRAM_BATCH_TOKENS, None):
            rows = [encoded[i] for i in group]
            ids, _ = collate(rows, int(loaded.tokenizer.pad_token_id), loaded.device)
            lengths = torch.tensor([len(row.ids) for row in rows], device=loaded.device)
            real = torch.arange(ids.shape[1], device=loaded.device) < lengths[:, None]
            with torch.no_grad(), loaded.arithmetic():
                loaded.model.get_decoder()(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    tokens = sum(len(one.ids) for one in encoded)
    return {name: (total / tokens).cpu() for name, total in sums.items()}
