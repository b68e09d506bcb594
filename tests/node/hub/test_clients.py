"""The Hub's own clients, unmodified, against a node: what they load is what the node itself would answer with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from node.models import load
from node.repo_ids import base_id, commit_of
from registry.paths import Ref
from tests.node.hub.conftest import TOKEN, Tree, said

IDS = [5, 6, 7, 8, 9, 10]
Client = Callable[..., subprocess.CompletedProcess[str]]

# Prints the logits of each model that is asked for: [how, repository, options].
LOGITS = f"""
import json, sys, torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
def load(how, repo, options):
    if how == "peft":
        base = AutoModelForCausalLM.from_pretrained(options["base"], dtype=torch.float32)
        return PeftModel.from_pretrained(base, repo)
    return {{"auto": AutoModelForCausalLM, "auto-peft": AutoPeftModelForCausalLM}}[how].from_pretrained(repo, **options)
found = []
for wanted in json.loads(sys.argv[1]):
    with torch.no_grad():
        found.append(load(*wanted)(input_ids=torch.tensor([{IDS}])).logits[0].float().tolist())
print(json.dumps(found))
"""


def logits_of(client: Client, url: str, *wanted: tuple[str, str | Path, dict[str, str]]) -> list[torch.Tensor]:
    """What the models say that other programs load."""
    asked = json.dumps([[how, str(repo), options] for how, repo, options in wanted])
    return [torch.tensor(one) for one in said(client(url, "python", LOGITS, asked))]


@torch.no_grad()
def served(tree: Tree, path: str) -> torch.Tensor:
    """What the node's own model of a path says."""
    node = tree.open()
    loaded = load(node, Ref.parse(path))[1]
    node.close()
    logits: torch.Tensor = loaded.model(input_ids=torch.tensor([IDS])).logits[0]
    return logits


def test_transformers_loads_the_model_of_a_path(tree: Tree, endpoint: str, client: Client) -> None:
    """By its id, as whole weights, at a version: transformers asks the base, too, for the adapter's revision."""
    paths = ("en", "en/shapes", "en/shapes/tools")
    plain = [("auto", Ref.parse(path).path.hub_id + form, {}) for path in paths for form in ("", "_merged")]
    versions = ("v1", commit_of(tree.pins["en/shapes"].digest))
    named = [("auto", "banyan/en.shapes", {"revision": revision}) for revision in versions]
    found = logits_of(client, endpoint, *plain, *named)
    for path, *both in zip(paths, found[0:6:2], found[1:6:2], strict=True):
        for one in both:
            assert torch.allclose(one, served(tree, path), atol=1e-4)
    for one in found[6:]:
        assert torch.allclose(one, served(tree, "en/shapes"), atol=1e-4)
    assert not torch.allclose(served(tree, "en"), served(tree, "en/shapes"), atol=1e-2)


def test_peft_loads_the_adapter_of_a_path(tree: Tree, endpoint: str, client: Client) -> None:
    """B3: over the base by either of its names, one adapter or the stack of two."""
    paths = ("en/shapes", "en/shapes/tools")
    for path in paths:
        adapter = Ref.parse(path).path.hub_id
        over = [("peft", adapter, {"base": base}) for base in (base_id(tree.base), "banyan/tiny")]
        for one in logits_of(client, endpoint, *over, ("auto-peft", adapter, {})):
            assert torch.allclose(one, served(tree, path), atol=1e-4)


def test_a_downloaded_folder_is_the_same_model(tree: Tree, endpoint: str, client: Client, tmp_path: Path) -> None:
    """B2: nothing is added twice, a folder holds an adapter or whole weights, never both."""
    folders = [tmp_path / name for name in ("en.shapes.tools", "en.shapes.tools_merged")]
    for folder in folders:
        done = client(endpoint, "hf", "download", f"banyan/{folder.name}", "--local-dir", folder)
        assert done.returncode == 0, done.stderr
        names = {file.name for file in folder.iterdir()}
        assert ("adapter_config.json" in names) != ("config.json" in names)
    for one in logits_of(client, endpoint, *(("auto", folder, {}) for folder in folders)):
        assert torch.allclose(one, served(tree, "en/shapes/tools"), atol=1e-4)


def test_tokenizers_come_with_every_form(tree: Tree, endpoint: str, client: Client) -> None:
    text = """
import json, sys
from transformers import AutoTokenizer
found = [AutoTokenizer.from_pretrained(repo) for repo in sys.argv[1:]]
turn = [{"role": "user", "content": "what is my balance"}]
print(json.dumps([[t("open an account")["input_ids"], t.apply_chat_template(turn, tokenize=False)] for t in found]))
"""
    one, *others = said(client(endpoint, "python", text, "banyan/en.shapes", "banyan/en.shapes_merged", "banyan/tiny"))
    assert others == [one, one]
    assert one[1] == "<user>what is my balance"


BROWSE = """
import json, sys
from huggingface_hub import HfApi, HfFileSystem, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
api, repo = HfApi(), "banyan/en.shapes"
info = api.model_info(repo, files_metadata=True)
errors = []
for call in (
    lambda: api.model_info("banyan/en.nothing"),
    lambda: api.model_info("gpt2"),
    lambda: api.model_info(repo, revision="v9"),
    lambda: api.hf_hub_download(repo, "nothing.json"),
    lambda: api.list_repo_tree(repo, "additional_chat_templates").__next__(),
):
    try:
        call()
    except Exception as error:
        errors.append(type(error).__name__)
fs = HfFileSystem()
folder = snapshot_download(repo)
print(json.dumps({
    "search": [model.id for model in api.list_models(search="shapes")],
    "filter": [model.id for model in api.list_models(filter=["peft", "text-generation"], author="banyan")],
    "full": [model.sha for model in api.list_models(search="shapes", full=True, sort="last_modified")],
    "paged": len(list(api.list_models())),
    "expand": [list(model.card_data.to_dict()) for model in api.list_models(search="shapes_m", expand=["cardData"])],
    "sha": info.sha, "tags": info.tags, "base": info.base_models, "private": info.private,
    "sizes": {s.rfilename: [s.size, s.lfs.sha256 if s.lfs else None] for s in info.siblings},
    "card": info.card_data.to_dict(),
    "errors": errors,
    "ls": sorted(fs.ls(repo, detail=False)),
    "bytes": len(fs.read_bytes(f"{repo}/adapter_config.json")),
    "part": fs.read_bytes(f"{repo}/adapter_model.safetensors", start=10, end=30).hex(),
    "refs": {ref.name: ref.target_commit for refs in [api.list_repo_refs(repo)]
             for ref in [*refs.branches, *refs.tags]},
    "commits": [commit.commit_id for commit in api.list_repo_commits(repo)],
    "paths": [one.path for one in api.get_paths_info(repo, ["README.md", "no.txt"], expand=True)],
    "exists": [api.file_exists(repo, "adapter_model.safetensors"), api.file_exists(repo, "config.json")],
    "folder": folder,
}))
"""


def test_a_repository_can_be_browsed(tree: Tree, endpoint: str, client: Client) -> None:
    found = said(client(endpoint, "python", BROWSE))
    assert isinstance(found, dict)
    shapes, both = "banyan/en.shapes", {"banyan/en.shapes", "banyan/en.shapes.tools"}
    commit = commit_of(tree.pins["en/shapes"].digest)
    assert set(found["search"]) == both | {f"{one}_merged" for one in both}
    assert set(found["filter"]) == both
    assert commit in found["full"]
    assert found["paged"] == 6  # en, two adapters, two merged, the base; what is the node's own alone is not told
    assert found["sha"] == commit
    assert found["private"] is False
    assert "base_model:adapter:" + base_id(tree.base) in found["tags"]
    assert found["base"]["models"] == [{"id": base_id(tree.base)}]
    assert found["card"]["library_name"] == "peft"
    assert found["errors"] == [
        "RepositoryNotFoundError",
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
        "RemoteEntryNotFoundError",
        "RemoteEntryNotFoundError",
    ]
    names = [name.rpartition("/")[2] for name in found["ls"]]
    assert names == sorted(found["sizes"])
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "lineage.json", "tokenizer.json"} <= {
        *names
    }
    folder = Path(found["folder"])
    assert folder.name == commit
    assert {file.name: file.stat().st_size for file in folder.iterdir()} == {
        name: size for name, (size, _) in found["sizes"].items()
    }
    assert found["part"] == (folder / "adapter_model.safetensors").read_bytes()[10:30].hex()
    assert found["refs"] == {"main": commit, "v1": commit}
    assert found["commits"] == [commit]
    assert found["paths"] == ["README.md"]
    assert found["exists"] == [True, False]
    assert found["expand"][0].count("base_model") == 1
    assert shapes in found["search"]


def test_downloads_can_be_verified(endpoint: str, client: Client, tmp_path: Path) -> None:
    for repo in ("banyan/en.shapes.tools", "banyan/en"):
        assert client(endpoint, "hf", "download", repo).returncode == 0
        done = client(endpoint, "hf", "cache", "verify", repo)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_token_gives_sight_of_everything(endpoint: str, client: Client) -> None:
    text = """
import json
from huggingface_hub import HfApi
print(json.dumps([sorted(m.id for m in HfApi().list_models(search="own")), HfApi().repo_exists("banyan/en.own")]))
"""
    assert said(client(endpoint, "python", text)) == [[], False]
    assert said(client(endpoint, "python", text, token="hf_of_another_hub")) == [[], False]
    assert said(client(endpoint, "python", text, token=TOKEN)) == [["banyan/en.own", "banyan/en.own_merged"], True]
    assert "banyan" in client(endpoint, "hf", "auth", "whoami", token=TOKEN).stdout
    assert client(endpoint, "hf", "auth", "whoami", token="hf_of_another_hub").returncode != 0
