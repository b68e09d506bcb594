from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from node.bases import base_folder
from node.context import Node, opened_node
from node.hub import locate
from node.importing import UNKNOWN_LICENCE, Imported, Source, import_model
from node.settings import load_settings
from node.setup import set_up
from node.tree import describe, list_tree
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath, Ref
from sync.model import load_model
from tests.node.tiny_models import CONFIGS, save_tiny

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
EN = NodePath.parse("en")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(original, tmp_path / "tiny-llama")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    home = tmp_path / "home"
    set_up({"home": home}, {}, None)
    with opened_node(load_settings({"home": home})) as opened:
        yield opened


def bring(node: Node, folder: Path, path: NodePath = EN, **more: Any) -> Imported:
    return import_model(node, Source(folder, folder.name), path, NOW, **more)


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(file.read_text(encoding="utf-8"))
    change(value)
    file.write_text(json.dumps(value), encoding="utf-8")


def refused(node: Node, folder: Path, *, match: str, error: type[Exception] = BadData) -> str:
    """The import fails with this error, and the node is as before; gives the hint."""
    before = list_tree(node, NodePath(), NOW)
    with pytest.raises(error, match=match) as caught:
        bring(node, folder)
    assert list_tree(node, NodePath(), NOW) == before
    assert not list(node.home.bases.iterdir())
    assert caught.value.hint  # type: ignore[attr-defined]
    return str(caught.value.hint)  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_family_comes_in_and_answers_as_the_original(node: Node, tmp_path: Path, family: str) -> None:
    folder = save_tiny(tmp_path / family, family)
    done = bring(node, folder)
    assert (done.release.path, done.release.version, done.new) == ("en", 1, True)
    assert done.folder.family == family
    served = load_model(base_folder(node.home, node.blobs, done.release.base), [], "fp32")
    weights = load_file(folder / "model.safetensors")
    ids = torch.tensor([[3, 4, 5, 6]])
    assert done.folder.parameters == sum(tensor.numel() for tensor in weights.values())
    with torch.no_grad():
        from transformers import AutoModelForCausalLM

        wanted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        assert torch.equal(served.model(ids).logits, wanted)


def test_the_release_is_signed_served_and_described(node: Node, model: Path) -> None:
    (model / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, de]\n---\n# Tiny\n", encoding="utf-8")
    done = bring(node, model)
    facts = describe(node, Ref(EN), NOW)
    assert facts["digest"] == done.digest
    assert facts["signer"]["own"]
    assert facts["served"]
    assert not facts["missing"]
    assert facts["base_manifest"]["licence"] == "Apache-2.0"
    assert "license: apache-2.0" in facts["card_text"]
    assert "- de" in facts["card_text"]
    [place] = list_tree(node, NodePath(), NOW)
    assert (place.path, place.version, place.base_name, place.versions) == ("en", 1, "tiny-llama", (1,))


def test_importing_again_changes_nothing(node: Node, model: Path) -> None:
    first = bring(node, model)
    again = bring(node, model)
    assert (again.digest, again.new) == (first.digest, False)
    assert list_tree(node, NodePath(), NOW)[0].versions == (1,)


def test_another_model_makes_the_next_version(node: Node, model: Path, tmp_path: Path) -> None:
    first = bring(node, model)
    second = bring(node, save_tiny(tmp_path / "other", seed=2))
    assert (second.release.version, second.release.previous) == (2, first.digest)
    assert list_tree(node, NodePath(), NOW)[0].versions == (1, 2)
    assert describe(node, Ref(EN, 1), NOW)["served"] is False


def test_shards_come_in(node: Node, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "whole")
    from transformers import AutoModelForCausalLM

    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(sharded, max_shard_size="60KB")
    shutil.copy(folder / "tokenizer.json", sharded)
    shutil.copy(folder / "tokenizer_config.json", sharded)
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    done = bring(node, sharded)
    assert done.folder.parameters == sum(t.numel() for t in load_file(folder / "model.safetensors").values())


def test_no_other_thread_is_given_the_type_of_a_model_that_comes_in(
    node: Node, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers makes torch's default while it builds a model holds for all threads."""
    kept = load_file(model / "model.safetensors")
    save_file({name: one.bfloat16() for name, one in kept.items()}, model / "model.safetensors", {"format": "pt"})
    edit(model / "config.json", lambda config: config.update(dtype="bfloat16"))
    meanwhile: list[torch.dtype] = []
    monkeypatch.setattr(torch, "set_default_dtype", meanwhile.append)
    bring(node, model)
    assert set(meanwhile) == {torch.float32}


def test_what_does_not_belong_stays_out(node: Node, model: Path) -> None:
    for name in ("training_args.bin", "modeling_tiny.py", "optimizer.pt", "notes.txt"):
        (model / name).write_bytes(b"\x80\x04.")
    (model / "LICENSE").write_text("do as you like")
    done = bring(node, model)
    assert done.folder.left_out == ("modeling_tiny.py", "notes.txt", "optimizer.pt", "training_args.bin")
    names = {file.name for file in base_folder(node.home, node.blobs, done.release.base).iterdir()}
    assert names == {
        "LICENSE",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } | ({"chat_template.jinja"} & names)


def test_pickled_weights_are_refused(node: Node, model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "save_pretrained" in refused(node, model, match=r"pickle files \(pytorch_model\.bin\)")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_along_is_refused(node: Node, model: Path, name: str) -> None:
    edit(model / name, lambda config: config.update(auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"}))
    (model / "modeling_tiny.py").write_text("raise SystemExit('this must never run')")
    refused(node, model, match=rf"{name} asks to run Python code")


def test_code_named_deep_inside_is_refused(node: Node, model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(text_config=[{"auto_map": {}}]))
    refused(node, model, match="asks to run Python code")


def test_asking_for_remote_code_is_refused(node: Node, model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(trust_remote_code=True))
    refused(node, model, match="trust_remote_code")


def test_quantised_weights_are_refused(node: Node, model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(quantization_config={"quant_method": "gptq"}))
    refused(node, model, match=r"quantised \(gptq\)")


def test_an_adapter_is_not_a_model(node: Node, model: Path) -> None:
    (model / "config.json").rename(model / "adapter_config.json")
    assert "merge" in refused(node, model, match="holds an adapter")


def test_gguf_is_refused(node: Node, tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.gguf").write_bytes(b"GGUF")
    refused(node, tmp_path / "gguf", match="GGUF")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("config.json", r"has no config\.json"),
        ("tokenizer.json", "has no tokenizer"),
        ("model.safetensors", "neither model.safetensors nor"),
    ],
)
def test_a_missing_part_is_named(node: Node, model: Path, name: str, match: str) -> None:
    (model / name).unlink()
    refused(node, model, match=match)


def test_no_folder(node: Node, tmp_path: Path) -> None:
    refused(node, tmp_path / "nowhere", match="there is no folder")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"a": 1' + " " * (5 << 20)])
def test_a_broken_config_is_named(node: Node, model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    refused(node, model, match=r"config\.json is")


def test_an_index_that_leads_out_of_the_folder_is_refused(node: Node, model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"lm_head.weight": "../../secret.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(node, model, match="not a weight file")


def test_a_missing_shard_is_named(node: Node, model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(node, model, match="lacks 1 weight files, such as model-00002-of-00002")


def test_weights_cut_short_are_refused(node: Node, model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(node, model, match=r"model\.safetensors")


def test_weights_that_are_a_pickle_in_disguise_are_refused(node: Node, model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\x80\x04\x95" + b"x" * 500)
    refused(node, model, match=r"model\.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(node: Node, model: Path, bad: float) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = bad
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    refused(node, model, match=r"up_proj\.weight holds NaN or infinity")


def test_weights_that_lack_a_tensor_are_refused(node: Node, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    refused(node, model, match="lacks 1 tensors")


def test_weights_of_another_shape_are_refused(node: Node, model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(intermediate_size=48))
    refused(node, model, match="transformers cannot read|another shape")


def test_a_tokenizer_of_another_model_is_refused(node: Node, tmp_path: Path) -> None:
    refused(node, save_tiny(tmp_path / "small", vocab_size=200), match=r"the tokenizer has \d+ tokens, the model 200")


def test_what_does_not_write_text_is_refused(node: Node, model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(architectures=["LlamaForSequenceClassification"]))
    refused(node, model, match="LlamaForSequenceClassification, not a causal language model")


def test_an_unknown_kind_of_model_is_refused(node: Node, model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(model_type="from-the-future"))
    refused(node, model, match="transformers cannot read this model")


def test_a_full_disk_is_told_before_anything_is_written(
    node: Node, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(model)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(node, model, match="1,000 are free", error=LocalFailure)


def test_a_place_of_others_is_refused(tmp_path: Path, model: Path) -> None:
    home = tmp_path / "child"
    set_up({"home": home}, {"paths": ("en/health",)}, None)
    with opened_node(load_settings({"home": home})) as node, pytest.raises(BadData, match="not for en") as caught:
        bring(node, model)
    assert caught.value.hint == "node config set paths en/health,en"


def test_the_licence_is_what_was_said_else_unknown(node: Node, model: Path) -> None:
    bring(node, model)
    assert describe(node, Ref(EN), NOW)["base_manifest"]["licence"] == UNKNOWN_LICENCE
    bring(node, model, NodePath.parse("de"), licence="mit")
    assert describe(node, Ref(NodePath.parse("de")), NOW)["base_manifest"]["licence"] == "MIT"
    with pytest.raises(BadData, match="SPDX does not list"):
        bring(node, model, NodePath.parse("fr"), licence="my-own")


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../x/y", "/etc/none", "owner/"])
def test_what_is_neither_folder_nor_hub_id(source: str) -> None:
    with pytest.raises(BadData, match="there is no folder"):
        locate(source, None, 1.0)


def test_a_folder_has_no_revision(model: Path) -> None:
    with pytest.raises(BadData, match="no revisions"):
        locate(str(model), "main", 1.0)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as its client asks for; notes what was asked."""

    folder: Path
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        files = [file for file in sorted(self.folder.iterdir()) if file.is_file()]
        if path.startswith("/api/models/owner/tiny/tree/"):
            listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
            self.send(json.dumps(listed).encode(), body=body)
        elif path.startswith("/api/models/owner/tiny"):
            siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in files]
            self.send(json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}).encode(), body=body)
        elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
            file = self.folder / path.rpartition("/")[2]
            self.send(file.read_bytes(), body=body, tag=f'"{file.name}"')
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def send(self, data: bytes, *, body: bool, tag: str = '"0"') -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", tag)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(model: Path) -> Iterator[tuple[str, type[Hub]]]:
    handler = type("ThisHub", (Hub,), {"folder": model, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def run(endpoint: str, tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_ENDPOINT": endpoint,
        "BANYAN_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "node.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout)


def test_from_the_hub_only_allowed_files_of_one_commit(
    hub: tuple[str, type[Hub]], model: Path, node: Node, tmp_path: Path
) -> None:
    endpoint, handler = hub
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (model / "evil.py").write_text("raise SystemExit")
    code, found = run(endpoint, tmp_path, "import", "owner/tiny", "--path", "en")
    assert code == 0, found
    assert (found["release"], found["base_name"]) == ("en@v1", "owner/tiny")
    assert found["source"] == {"hub_id": "owner/tiny", "commit": COMMIT}
    assert any(path.endswith("/model.safetensors") for path in handler.asked)
    assert not any("pytorch_model.bin" in path or "evil.py" in path for path in handler.asked)
    facts = describe(node, Ref(EN), NOW)
    assert "base_model: owner/tiny" in facts["card_text"]
    assert COMMIT in facts["card_text"]


def test_a_hub_repository_of_pickles_is_refused_before_anything_is_fetched(
    hub: tuple[str, type[Hub]], model: Path, node: Node, tmp_path: Path
) -> None:
    endpoint, handler = hub
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    code, found = run(endpoint, tmp_path, "import", "owner/tiny", "--path", "en")
    assert code == 3
    assert "pickle" in found["error"]["message"]
    assert not any("/resolve/" in path for path in handler.asked)
    assert not list_tree(node, NodePath(), NOW)


def test_a_hub_repository_that_does_not_exist(hub: tuple[str, type[Hub]], node: Node, tmp_path: Path) -> None:
    code, found = run(hub[0], tmp_path, "import", "owner/other", "--path", "en")
    assert (code, found["error"]["message"]) == (3, "the Hub has no owner/other at main")
    assert not list_tree(node, NodePath(), NOW)


def test_a_name_that_the_hub_does_not_allow(hub: tuple[str, type[Hub]], node: Node, tmp_path: Path) -> None:
    code, found = run(hub[0], tmp_path, "import", "owner/a--b", "--path", "en")
    assert (code, found["error"]["message"]) == (3, "not a name of the Hub: owner/a--b")
    assert not list_tree(node, NodePath(), NOW)


def test_no_network_names_the_way_without_it(node: Node, tmp_path: Path) -> None:
    code, found = run("http://127.0.0.1:9", tmp_path, "import", "owner/tiny", "--path", "en")
    assert code == 4
    assert "node import FOLDER" in found["error"]["hint"]
    assert not list_tree(node, NodePath(), NOW)
