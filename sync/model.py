"""A model of a path in memory: the base with the deltas of the path added to its weights.

Only folders of files that were verified before (safetensors, no code) are loaded, always offline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.errors import BadData
from registry.loading import LOADING
from sync.delta import Delta
from sync.prompt import PLAIN_TEMPLATE

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model ready to answer or to be trained further.

    `precision` is what its arithmetic runs in (weights stay float32 on the CPU).
    """

    model: Any
    tokenizer: Any
    precision: Literal["bf16", "fp32"]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return torch.device(next(iter(self.model.parameters())).device)

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The autocast context to run forward passes in."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def next_token_logits(self, ids: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Float32 logits of the token after each `chosen` place, chosen places x vocabulary.

        `ids` is rows x tokens, padded on the right (no mask is needed: nothing looks ahead), `chosen` a mask of the
        same form. The output matrix, a third of a small model's work, is applied at the chosen places only.
        """
        hidden = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        logits: torch.Tensor = self.model.get_output_embeddings()(hidden[chosen]).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)  # Gemma 2
        return torch.tanh(logits / cap) * cap if cap else logits

    def linear_modules(self) -> Iterator[tuple[str, torch.nn.Linear]]:
        """The linear layers inside the transformer blocks, by name: what a delta may change."""
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Linear) and ".layers." in name:
                yield name, module


def resolve_precision(wanted: Precision) -> Literal["bf16", "fp32"]:
    """bf16 where the processor multiplies it natively (AMX, AVX512-BF16, CUDA), fp32 elsewhere and on request."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16"
    capability = torch.backends.cpu.get_cpu_capability()
    native = capability.startswith("AVX512") and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    return "bf16" if native else "fp32"


def load_tokenizer(base: Path) -> Any:
    """The tokenizer of a base folder; one without a chat template gets a plain one. BadData without an end token."""
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    if tokenizer.eos_token is None:
        raise BadData("the tokenizer of this base has no end token: no answer would ever end", "choose another base")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def load_model(base: Path, deltas: Sequence[Delta], precision: Precision = "auto") -> LoadedModel:
    """Load a base folder and add `deltas` (top of the path first) to its weights.

    Raises BadData when a delta names a module that the base lacks, or has other dimensions, and when the base's
    tokenizer has no token that ends an answer.
    """
    tokenizer = load_tokenizer(base)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with LOADING:
        model = AutoModelForCausalLM.from_pretrained(
            base, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    model.to(device).eval()
    loaded = LoadedModel(model, tokenizer, resolve_precision(precision))
    for delta in deltas:
        add(loaded, delta)
    return loaded


@torch.no_grad()
def add(loaded: LoadedModel, delta: Delta, by: float = 1.0) -> None:
    """Add by·ΔW to the weights in place."""
    modules = dict(loaded.linear_modules())
    for name, factor in delta.items():
        module = modules.get(name)
        out, n_in = factor.b.shape[0], factor.a.shape[1]
        if module is None or module.weight.shape != (out, n_in):
            raise BadData(
                f"the adapter changes {name} as {out} x {n_in}, which this base does not have",
                "use the base that the adapter was trained on (its digest is in the release)",
            )
        weight = module.weight
        weight += (by * factor.product()).to(weight)
