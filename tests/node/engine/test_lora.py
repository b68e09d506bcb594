"""Adapters: read, refused, given up, and the same as PEFT's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from node.engine.adapter_file import AdapterFile
from node.engine.errors import EngineError
from node.engine.lora import AdapterSlots
from node.engine.outline import ModelOutline
from sync.delta import read_adapter, write_peft_folder
from tests.node.engine.families import Bench, expected, load_reference, modules, prompt, save_family, write_lora
from tests.node.engine.test_outline import config

OUTLINE = ModelOutline.from_config(config("llama"))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("base"), "llama")


def slots(most: int = 4) -> AdapterSlots:
    return AdapterSlots(OUTLINE, most, torch.float32, CPU)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own use of transformers
def test_tokens_are_those_of_peft(base: Path, tmp_path: Path) -> None:
    """A folder as PEFT wants it, merged by PEFT itself."""
    from registry.documents import AdapterShape

    made = write_lora(load_reference(base), tmp_path / "raw.safetensors", ranks=(4,))
    shape = AdapterShape(rank=4, alpha=2.0, targets=("q_proj",), dtype="F32")
    written = write_peft_folder(read_adapter(made.file, shape), tmp_path / "peft", str(base))
    file = AdapterFile("one", tmp_path / "peft" / "adapter_model.safetensors", written.alpha / written.rank)
    bench = Bench(base)
    bench.runner.load_adapter(file)
    run = bench.add(prompt(12), 10, (file,))
    bench.run()
    reference = PeftModel.from_pretrained(load_reference(base), tmp_path / "peft").merge_and_unload()
    assert run.output == expected(reference, run.prompt, 10)
    assert run.output != expected(load_reference(base), run.prompt, 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t | {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(4, 48)},
            "layers.9",
        ),
        (lambda t: t | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 48)}, "lm_head"),
        (lambda t: t | {"base_model.model.model.layers.0.self_attn.x_proj.lora_A.weight": torch.ones(4, 48)}, "x_proj"),
        (
            lambda t: t | {"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(64)},
            "magn",
        ),
        (lambda t: t | {"base_model.model.model.layers.0.self_attn.q_proj.bias": torch.ones(64)}, "bias"),
        (lambda t: dict(list(t.items())[1:]), "one factor"),
        (lambda t: {name: each[:, :-1].contiguous() for name, each in t.items()}, "the base has"),
        (lambda t: {name: each.flatten() for name, each in t.items()}, "the base has"),
        (lambda t: {}, "changes nothing"),
    ],
)
def test_adapters_of_another_model_are_refused(
    base: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str
) -> None:
    file = write_lora(load_reference(base), tmp_path / "a.safetensors").file
    slots().load(AdapterFile("good", file, 1.0))
    save_file(change(load_file(file)), tmp_path / "b.safetensors")
    held = slots()
    with pytest.raises(EngineError, match=words):
        held.load(AdapterFile("bad", tmp_path / "b.safetensors", 1.0))
    assert held.loaded == []


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"\x00" * 40)
    for name in ("junk", "missing"):
        with pytest.raises(EngineError, match="cannot be read"):
            slots().load(AdapterFile("x", tmp_path / name, 1.0))


def test_the_least_recently_used_goes_first_and_none_in_use(base: Path, tmp_path: Path) -> None:
    model = load_reference(base)
    files = [write_lora(model, tmp_path / f"{n}.safetensors", ("q_proj",), seed=n) for n in range(5)]
    held = slots(most=3)
    for file in files[:3]:
        held.load(file)
    held.mix([(files[0].id,), ()])
    for file in files[3:]:
        held.load(file)
    assert set(held.loaded) == {files[0].id, files[3].id, files[4].id}, "the last step used the first"
    held.mix([(files[1].id, files[2].id, files[3].id)])  # known; two of them were given up and are read again
    assert set(held.loaded) == {files[1].id, files[2].id, files[3].id}, "the limit is kept while a step is loaded"
    held.load(files[4])
    assert set(held.loaded) == {file.id for file in files[1:]}, "one more than the limit: the step's, and the newest"
    held.mix([(files[4].id,)])
    held.load(files[0])
    assert len(held.loaded) == 3
    assert set(held.loaded) > {files[4].id, files[0].id}
    held.mix([(files[1].id,)])
    held.forget(files[1].id)
    with pytest.raises(EngineError, match=files[1].id):
        held.mix([(files[1].id,), ()])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("c", "b")]), min_size=1, max_size=40))
def test_a_mix_adds_to_every_row_its_own_path(paths: list[tuple[str, ...]]) -> None:
    """Against the definition, row by row: y + Σ scale·B·A·x over the path."""
    held = HELD
    mix = held.mix(paths)
    made = torch.Generator().manual_seed(len(paths))
    for name, site in held.sites.items():
        x = torch.randn(len(paths), site.inputs, generator=made)
        y = torch.randn(len(paths), site.outputs, generator=made)
        wanted = y.clone()
        for row, path in enumerate(paths):
            for id_ in path:
                for module, place in site.modules.items():
                    stem = f"base_model.model.model.layers.2.{module}.lora_"
                    if stem + "A.weight" in TENSORS[id_]:
                        a, b = TENSORS[id_][stem + "A.weight"], TENSORS[id_][stem + "B.weight"]
                        wanted[row, place] += 0.5 * (b @ (a @ x[row]))
        if mix is None:
            assert not any(paths)
        else:
            mix.add(name, 2, x, y)
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)


HELD = slots()
TENSORS: dict[str, dict[str, Tensor]] = {}


@pytest.fixture(scope="module", autouse=True)
def _three_adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("adapters")
    model = load_reference(base)
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for seed, (id_, targets, ranks) in enumerate(
        [("a", every, (3, 1, 2)), ("b", ("q_proj", "up_proj"), (4,)), ("c", ("v_proj", "down_proj"), (1, 6))]
    ):
        file = write_lora(model, folder / f"{id_}.safetensors", targets, ranks, seed)
        assert modules(model, targets)
        HELD.load(AdapterFile(id_, file.file, 0.5))
        TENSORS[id_] = load_file(file.file)
