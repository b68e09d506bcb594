"""The bundled base and the starter tree, as other programs load them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from node.bases import base_folder
from node.export import export_model
from node.models import composer, load
from node.repo_ids import base_id
from node.starter import BUNDLED, install_starter_tree
from registry.documents import BaseManifest
from registry.paths import Ref
from sync.delta import Factor
from tests.node.hub.conftest import said
from tests.node.hub.test_clients import IDS, logits_of
from tests.processes import node_process
from tests.toy_tree import head_of, put_toy_release
from tests.world import make_node

Client = Callable[..., subprocess.CompletedProcess[str]]


def test_the_starter_tree_is_loaded_by_transformers_and_peft(client: Client, tmp_path: Path) -> None:
    node = make_node(tmp_path / "home", "master", threads=1, precision="fp32", share_own=True)
    install_starter_tree(node)
    above = head_of(node, "en/finance")
    base = BaseManifest.from_bytes(node.blobs.read(above.release.base, 1 << 20))
    torch.manual_seed(0)
    delta = {f"model.layers.{n}.self_attn.q_proj": Factor(torch.randn(4, 256), torch.randn(256, 4)) for n in range(5)}
    small = {name: Factor(factor.a * 0.1, factor.b * 0.1) for name, factor in delta.items()}
    put_toy_release(node, "en/finance/cards", base, version=2, above=above.pin, delta=small)
    export_model(node, Ref.parse("en/finance/cards"), tmp_path / "exported", "merged")
    ref = Ref.parse("en/finance/cards")
    with torch.no_grad():
        own = load(node, ref)[1].model(input_ids=torch.tensor([IDS])).logits[0]
        bare = composer(node).load(head_of(node, "en").digest).model(input_ids=torch.tensor([IDS])).logits[0]
    with node_process(node.home.root) as url:
        adapter, merged, plain, exported = logits_of(
            client,
            url,
            ("peft", "banyan/en.finance.cards", {"base": "banyan/seedling"}),
            ("auto", "banyan/en.finance.cards_merged", {}),
            ("auto", "banyan/en", {"dtype": "float32"}),
            ("auto", tmp_path / "exported", {}),
        )
        done = client(url, "hf", "download", "banyan/en.finance.cards_merged", "--local-dir", tmp_path / "got")
        assert done.returncode == 0, done.stderr
        text = "import json;from huggingface_hub import HfApi;print(json.dumps([m.id for m in HfApi().list_models()]))"
        listed = said(client(url, "python", text))
    assert torch.allclose(adapter, own, atol=1e-3)
    assert torch.allclose(plain, bare, atol=1e-3)
    assert not torch.allclose(adapter, plain, atol=1e-1)
    assert torch.equal(merged, exported)  # both rounded to the base's bf16
    got, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("got", "exported"))
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert isinstance(listed, list)
    assert {"banyan/master", "banyan/de.law", "banyan/en.finance.cards_merged", base_id(base)} <= set(listed)
    config = json.loads((base_folder(node.home, node.blobs, base.digest) / "config.json").read_text())
    assert json.loads((tmp_path / "got" / "config.json").read_text()) == config
    assert (BUNDLED / "model" / "tokenizer.json").read_bytes() == (tmp_path / "got" / "tokenizer.json").read_bytes()
    node.close()
