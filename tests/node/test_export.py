from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from node.context import Node, opened_node
from node.export import export_model
from node.importing import Source, import_model
from node.models import load
from node.settings import load_settings
from node.setup import set_up
from registry.documents import Adapter, File, Release
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath, Ref
from sync.chain import Link, serve, signed_link
from sync.delta import Delta, Factor, write_adapter
from tests.node.tiny_models import save_tiny

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
EN, HEALTH = Ref(NodePath.parse("en")), Ref(NodePath.parse("en/health"))
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def random_delta(seed: int, rank: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)

    def factor(n_out: int, n_in: int) -> Factor:
        a = torch.randn(rank, n_in, generator=generator)
        return Factor(a, torch.randn(n_out, rank, generator=generator) * 0.05)

    return {
        f"model.layers.{layer}.{module}": factor(*shape)
        for layer in range(2)
        for module, shape in {"self_attn.q_proj": (32, 32), "mlp.up_proj": (64, 32)}.items()
    }


def put_release(node: Node, path: str, below: Link, delta: Delta, tmp_path: Path) -> Link:
    """Sign a release with an adapter at a path, over `below`."""
    file = tmp_path / "adapter_model.safetensors"
    shape = write_adapter(delta, file)
    stored = File(name=file.name, size=file.stat().st_size, sha256=node.blobs.put_file(file))
    release = below.release.model_copy(
        update={"path": path, "adapter": Adapter(file=stored, shape=shape), "above": below.pin, "created": NOW}
    )
    release = Release.from_bytes(release.to_bytes())
    link = signed_link(release, node.key)
    with node.store.transaction() as session:
        serve(session, link, NOW)
    return link


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a base at en, an adapter of rank 2 at en/health, one of rank 3 below it."""
    tmp_path = tmp_path_factory.mktemp("export")
    home = tmp_path / "home"
    set_up({"home": home}, {}, None)
    with opened_node(load_settings({"home": home})) as node:
        source = Source(save_tiny(tmp_path / "tiny"), "owner/tiny")
        done = import_model(node, source, EN.path, NOW - timedelta(days=1))
        base = Link(done.release, done.digest, node.key.public, b"")
        health = put_release(node, "en/health", base, random_delta(1, 2), tmp_path)
        put_release(node, "en/health/pediatrics", health, random_delta(2, 3), tmp_path)
    return home


@pytest.fixture
def node(made: Path, tmp_path: Path) -> Iterator[Node]:
    home = shutil.copytree(made, tmp_path / "home")
    with opened_node(load_settings({"home": home, "precision": "fp32"})) as opened:
        yield opened


@torch.no_grad()
def logits(model: object) -> torch.Tensor:
    return model(input_ids=IDS).logits  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("path", ["en", "en/health", "en/health/pediatrics"])
def test_merged_weights_answer_as_the_node_does(node: Node, tmp_path: Path, path: str) -> None:
    ref = Ref.parse(path)
    done = export_model(node, ref, tmp_path / "out", "merged")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    _, served = load(node, ref)
    assert torch.allclose(logits(exported), logits(served.model), atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").decode([5, 6]) == served.tokenizer.decode([5, 6])
    assert set(done.files) >= {"README.md", "config.json", "lineage.json", "model.safetensors", "tokenizer.json"}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers so
def test_the_adapter_loads_into_peft_and_answers_as_the_node_does(node: Node, tmp_path: Path) -> None:
    ref = Ref.parse("en/health/pediatrics")
    export_model(node, ref, tmp_path / "out", "adapter")
    base = AutoModelForCausalLM.from_pretrained(_base(node), dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, tmp_path / "out")
    _, served = load(node, ref)
    assert torch.allclose(logits(tuned), logits(served.model), atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (5, "owner/tiny")


def _base(node: Node) -> Path:
    [folder] = node.home.bases.iterdir()
    return folder


def test_the_lineage_names_every_part_and_every_file(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(node, HEALTH, out, "merged")
    lineage = json.loads((out / "lineage.json").read_text())
    assert [part["path"] for part in lineage["sum_of"]] == ["en", "en/health"]
    for name, digest in lineage["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_type_of_merged_weights_can_be_chosen(
    node: Node, tmp_path: Path, dtype: str, expected: torch.dtype
) -> None:
    export_model(node, HEALTH, tmp_path / "out", "merged", dtype)  # type: ignore[arg-type]
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {expected}


def test_auto_keeps_the_type_of_the_base(made: Path, tmp_path: Path) -> None:
    home = shutil.copytree(made, tmp_path / "home")
    folder = save_tiny(tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    with opened_node(load_settings({"home": home})) as node:
        import_model(node, Source(folder, "half"), NodePath.parse("de"), NOW)
        export_model(node, Ref.parse("de"), tmp_path / "out", "merged")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_a_base_alone_has_no_adapter_to_export(node: Node, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="its base alone") as caught:
        export_model(node, EN, tmp_path / "out", "adapter")
    assert "--format merged" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_taken_folder_is_left_as_it_is(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(BadData, match="exists already") as caught:
        export_model(node, HEALTH, out, "adapter")
    assert "(--to)" in caught.value.hint
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken(node: Node, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_model(node, HEALTH, tmp_path / "out", "adapter")
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_a_failed_export_leaves_nothing(node: Node, tmp_path: Path) -> None:
    [row] = [blob for blob in node.home.blobs.glob("*/*") if _is_adapter(blob)][:1]
    row.chmod(0o600)
    row.write_bytes(b"damaged")
    with pytest.raises(BadData, match="damaged"):
        export_model(node, Ref.parse("en/health/pediatrics"), tmp_path / "out" / "deep", "merged")
    assert not list((tmp_path / "out").iterdir())


def _is_adapter(blob: Path) -> bool:
    return b"lora_A" in blob.read_bytes()[:4096]


def test_an_unknown_release_is_named(node: Node, tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match=r"en/health@v9"):
        export_model(node, Ref.parse("en/health@v9"), tmp_path / "out", "merged")
