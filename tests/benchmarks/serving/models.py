"""Random Llamas of known sizes that every contender reads from the same folder, and adapters over them.

Random weights say nothing about quality and cost what trained ones cost. The tokenizer is the bundled byte-level BPE.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import node
from node.engine.adapter_file import AdapterFile

BUNDLED = Path(node.__file__).parent / "bundled" / "model"
CONTEXT = 2_048
RANK = 8
ATTENTION = ("q_proj", "v_proj")  # what PEFT changes in a Llama unless told otherwise
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Small enough that an adapter does not blow an answer up, large enough that it changes the answer.
ADAPTER_SIZE = 0.05
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "12M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 10, "num_attention_heads": 8},
    "110M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 12},
}
KV_HEADS = 4


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder as transformers writes it (fp32), how many numbers it has, and its tokenizer."""

    name: str
    folder: Path
    parameters: int
    config: LlamaConfig
    tokenizer: PreTrainedTokenizerFast


def make_model(name: str, root: Path) -> Model:
    """Write the model of a size below a folder, once. It has no end token, so that every answer gets its length."""
    folder = root / name
    config = LlamaConfig(
        **SHAPES[name],
        num_key_value_heads=KV_HEADS,
        vocab_size=8_192,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    if not folder.exists():
        torch.manual_seed(0)
        partial = root / f"{name}.partial"
        LlamaForCausalLM(config).save_pretrained(partial)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(BUNDLED / file, partial / file)
        settings = json.loads((partial / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings["model_max_length"] = CONTEXT
        (partial / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        partial.rename(folder)
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in LlamaForCausalLM(config).parameters())
    return Model(name, folder, parameters, config, AutoTokenizer.from_pretrained(folder))


def make_adapters(model: Model, count: int, root: Path, targets: Sequence[str] = ATTENTION) -> list[Path]:
    """Folders of random PEFT adapters of rank 8, alpha 8."""
    found = []
    for number in range(count):
        folder = root / f"{model.name}-{len(targets)}-modules" / str(number)
        if not folder.exists():
            folder.mkdir(parents=True)
            _write_adapter(model, folder, targets, number)
        found.append(folder)
    return found


def adapter_file(folder: Path) -> AdapterFile:
    """An adapter as the engine takes it."""
    file = folder / "adapter_model.safetensors"
    return AdapterFile(hashlib.sha256(file.read_bytes()).hexdigest(), file, 1.0)


def adapter_tensors(model: Model, targets: Sequence[str], seed: int) -> dict[str, torch.Tensor]:
    """The factors of a random adapter under PEFT's names."""
    made = torch.Generator().manual_seed(seed)
    tensors = {}
    with torch.device("meta"):
        modules = dict(LlamaForCausalLM(model.config).named_modules())
    for name, module in modules.items():
        if name.rsplit(".", 1)[-1] in targets:
            out, inputs = module.weight.shape
            a, b = torch.randn(RANK, inputs, generator=made), torch.randn(out, RANK, generator=made)
            tensors[f"base_model.model.{name}.lora_A.weight"] = a * inputs**-0.5
            tensors[f"base_model.model.{name}.lora_B.weight"] = b * ADAPTER_SIZE
    return tensors


def _write_adapter(model: Model, folder: Path, targets: Sequence[str], seed: int) -> None:
    save_file(adapter_tensors(model, targets, seed), folder / "adapter_model.safetensors", {"format": "pt"})
    settings: dict[str, Any] = {"r": RANK, "lora_alpha": RANK, "target_modules": list(targets)}
    LoraConfig(**settings, task_type="CAUSAL_LM", base_model_name_or_path=str(model.folder)).save_pretrained(folder)
