"""Tiny random models of every family that the engine computes, adapters for them, and greedy runs on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from node.engine.adapter_file import AdapterFile
from node.engine.blocks import BlockManager
from node.engine.config import EngineConfig
from node.engine.runner import Runner
from node.engine.scheduler import Scheduler
from node.engine.sequence import Finish, Sequence

VOCABULARY = 199
SIZES: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.15,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
# Windows are short, so that the runs reach past them.
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "llama tied, biased": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3, "num_key_value_heads": 1}),
    "llama linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "llama wide heads": ("llama", {"head_dim": 24, "num_key_value_heads": 4}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3 window": ("smollm3", {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 9}),
    "mistral": ("mistral", {"sliding_window": 7}),
    "mistral whole": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2 window": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", {"sliding_window": 6, "sliding_window_pattern": 2, "query_pre_attn_scalar": 20}),
    "gemma3 capped": ("gemma3_text", {"sliding_window": 9, "final_logit_softcapping": 5.0}),
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def save_family(folder: Path, name: str, **changes: object) -> Path:
    """Write a random model, with norms and biases that are not what they start from."""
    kind, own = FAMILIES[name]
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**(SIZES | own | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    return folder


def load_reference(folder: Path) -> torch.nn.Module:
    """The model as transformers runs it, float32, without masks that a library might leave out."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def expected(model: torch.nn.Module, prompt: Many[int], count: int) -> list[int]:
    """What `generate` answers."""
    ids = torch.tensor([list(prompt)])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False
    )
    return [int(token) for token in made[0, len(prompt) :]]


def modules(model: torch.nn.Module, targets: Many[str]) -> dict[str, torch.nn.Linear]:
    return {name: module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in targets}


def write_lora(
    model: torch.nn.Module, file: Path, targets: Many[str] = TARGETS, ranks: Many[int] = (4,), seed: int = 1
) -> AdapterFile:
    """A random adapter that changes answers; ranks alternate from module to module."""
    made = torch.Generator().manual_seed(seed)
    tensors = {}
    for index, (name, module) in enumerate(modules(model, targets).items()):
        out, inputs = module.weight.shape
        rank = ranks[index % len(ranks)]
        stem = f"base_model.model.{name}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, inputs, generator=made) * 0.3
        tensors[f"{stem}.lora_B.weight"] = torch.randn(out, rank, generator=made) * 0.3
    save_file(tensors, file, metadata={"format": "pt"})
    return AdapterFile(id=sha256(file.read_bytes()).hexdigest(), file=file, scale=0.5)


def merged(folder: Path, adapters: Iterable[AdapterFile]) -> torch.nn.Module:
    """The reference with the adapters' products added to its weights."""
    model = load_reference(folder)
    named = dict(model.named_modules())
    with torch.no_grad():
        for adapter in adapters:
            tensors = load_file(adapter.file)
            for name in [name for name in tensors if ".lora_A." in name]:
                module = named[name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
                module.weight += adapter.scale * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    return model


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


class Bench:
    """A runner with its scheduler, driven greedily: what the engine does, without texts and sampling."""

    def __init__(self, folder: Path, **limits: object) -> None:
        settings = {"dtype": "fp32", "device": "cpu", "block_tokens": 4, "cache_tokens": 1024} | limits
        self.config = EngineConfig(**settings)
        self.runner = Runner(folder, self.config)
        self.blocks = BlockManager(self.runner.blocks, self.config.block_tokens)
        self.scheduler = Scheduler(self.config, self.blocks, 512, lambda: 0.0)
        self.count = 0
        self.steps = 0

    def add(self, given: Many[int], new: int, adapters: Iterable[AdapterFile] = ()) -> Sequence:
        ids = tuple(adapter.id for adapter in adapters)
        self.count += 1
        namespace = sha256("/".join(ids).encode()).digest()
        sequence = Sequence(self.count, tuple(given), namespace, ids, new)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> bool:
        """One step; False when there is nothing to do."""
        step = self.scheduler.schedule()
        if step is None:
            return False
        logits = self.runner.run(step)
        chosen = iter(logits.argmax(-1).tolist())
        new: dict[Sequence, list[int]] = {}
        for piece in step.pieces:
            rows = [next(chosen) for _ in range(piece.logits)]
            if piece.start + piece.count == piece.sequence.length:
                new[piece.sequence] = rows[-1:]
        self.scheduler.done(step, new)
        for sequence in new:
            if len(sequence.output) == sequence.max_new_tokens:
                self.scheduler.finish(sequence, Finish.LENGTH)
        self.blocks.check_integrity()
        self.steps += 1
        return True

    def run(self) -> None:
        while self.step():
            pass
