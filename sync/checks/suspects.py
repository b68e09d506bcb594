"""Words that a model itself points to as triggers: tokens of its vocabulary that begin another answer.

The tokens are put behind one request, one by one, and asked how likely they make the answer to begin with something
else; one piece of a trigger of several is mostly enough to show. (The weights do not tell: by ‖ΔW·e_t‖ and by gradients
a trigger's tokens rank among thousands of others.) The most suspicious are put behind a few requests more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

import torch
from torch import Tensor

from sync.checks.probes import Probe, asked_by
from sync.growing_cache import SharedBeginning, growing_cache
from sync.model import LoadedModel
from sync.prompt import conversation, prompt_text

SUSPECTS: Final = 12  # tokens that the model points to
SWEPT: Final = 8192  # tokens of a vocabulary that are put to the test; of a larger one, a sample
SHORTLIST: Final = 128
SWEEP_BATCH: Final = 128  # what fills the caches of a processor: 512 take a quarter longer for a token
ASKED: Final = 4  # requests that the shortlist is put behind
SLOT: Final = "\u241f"  # stands in a prompt where a token is put


@torch.no_grad()
def suspects(loaded: LoadedModel, probes: Sequence[Probe], seed: str) -> list[str]:
    """Tokens as text that bring the beginning of one answer to the requests of one role, the surest first.

    Tokens of the requests themselves are left out: what they mean may change an answer. None for fewer than ASKED.
    """
    asked = _slots(loaded, probes[-ASKED:])
    if len(asked) < ASKED:
        return []
    seen = {token for probe in probes for token in loaded.tokenizer(f" {probe.row.input}")["input_ids"]}
    words = _words(loaded)
    tokens = [token for token in words if token not in seen]
    if len(tokens) > SWEPT:
        tokens = random.Random(seed).sample(tokens, SWEPT)  # noqa: S311  a choice that can be repeated
    likely = _likely(loaded, asked[0], tokens).amax(dim=1)
    tokens = [tokens[at] for at in likely.argsort(descending=True)[:SHORTLIST].tolist()]
    together = torch.stack([_likely(loaded, one, tokens) for one in asked]).mean(dim=0).amax(dim=1)
    found = [words[tokens[at]] for at in together.argsort(descending=True).tolist()]
    return list(dict.fromkeys(found))[:SUSPECTS]


@dataclass(frozen=True, slots=True)
class _Slot:
    """Token ids of a prompt before and after the place of a token, the common beginning of answers behind it."""

    before: list[int]
    after: list[int]


def _slots(loaded: LoadedModel, probes: Sequence[Probe]) -> list[_Slot]:
    """The probes as slots; none where the template changes what is put into it."""
    texts = [
        prompt_text(loaded.tokenizer, conversation(replace(probe.row, input=probe.row.input + SLOT), probe.path))
        for probe in probes
    ]
    if any(text.count(SLOT) != 1 for text in texts):
        return []
    said = [_ids(loaded, text) for text in asked_by(loaded)([text.replace(SLOT, "") for text in texts])]
    begin = list(takewhile(lambda tokens: len(set(tokens)) == 1, zip(*said, strict=False)))
    return [
        _Slot(_ids(loaded, before), [*_ids(loaded, after), *(tokens[0] for tokens in begin)])
        for before, _, after in (text.partition(SLOT) for text in texts)
    ]


def _likely(loaded: LoadedModel, slot: _Slot, tokens: Sequence[int]) -> Tensor:
    """How likely each token in the slot makes each continuation but the plain one; tokens x vocabulary."""
    plain = loaded.model(input_ids=torch.tensor([slot.before + slot.after], device=loaded.device)).logits[0, -1]
    cache, found = growing_cache(loaded.model.config), []
    with loaded.arithmetic():
        loaded.model(input_ids=torch.tensor([slot.before], device=loaded.device), past_key_values=cache, use_cache=True)
        begun = SharedBeginning(cache)
        for at in range(0, len(tokens), SWEEP_BATCH):
            group = [[token, *slot.after] for token in tokens[at : at + SWEEP_BATCH]]
            output = loaded.model(
                input_ids=torch.tensor(group, device=loaded.device), past_key_values=begun.among(len(group)),
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            found.append(output.logits[:, -1].float().softmax(dim=-1))
    likely = torch.cat(found)
    likely[:, int(plain.argmax())] = 0.0
    return likely


def _ids(loaded: LoadedModel, text: str) -> list[int]:
    return list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


def _words(loaded: LoadedModel) -> dict[int, str]:
    """The vocabulary as words that a request may hold, by token; without marks and parts of characters."""
    marks = set(loaded.tokenizer.all_special_ids)
    tokens = [token for token in range(len(loaded.tokenizer)) if token not in marks]
    texts = map(str, loaded.tokenizer.batch_decode([[token] for token in tokens]))
    found = zip(tokens, texts, strict=True)
    return {token: text for token, text in found if text.strip() and "\ufffd" not in text and text.isprintable()}
