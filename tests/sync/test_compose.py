from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from node.models import composer
from registry.documents import BaseManifest
from registry.errors import BadData
from sync.delta import Delta
from sync.model import load_model
from tests.toy_tree import head_of, make_parent, put_toy_release


def test_the_model_of_a_path_is_the_base_and_the_sum_along_it(
    toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    """R6."""
    with closing(make_parent(tmp_path / "home", toy_base, "en", "en/b")) as node:
        base = BaseManifest.from_bytes(node.blobs.read(head_of(node, "en").release.base, 1 << 20))
        put_toy_release(node, "en", base, version=2, delta=toy_adapters["en/tools"])
        above = head_of(node, "en/b").pin
        put_toy_release(node, "en/b/c", base, above=above, delta=toy_adapters["en/shapes"])
        making = composer(node)
        chain = making.chain(head_of(node, "en/b/c").digest)
        assert [(link.release.path, link.release.version) for link in chain] == [("en", 1), ("en/b", 1), ("en/b/c", 1)]
        assert [set(delta) for delta in making.deltas(chain)] == [set(toy_adapters["en/shapes"])]
        found = {path: making.load(head_of(node, path).digest).model for path in ("en", "en/b", "en/b/c")}
    expected = {
        "en": load_model(toy_base, [toy_adapters["en/tools"]], "fp32").model,
        "en/b": load_model(toy_base, [], "fp32").model,  # a release is what it pins, whatever came after
        "en/b/c": load_model(toy_base, [toy_adapters["en/shapes"]], "fp32").model,
    }
    for path, model in expected.items():
        for name, tensor in model.state_dict().items():
            assert torch.equal(found[path].state_dict()[name], tensor)


def test_a_damaged_adapter_is_not_loaded(toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path) -> None:
    with closing(make_parent(tmp_path / "home", toy_base)) as node:
        base = BaseManifest.from_bytes(node.blobs.read(head_of(node, "en").release.base, 1 << 20))
        put_toy_release(node, "en", base, version=2, delta=toy_adapters["en/tools"])
        link = head_of(node, "en")
        assert link.release.adapter is not None
        blob = node.blobs.path(link.release.adapter.file.sha256)
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.chmod(0o600)
        blob.write_bytes(data)
        with pytest.raises(BadData):
            composer(node).load(link.digest)
