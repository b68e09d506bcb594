from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from node.bases import base_folder
from node.cli import main
from node.context import Node
from node.export import export_model
from node.gguf import modelfile, write_adapter, write_model
from node.gguf_tokenizer import LLAMA3_SPLIT, QWEN2_SPLIT, splitting
from registry.errors import BadData
from registry.paths import Ref
from sync.delta import Delta, Factor
from sync.model import LoadedModel, load_model
from tests.node.tiny_models import save_tiny

IDS = torch.tensor([[5, 6, 7, 8, 9, 40, 41]])
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 128}),  # the only one that transformers reads from a GGUF
}


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def tensors(file: Path) -> dict[str, torch.Tensor]:
    found = GGUFReader(file).tensors
    return {one.name: torch.from_numpy(np.array(dequantize(one.data, one.tensor_type))) for one in found}


def saved(folder: Path, family: str, **changes: Any) -> LoadedModel:
    """A random model with norms and biases that are not what they start from."""
    save_tiny(folder, family, **changes)
    loaded = load_model(folder, [], "fp32")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return loaded


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found = model(input_ids=IDS).logits
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_model_from_the_file(kind: str, tmp_path: Path) -> None:
    """Its GGUF reader undoes the order of llama.cpp by itself, so a wrong one gives other logits."""
    family, changes = KINDS[kind]
    loaded = saved(tmp_path / "model", family, **changes)
    write_model(loaded.model, loaded.tokenizer, tmp_path / "model", tmp_path, "en", "fp32")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    assert read.config.model_type == ("llama" if family == "mistral" else family)
    assert torch.allclose(logits(read), logits(loaded.model), atol=1e-5)


def test_the_tokenizer_in_the_file_makes_the_same_tokens(tmp_path: Path) -> None:
    loaded = saved(tmp_path / "model", "llama", vocab_size=310)
    write_model(loaded.model, loaded.tokenizer, tmp_path / "model", tmp_path, "en", "bf16")
    found = fields(tmp_path / "model.gguf")
    assert found["tokenizer.ggml.pre"] == "gpt-2"
    assert found["tokenizer.ggml.tokens"][:2] == ["<pad>", "<end>"]
    assert found["tokenizer.ggml.token_type"][:3] == [3, 3, 1]
    assert found["tokenizer.ggml.tokens"][-1] == "[PAD309]"
    assert found["tokenizer.ggml.token_type"][-1] == 5
    assert found["tokenizer.ggml.eos_token_id"] == loaded.tokenizer.eos_token_id
    assert found["tokenizer.chat_template"] == loaded.tokenizer.chat_template
    assert found["tokenizer.ggml.add_bos_token"] is False
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in ("what is my balance?", "  open 42 accounts\n\nÄ €", "it's"):
        assert read(text, add_special_tokens=False)["input_ids"] == loaded.tokenizer(text)["input_ids"]


def test_matrices_are_written_in_the_type_that_is_asked_for(tmp_path: Path) -> None:
    loaded = saved(tmp_path / "model", "llama")
    write_model(loaded.model, loaded.tokenizer, tmp_path / "model", tmp_path, "en", "bf16")
    found = {one.name: one.tensor_type.name for one in GGUFReader(tmp_path / "model.gguf").tensors}
    assert found["blk.0.attn_q.weight"] == "BF16"
    assert found["blk.0.attn_norm.weight"] == "F32"
    state = loaded.model.state_dict()
    down = tensors(tmp_path / "model.gguf")["blk.1.ffn_down.weight"]
    assert torch.equal(down, state["model.layers.1.mlp.down_proj.weight"].bfloat16().float())


def test_the_frequencies_of_llama_3_are_those_of_transformers(tmp_path: Path) -> None:
    loaded = saved(tmp_path / "model", "llama", rope_parameters=LLAMA3, hidden_size=128)
    write_model(loaded.model, loaded.tokenizer, tmp_path / "model", tmp_path, "en", "fp32")
    factors = tensors(tmp_path / "model.gguf")["rope_freqs.weight"]
    plain = 1.0 / 10_000.0 ** (torch.arange(0, 32, 2) / 32)
    assert torch.allclose(plain / factors, loaded.model.model.rotary_emb.inv_freq, rtol=1e-5)
    assert factors.max() == pytest.approx(8.0)
    assert factors.min() == 1.0


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_an_adapter_adds_to_the_file_of_its_base_what_it_adds_to_the_base(family: str, tmp_path: Path) -> None:
    """The sum of both files, alpha / rank · B·A added as llama.cpp does, is the file of the merged model."""
    generator = torch.Generator().manual_seed(1)

    def factor(rank: int, n_out: int, n_in: int) -> Factor:
        a, b = torch.randn(rank, n_in, generator=generator), torch.randn(n_out, rank, generator=generator)
        return Factor(a, b * 0.05)

    shapes = {"self_attn.q_proj": (2, 32, 32), "self_attn.k_proj": (3, 16, 32), "mlp.down_proj": (2, 32, 64)}
    delta: Delta = {f"model.layers.1.{name}": factor(*shape) for name, shape in shapes.items()}
    folder = save_tiny(tmp_path / "model", family)
    base, merged = load_model(folder, [], "fp32"), load_model(folder, [delta], "fp32")
    write_adapter(delta, base.model.config, tmp_path, "en")
    found = fields(tmp_path / "adapter.gguf")
    assert (found["general.type"], found["adapter.type"]) == ("adapter", "lora")
    adapter = tensors(tmp_path / "adapter.gguf")
    files = {}
    for name, loaded in (("base", base), ("merged", merged)):
        (tmp_path / name).mkdir()
        write_model(loaded.model, loaded.tokenizer, folder, tmp_path / name, "en", "fp32")
        files[name] = tensors(tmp_path / name / "model.gguf")
    changed = set()
    for name, weights in files["base"].items():
        if f"{name}.lora_a" in adapter:
            changed.add(name)
            a, b = adapter[f"{name}.lora_a"], adapter[f"{name}.lora_b"]
            weights = weights + found["adapter.lora.alpha"] / b.shape[1] * b @ a  # noqa: PLW2901
        assert torch.allclose(weights, files["merged"][name], atol=1e-5), name
    assert changed == {"blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.ffn_down.weight"}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gemma", {}, "'gemma' models are not written"),
        ("mistral", {"sliding_window": 16}, "attention in windows"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "attention in windows"),
        ("llama", {"attention_bias": True}, "biases of attention"),
        ("llama", {"hidden_act": "gelu"}, "the activation gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "type dynamic"),
    ],
)
def test_what_llama_cpp_computes_differently_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    loaded = load_model(save_tiny(tmp_path / "model", family, **changes), [], "fp32")
    with pytest.raises(BadData, match=message):
        write_model(loaded.model, loaded.tokenizer, tmp_path / "model", tmp_path, "en", "fp32")
    assert not (tmp_path / "model.gguf").exists()


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PLAIN = {**BYTES, "use_regex": False}


def split(regex: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}


@pytest.mark.parametrize(
    ("steps", "more", "name"),
    [
        ([BYTES], {}, "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, BYTES], {}, "smollm"),
        ([split(LLAMA3_SPLIT), PLAIN], {"ignore_merges": True}, "llama-bpe"),
        ([split(QWEN2_SPLIT), PLAIN], {}, "qwen2"),
        ([split(LLAMA3_SPLIT), PLAIN], {}, None),  # without ignore_merges it is another tokenizer
        ([split(LLAMA3_SPLIT, "Removed"), PLAIN], {"ignore_merges": True}, None),
        ([split(r"\w+"), PLAIN], {}, None),
        ([{"type": "Digits", "individual_digits": False}, BYTES], {}, None),
        ([{**BYTES, "add_prefix_space": True}], {}, None),
        ([{"type": "Metaspace"}], {}, None),
        ([BYTES], {"type": "Unigram"}, None),
        ([BYTES], {"byte_fallback": True}, None),
    ],
)
def test_a_way_of_splitting_is_named_or_refused(
    steps: list[dict[str, Any]], more: dict[str, Any], name: str | None
) -> None:
    described = {"model": {"type": "BPE", **more}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    if name is None:
        with pytest.raises(BadData, match="would not make the same tokens"):
            splitting(described)
    else:
        assert splitting(described) == name
        with pytest.raises(BadData, match="changes text by Lowercase"):
            splitting({**described, "normalizer": {"type": "Lowercase"}})


def test_a_model_of_the_tree_is_exported(tiny_node: Node, tmp_path: Path) -> None:
    done = export_model(tiny_node, Ref.parse("en"), tmp_path / "out", "gguf")
    assert {"model.gguf", "Modelfile", "README.md"} <= set(done.files)
    found = fields(tmp_path / "out" / "model.gguf")
    assert (found["general.name"], found["general.architecture"]) == ("en", "llama")
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith("FROM ./model.gguf\n")
    assert 'SYSTEM """en"""' in text  # the base has the bundled template, so both lines can be given
    with pytest.raises(BadData, match="without an adapter"):
        export_model(tiny_node, Ref.parse("en"), tmp_path / "adapter", "gguf-adapter")
    assert not (tmp_path / "adapter").exists()
    assert base_folder(tiny_node.home, tiny_node.blobs, done_base(tiny_node)).is_dir()


def done_base(node: Node) -> str:
    from sync.chain import find_release, stored_chain

    return stored_chain(node.store, node.blobs, find_release(node.store, Ref.parse("en")))[0].release.base


def test_the_modelfile_of_an_adapter_and_of_a_strange_template() -> None:
    text = modelfile("en/finance", "{{ something else }}", adapter_of="banyan/seedling")
    assert "FROM ./base.gguf\nADAPTER ./adapter.gguf\n" in text
    assert "# base.gguf is banyan/seedling" in text
    assert "\nTEMPLATE" not in text
    assert "en/finance" in text


def test_flags_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    for words in (["--adapter-only"], ["--format", "gguf", "--adapter-only", "--dtype", "bf16"]):
        done = CliRunner().invoke(main, ["export", "en", "--to", str(tmp_path / "out"), *words, "--json"])
        assert done.exit_code == 2, done.output
        assert json.loads(done.stdout)["error"]["message"]
