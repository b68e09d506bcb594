"""Uploads: an adapter folder becomes a release of a path, after the checks of a stranger's adapter, or nothing does."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from node.api.app import create_app
from node.context import Node
from node.models import composer, load
from node.repo_ids import base_id
from registry.documents import AdapterShape, BaseManifest
from registry.paths import Ref
from registry.store import select
from registry.tables import HeadRow, ReleaseRow, RunRow
from sync.delta import Delta, read_adapter, scaled, stack, write_peft_folder
from sync.model import add, load_model
from tests.node.hub.conftest import TOKEN, said
from tests.toy_tree import SETTINGS, head_of, put_toy_release
from tests.world import make_node, put_base

HOLDER = {"Authorization": f"Bearer {TOKEN}"}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
Client = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def node(tmp_path: Path, model_folder: Path, deltas: dict[str, Delta]) -> Iterator[Node]:
    """`en` is the base alone, `en/shapes` has an adapter."""
    node = make_node(tmp_path / "home", "en", hub_token=TOKEN, **SETTINGS)
    base = put_base(node, {file.name: file.read_bytes() for file in model_folder.iterdir()})
    en = put_toy_release(node, "en", base)
    put_toy_release(node, "en/shapes", base, above=en, delta=deltas["en/shapes"])
    yield node
    node.close()


@pytest.fixture
def url(node: Node, serve: Callable[..., str]) -> str:
    return serve(create_app(node))


@pytest.fixture
def base_name(node: Node) -> str:
    return base_id(BaseManifest.from_bytes(node.blobs.read(head_of(node, "en").release.base, 1 << 20)))


@pytest.fixture
def folder(tmp_path: Path, deltas: dict[str, Delta], base_name: str) -> Path:
    """What PEFT would save: an adapter over the base."""
    write_peft_folder(deltas["en/tools"], tmp_path / "adapter", base_name)
    return tmp_path / "adapter"


def everything(node: Node) -> tuple[set[str], dict[str, str], int, list[str]]:
    blobs = sorted(file.name for file in node.home.blobs.rglob("*") if file.is_file())
    with node.store.read() as session:
        releases = set(session.scalars(select(ReleaseRow.digest)))
        heads = {row.path: row.release for row in session.scalars(select(HeadRow))}
        return releases, heads, len(list(session.scalars(select(RunRow)))), blobs


@torch.no_grad()
def says(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


def commit(url: str, files: dict[str, bytes], repo: str = "banyan/en.tools", **more: Any) -> httpx.Response:
    """Send files as one commit."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "an adapter", "description": "", **more}}]
    for name, data in files.items():
        value = {"content": base64.b64encode(data).decode(), "path": name, "encoding": "base64"}
        lines.append({"key": "file", "value": value})
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return httpx.post(f"{url}/api/models/{repo}/commit/main", content=body, headers=HOLDER, timeout=60)


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


TRAIN = """
import json, sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
base, folder = sys.argv[1:]
torch.manual_seed(0)
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
    LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
)
for name, weight in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weight, std=0.02)
model.eval()
with torch.no_grad():
    logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10]])).logits
model.save_pretrained(folder)
print(json.dumps(logits.tolist()))
"""


@pytest.mark.parametrize("ground", ["base", "merged"])
def test_what_peft_trained_and_hf_uploaded_is_served(
    node: Node, url: str, client: Client, base_name: str, tmp_path: Path, ground: str
) -> None:
    """Exactly the model that was trained, on the base or on the weights of a path, below a path with an adapter."""
    trained_on = base_name if ground == "base" else "banyan/en.shapes_merged"
    folder, repo = tmp_path / "trained", "banyan/en.shapes.round"
    wanted = torch.tensor(said(client(url, "python", TRAIN, trained_on, folder, token=TOKEN)))
    before = everything(node)
    refused = client(url, "hf", "upload", repo, folder)
    assert refused.returncode != 0
    assert everything(node) == before
    done = client(url, "hf", "upload", repo, folder, token=TOKEN)
    assert done.returncode == 0, done.stdout + done.stderr
    release = head_of(node, "en/shapes/round").release
    assert release.version == 1
    assert release.above == head_of(node, "en/shapes").pin
    assert torch.allclose(says(load(node, Ref.parse("en/shapes/round"))[1].model), wanted, atol=1e-4)
    if ground == "merged":
        assert release.adapter is not None
        assert (
            node.blobs.path(release.adapter.file.sha256).read_bytes()
            == (folder / "adapter_model.safetensors").read_bytes()
        )
    again = client(
        url, "python", "import sys;from huggingface_hub import HfApi;print(HfApi().repo_exists(sys.argv[1]))", repo
    )
    assert again.stdout.strip() == "False"  # own work: nobody sees it


def test_an_upload_is_a_release_like_that_of_a_fine_tune(node: Node, url: str, folder: Path) -> None:
    sent = files_in(folder)
    reply = commit(url, {**sent, "README.md": b"---\nlicense: mit\n---\n# Mine\n\nTrained on *my* tools.\n"})
    assert reply.status_code == 200, reply.text
    link = head_of(node, "en/tools")
    assert link.signer == node.key.public
    assert reply.json()["commitOid"] == link.digest[:40]
    assert link.release.above == head_of(node, "en").pin
    card = node.blobs.read(link.release.card.sha256, 1 << 18).decode()
    assert "Trained on *my* tools." in card
    assert link.release.evaluations == ()
    with node.store.read() as session:
        row = session.get(ReleaseRow, link.digest)
        [run] = session.scalars(select(RunRow).where(RunRow.path == "en/tools"))
    assert row is not None
    assert row.own
    assert (run.kind, run.state, run.adapter) == ("upload", "done", row.adapter)
    second = commit(url, sent, parentCommit=link.digest[:40])
    assert second.status_code == 200, second.text
    assert head_of(node, "en/tools").release.version == 2
    stale = commit(url, sent, parentCommit=link.digest[:40])
    assert (stale.status_code, head_of(node, "en/tools").release.version) == (409, 2)


def test_a_new_adapter_at_a_path_takes_the_place_of_the_old_one(
    node: Node, url: str, model_folder: Path, deltas: dict[str, Delta], tmp_path: Path
) -> None:
    """Trained on the path's own merged weights, it is added to what was there."""
    write_peft_folder(deltas["en/tools"], tmp_path / "more", "banyan/en.shapes_merged")
    reply = commit(url, files_in(tmp_path / "more"), "banyan/en.shapes")
    assert reply.status_code == 200, reply.text
    loaded = load_model(model_folder, [deltas["en/shapes"], deltas["en/tools"]], "fp32")
    assert torch.allclose(says(load(node, Ref.parse("en/shapes"))[1].model), says(loaded.model), atol=1e-4)


def config_of(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    config = json.loads(files["adapter_config.json"]) | changes
    return {**files, "adapter_config.json": json.dumps(config).encode()}


def weights_of(files: dict[str, bytes], data: bytes) -> dict[str, bytes]:
    return {**files, "adapter_model.safetensors": data}


def with_nan(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<f", float("nan"))


def with_other_header(data: bytes) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + length].replace(b"layers.0.", b"layers.9.")
    return data[:8] + header + data[8 + length :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: config_of(files, base_model_name_or_path="meta/other"), "meta/other"),
        (lambda files: config_of(files, base_model_name_or_path="/home/me/base"), "/home/me/base"),
        (lambda files: config_of(files, revision="v9"), "v9"),
        (lambda files: config_of(files, peft_type="IA3"), "peft_type"),
        (lambda files: config_of(files, use_rslora=True), "use_rslora"),
        (lambda files: config_of(files, use_dora=True), "use_dora"),
        (lambda files: config_of(files, bias="all"), "bias"),
        (lambda files: config_of(files, modules_to_save=["lm_head"]), "modules_to_save"),
        (lambda files: config_of(files, rank_pattern={"q_proj": 2}), "rank_pattern"),
        (lambda files: config_of(files, init_lora_weights="pissa"), "init_lora_weights"),
        (lambda files: config_of(files, auto_map={"AutoModel": "x.py"}), "auto_map"),
        (lambda files: config_of(files, target_modules="all-linear"), "target_modules"),
        (lambda files: config_of(files, target_modules=["embed_tokens"]), "embed_tokens"),
        (lambda files: config_of(files, r=0), "rank"),
        (lambda files: config_of(files, r=4096), "rank"),
        (lambda files: config_of(files, lora_alpha=1e9), "alpha"),
        (lambda files: config_of(files, lora_alpha=float("inf")), "alpha"),
        (lambda files: {**files, "adapter_config.json": b"[" * 100_000}, "adapter_config.json"),
        (lambda files: {**files, "adapter_config.json": b"[]"}, "adapter_config.json"),
        (lambda files: {"adapter_config.json": files["adapter_config.json"]}, "adapter_model.safetensors"),
        (lambda files: {"adapter_model.safetensors": files["adapter_model.safetensors"]}, "adapter_config.json"),
        (lambda files: weights_of(files, b""), "few"),
        (lambda files: weights_of(files, b"PK\x03\x04" + bytes(100)), "zip"),
        (lambda files: weights_of(files, files["adapter_model.safetensors"][:-100]), "file"),
        (lambda files: weights_of(files, with_nan(files["adapter_model.safetensors"])), "NaN"),
        (lambda files: weights_of(files, with_other_header(files["adapter_model.safetensors"])), "layers.9"),
        (lambda files: {**files, "training_args.bin": b"\x80\x04."}, "pickle"),
        (lambda files: {**files, "modeling_x.py": b"print(1)"}, "modeling_x.py"),
        (lambda files: {**files, "../../keys/node.pem": b"x"}, "node.pem"),
        (lambda files: {**files, "tokenizer.json": b"{}"}, "tokenizer.json"),
        (lambda files: {**files, "chat_template.jinja": b"{{ 1 }}"}, "chat_template.jinja"),
        (lambda files: {**files, "README.md": b"---\na: &a [*a]\n---\n"}, "front matter"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_kept(
    node: Node, url: str, folder: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], words: str
) -> None:
    """B8."""
    before = everything(node)
    reply = commit(url, change(files_in(folder)))
    assert reply.status_code == 400, reply.text
    assert words in reply.json()["error"]
    assert everything(node) == before
    assert not [left for left in node.home.partial.iterdir() if left.name.startswith(".upload-")]


def test_a_change_as_large_as_the_base_is_refused(
    node: Node, url: str, deltas: dict[str, Delta], base_name: str, tmp_path: Path
) -> None:
    write_peft_folder(scaled(deltas["en/tools"], 1000.0), tmp_path / "huge", base_name)
    reply = commit(url, files_in(tmp_path / "huge"))
    assert (reply.status_code, "size.relative" in reply.json()["error"]) == (400, True), reply.text


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({"key": "lfsFile", "value": {"path": "adapter_model.safetensors", "oid": "0" * 64, "size": 1}}, 400),
        ({"key": "deletedFile", "value": {"path": "README.md"}}, 400),
        ({"key": "deletedFolder", "value": {"path": "."}}, 400),
        ({"key": "file", "value": {"path": "README.md", "content": "%%%", "encoding": "base64"}}, 400),
        ({"key": "file", "value": {"path": "README.md", "content": 7}}, 400),
        ({"key": "file", "value": []}, 400),
        ([], 400),
    ],
)
def test_other_lines_of_a_commit_are_refused(node: Node, url: str, line: object, status: int) -> None:
    place = f"{url}/api/models/banyan/en.tools/commit/main"
    reply = httpx.post(place, content=json.dumps(line).encode(), headers=HOLDER)
    assert reply.status_code == status
    assert httpx.post(place, content=b"\xff\n" * 3, headers=HOLDER).status_code == 400
    assert httpx.post(place, content=b"\n" * 400, headers=HOLDER).status_code == 400


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_only_the_holder_of_the_token_uploads(node: Node, url: str, headers: dict[str, str]) -> None:
    for place in ("repos/create", "models/banyan/en.tools/preupload/main", "models/banyan/en.tools/commit/main"):
        reply = httpx.post(f"{url}/api/{place}", json={"name": "en.tools", "files": []}, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["x-error-message"] == "Invalid credentials in Authorization header"
        assert "hub_token" in reply.json()["error"]


@pytest.mark.parametrize(
    "repo", ["banyan/en.tools_merged", "banyan/tiny", "banyan/fr", "banyan/master", "someone/en.tools", "banyan/en..x"]
)
def test_adapters_go_to_paths_of_this_node(node: Node, url: str, folder: Path, repo: str) -> None:
    assert commit(url, files_in(folder), repo).status_code == 403
    assert httpx.post(
        f"{url}/api/repos/create", json={"name": repo}, headers=HOLDER
    ).status_code == 403 or not repo.startswith("banyan/")


def test_files_that_are_too_large_are_refused_before_they_are_sent(node: Node, url: str) -> None:
    size = node.settings.max_update_bytes + 1
    plan = {"files": [{"path": "adapter_model.safetensors", "size": size, "sample": ""}]}
    reply = httpx.post(f"{url}/api/models/banyan/en.tools/preupload/main", json=plan, headers=HOLDER)
    assert (reply.status_code, "max_update_bytes" in reply.json()["error"]) == (413, True)
    plan["files"][0]["size"] = 10
    [told] = httpx.post(f"{url}/api/models/banyan/en.tools/preupload/main", json=plan, headers=HOLDER).json()["files"]
    assert told == {"path": "adapter_model.safetensors", "uploadMode": "regular", "shouldIgnore": False}


def test_cards_are_checked_before_they_are_sent(url: str) -> None:
    good = httpx.post(f"{url}/api/validate-yaml", json={"content": "---\nlicense: mit\n---\n# A", "repoType": "model"})
    assert (good.status_code, good.json()) == (200, {"errors": [], "warnings": []})
    bad = httpx.post(f"{url}/api/validate-yaml", json={"content": "---\n{: :\n---\n# A", "repoType": "model"})
    assert bad.status_code == 400
    assert bad.json()["errors"][0]["message"]


def test_the_sum_of_a_path_is_read_back_as_it_was_stored(
    node: Node, url: str, folder: Path, model_folder: Path
) -> None:
    """An upload on the base alone, below a path with an adapter: stored with that adapter taken away, exactly."""
    assert commit(url, files_in(folder), "banyan/en.shapes.tools").status_code == 200
    chain = composer(node).chain(head_of(node, "en/shapes/tools").digest)
    alone, whole = load_model(model_folder, [], "fp32"), load_model(model_folder, [], "fp32")
    add(whole, stack(composer(node).deltas(chain)))
    shape = json.loads((folder / "adapter_config.json").read_bytes())
    assert shape["r"] == 5
    made = AdapterShape(rank=5, alpha=5.0, targets=tuple(shape["target_modules"]), dtype="F32")
    add(alone, read_adapter(folder / "adapter_model.safetensors", made))
    assert torch.allclose(says(alone.model), says(whole.model), atol=1e-4)
