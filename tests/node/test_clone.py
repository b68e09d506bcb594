from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from node.api.app import create_app
from node.bases import base_folder
from node.clone import CloneResult, clone
from node.context import Node
from node.stacked import StackedAdapters, stacked_shape
from registry.documents import AdapterShape, BaseManifest, ReleasePin
from registry.errors import BadData, LocalFailure
from registry.paths import Ref
from registry.store import select
from registry.tables import PeerRow
from sync.chain import stored_chain
from sync.delta import Delta, Factor, read_adapter, stack, write_adapter
from sync.model import load_model
from tests.world import enrol_child, make_node, own_work, put_base, put_release, put_tree, snapshot, utc_now

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers so

MODULES = [f"model.layers.{i}.self_attn.{name}" for i in range(2) for name in ("q_proj", "v_proj")]


def random_delta(seed: int, rank: int) -> Delta:
    made = torch.Generator().manual_seed(seed)
    outputs = {"q_proj": 32, "v_proj": 16}
    return {
        name: Factor(
            a=torch.randn(rank, 32, generator=made),
            b=torch.randn(outputs[name.rpartition(".")[2]], rank, generator=made) / 20,
        )
        for name in MODULES
    }


@dataclass
class Tree:
    parent: Node
    child: Node
    base: BaseManifest
    pins: dict[str, ReleasePin]
    url: str
    adapters: dict[str, tuple[Path, AdapterShape]]


def grow(node: Node, base_files: Path, folder: Path) -> tuple[BaseManifest, dict[str, ReleasePin], dict]:
    """master has no adapter, en one of rank 3, en/finance two versions of rank 2."""
    base = put_base(node, {file.name: file.read_bytes() for file in base_files.iterdir()})
    pins = {"master": put_release(node, "master", base)}
    adapters = {}
    for seed, (path, version, above, rank) in enumerate(
        [("en", 1, "master", 3), ("en/finance", 1, "en", 2), ("en/finance", 2, "en", 2)]
    ):
        file = folder / f"{seed}.safetensors"
        shape = write_adapter(random_delta(seed, rank), file)
        name = f"{path}@v{version}"
        pins[name] = put_release(
            node, path, base, version=version, above=pins[above], adapter=file.read_bytes(), shape=shape
        )
        pins[path] = pins[name]
        adapters[name] = (file, shape)
    return base, pins, adapters


@pytest.fixture
def tree(tmp_path: Path, serve: Callable, tiny_base: Path) -> Iterator[Tree]:
    parent = make_node(tmp_path / "parent", "master", "en", "en/finance")
    base, pins, adapters = grow(parent, tiny_base, tmp_path)
    url = serve(create_app(parent))
    child = make_node(tmp_path / "child", "en/finance/cards")
    enrol_child(child, parent, url, "en/finance/cards")
    yield Tree(parent, child, base, pins, url, adapters)
    child.close()
    parent.close()


def take(tree: Tree, ref: str, out: Path, **options: object) -> CloneResult:
    return clone(tree.child, Ref.parse(ref), out, now=utc_now(), **options)


def files_of(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(1, 40)[None]).logits


def test_a_clone_is_a_peft_folder_that_gives_the_sum_of_the_path(tree: Tree, tmp_path: Path) -> None:
    result = take(tree, "en/finance", tmp_path / "out")
    assert (result.release, result.source, result.new) == (tree.pins["en/finance@v2"].digest, tree.url, True)
    assert sorted(files_of(result.folder)) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "lineage.json",
    ]
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(result.base_folder), result.folder)
    deltas = [read_adapter(*tree.adapters[name]) for name in ("en@v1", "en/finance@v2")]
    expected = load_model(result.base_folder, deltas, "fp32").model
    assert torch.allclose(logits(loaded), logits(expected), atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(result.base_folder)
    assert not torch.allclose(logits(loaded), logits(plain), atol=1e-2)
    assert (result.folder / "README.md").read_text() == "# en/finance version 2\n"


def test_a_deep_path_whose_rank_is_above_that_of_any_adapter_is_cloned(tiny_base: Path, tmp_path: Path) -> None:
    """Exactly: nothing is recompressed. Its parts have at most rank 256 each, their sum as many as there are."""
    node = make_node(tmp_path / "home", "master", "en", "en/finance")
    base = put_base(node, {file.name: file.read_bytes() for file in tiny_base.iterdir()})
    deltas, pin = [random_delta(seed, 128) for seed in range(3)], None
    for path, delta in zip(("master", "en", "en/finance"), deltas, strict=True):
        shape = write_adapter(delta, tmp_path / "one.safetensors")
        pin = put_release(node, path, base, above=pin, adapter=(tmp_path / "one.safetensors").read_bytes(), shape=shape)
    result = clone(node, Ref.parse("en/finance"), tmp_path / "out", now=utc_now())
    assert json.loads((result.folder / "adapter_config.json").read_text())["r"] == 3 * 128
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(result.base_folder), result.folder)
    expected = load_model(result.base_folder, deltas, "fp32").model
    assert torch.allclose(logits(loaded), logits(expected), atol=1e-4)
    chain = stored_chain(node.store, node.blobs, pin.digest)
    kept = StackedAdapters(tmp_path / "stacked", 1 << 30).file(pin.digest, lambda: deltas)
    again = read_adapter(kept.path, stacked_shape(chain))
    assert all(torch.equal(again[name].product(), stack(deltas)[name].product()) for name in MODULES)
    node.close()


def test_the_lineage_names_everything_that_the_clone_was_made_of(tree: Tree, tmp_path: Path) -> None:
    result = take(tree, "en/finance@v1", tmp_path / "out")
    lineage = json.loads((result.folder / "lineage.json").read_text())
    assert (lineage["path"], lineage["version"]) == ("en/finance", 1)
    assert lineage["base"]["digest"] == tree.base.digest
    assert lineage["base"]["files"] == files_of(result.base_folder)
    assert [(one["path"], one["version"], one["release"], one["signer"]) for one in lineage["sum_of"]] == [
        (path, 1, tree.pins[pin].digest, tree.parent.key.public.id)
        for path, pin in (("master", "master"), ("en", "en"), ("en/finance", "en/finance@v1"))
    ]
    written = files_of(result.folder)
    del written["lineage.json"]
    assert lineage["files"] == written


def test_a_path_without_adapters_is_cloned_with_one_that_changes_nothing(tree: Tree, tmp_path: Path) -> None:
    result = take(tree, "master", tmp_path / "out")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(result.base_folder), result.folder)
    plain = AutoModelForCausalLM.from_pretrained(result.base_folder)
    assert torch.equal(logits(loaded), logits(plain))


def test_cloning_again_changes_nothing(tree: Tree, tmp_path: Path) -> None:
    first = take(tree, "en/finance", tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    again = take(tree, "en/finance", tmp_path / "out")
    assert (again.new, again.moved_bytes, again.files) == (False, 0, first.files)
    assert {file: file.stat().st_mtime_ns for file in first.folder.iterdir()} == before
    assert first.moved_bytes > 50_000


def test_what_is_in_the_way_is_never_overwritten(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(BadData, match="exists already") as caught:
        take(tree, "en/finance", tmp_path / "out")
    assert "(--out)" in caught.value.hint
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    take(tree, "en/finance", tmp_path / "other")
    (tmp_path / "other/README.md").write_text("changed by hand")
    with pytest.raises(BadData, match="exists already"):
        take(tree, "en/finance", tmp_path / "other")
    with pytest.raises(BadData, match="exists already"):
        take(tree, "en/finance@v1", tmp_path / "other")


def test_by_version_the_newest_stays_the_head(tree: Tree, tmp_path: Path) -> None:
    take(tree, "en/finance", tmp_path / "new")
    take(tree, "en/finance@v1", tmp_path / "old")
    assert snapshot(tree.child)[1]["en/finance"] == tree.pins["en/finance@v2"].digest
    assert files_of(tmp_path / "new") != files_of(tmp_path / "old")


def test_a_version_that_is_here_needs_no_parent(tree: Tree, tmp_path: Path) -> None:
    first = take(tree, "en/finance", tmp_path / "first")
    with tree.child.store.transaction() as session:
        session.scalars(select(PeerRow)).one().url = "http://127.0.0.1:9"
    second = take(tree, "en/finance@v2", tmp_path / "second")
    assert second.source is None
    assert files_of(first.folder) == files_of(second.folder)
    with pytest.raises(LocalFailure, match="cannot be reached"):
        take(tree, "en/finance", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_our_own_work_is_cloned_from_here(tree: Tree, tmp_path: Path) -> None:
    take(tree, "en/finance", tmp_path / "above")
    file, shape = tree.adapters["en/finance@v1"]
    own = own_work(tree.child, tree.pins["en/finance"], "en/finance/cards", file.read_bytes(), shape=shape)
    result = take(tree, "en/finance/cards", tmp_path / "own")
    assert (result.release, result.source) == (own.digest, None)


def test_from_another_address_the_signatures_count(tree: Tree, tmp_path: Path, serve: Callable) -> None:
    mirror = make_node(tmp_path / "mirror", "de")
    enrol_target = serve(create_app(mirror))
    with pytest.raises(LocalFailure, match="does not serve en/finance; it serves nothing"):
        take(tree, "en/finance", tmp_path / "out", source=enrol_target)
    pins = put_tree(mirror, "en/finance")
    with pytest.raises(BadData, match="not trusted"):
        take(tree, "en/finance", tmp_path / "out", source=enrol_target + "/")
    assert pins["en/finance"].digest not in snapshot(tree.child)[0]
    assert not (tmp_path / "out").exists()
    mirror.close()


def test_a_path_or_version_that_is_not_there(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="serves en, en/finance, master"):
        take(tree, "en/travel", tmp_path / "out")
    with pytest.raises(LocalFailure, match="has no release en/finance@v9"):
        take(tree, "en/finance@v9", tmp_path / "out")
    alone = make_node(tmp_path / "alone", "de")
    with pytest.raises(LocalFailure, match="has no release of en"):
        clone(alone, Ref.parse("en"), tmp_path / "out", now=utc_now())
    alone.close()


def test_a_damaged_file_here_is_fetched_again(tree: Tree, tmp_path: Path) -> None:
    take(tree, "en/finance", tmp_path / "first")
    adapter = tree.adapters["en/finance@v2"][0].read_bytes()
    blob = tree.child.blobs.path(hashlib.sha256(adapter).hexdigest())
    blob.chmod(0o600)
    blob.write_bytes(adapter[:-1] + b"x")
    with pytest.raises(BadData, match="damaged and was set aside"):
        take(tree, "en/finance", tmp_path / "second")
    assert not (tmp_path / "second").exists()
    again = take(tree, "en/finance", tmp_path / "second")
    assert files_of(again.folder) == files_of(tmp_path / "first")


def test_the_folder_of_a_base_is_made_anew_when_it_was_touched(tree: Tree, tmp_path: Path) -> None:
    folder = take(tree, "en", tmp_path / "out").base_folder
    whole = files_of(folder)
    (folder / "pytorch_model.bin").write_bytes(b"somebody put this here")
    assert files_of(base_folder(tree.child.home, tree.child.blobs, tree.base.digest)) == whole
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/hostname")
    assert files_of(base_folder(tree.child.home, tree.child.blobs, tree.base.digest)) == whole
    shutil.rmtree(folder)
    assert files_of(base_folder(tree.child.home, tree.child.blobs, tree.base.digest)) == whole
    assert sorted(file.name for file in tree.child.home.bases.iterdir()) == [tree.base.digest]


def test_what_a_killed_clone_left_is_removed(tree: Tree, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".out.{dead.pid}.partial").mkdir()
    (tmp_path / f".out.{os.getppid()}.partial").mkdir()  # of a process that runs: it stays
    take(tree, "en", tmp_path / "out")
    assert [file.name for file in tmp_path.glob(".out.*")] == [f".out.{os.getppid()}.partial"]
