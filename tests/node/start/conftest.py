"""Two tiny models of different families in folders, an adapter over one, and both served as `node start` does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from node.api.simple.app import WithDefaults, create_started_app
from node.engine.config import EngineConfig
from node.generation import said_by
from node.started import Started, started
from tests.node.openai.conftest import listening
from tests.node.tiny_models import save_tiny

CONFIG = EngineConfig(dtype="fp32", threads=1, cache_tokens=2_048, max_running=16)


@dataclass(frozen=True)
class Folders:
    llama: Path
    qwen: Path
    adapter: Path


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("models")
    llama = save_tiny(root / "tiny-llama", "llama")
    qwen = save_tiny(root / "tiny-qwen", "qwen3", seed=2, hidden_size=48)
    return Folders(llama, qwen, save_peft(llama, root / "tiny-adapter"))


def save_peft(base: Path, folder: Path) -> Path:
    """A LoRA as PEFT itself writes it, large enough to change the answers of the tiny Llama."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with warnings.catch_warnings():  # PEFT reads what transformers will rename
        warnings.simplefilter("ignore", FutureWarning)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def greedy(base: Path, text: str, tokens: int, adapter: Path | None = None) -> str:
    """What transformers, and PEFT with an adapter, continue a text with."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(model, adapter)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        out = model.generate(input_ids=ids, do_sample=False, max_new_tokens=tokens, pad_token_id=0)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="session")
def models(folders: Folders) -> Iterator[Started]:
    said = said_by({"temperature": "0", "max_tokens": "12"}, {})
    with started([str(folders.llama), f"q={folders.qwen}"], [], None, CONFIG, said) as found:
        yield found


@pytest.fixture(scope="session")
def url(models: Started) -> Iterator[str]:
    with listening(create_started_app(models, WithDefaults(models), [])) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client
