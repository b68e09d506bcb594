"""A model of a path as a folder that other programs load: merged (transformers), as one adapter (PEFT), or as GGUF.

The folder appears whole or not at all. Cloning, which keeps the signed chain, is left to `clone`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from node.bases import base_folder, read_manifest
from node.context import Node
from node.folders import new_folder
from node.lineage import write_lineage
from registry.cards import MAX_CARD_BYTES
from registry.errors import BadData
from registry.paths import Ref
from sync.chain import Link, find_release, stored_chain
from sync.checks.tensors import read_header

Form = Literal["merged", "adapter", "gguf", "gguf-adapter"]
DType = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written where."""

    folder: Path
    form: Form
    release: str
    files: tuple[str, ...]
    size_bytes: int


def export_model(node: Node, ref: Ref, to: Path, form: Form, dtype: DType = "auto") -> Exported:
    """Write the model of a path into the folder `to`, which must not exist yet or be empty.

    `dtype` is that of merged weights; `auto` keeps the base's. Raises BadData when there is nothing to export in this
    form or the folder is taken, LocalFailure when it cannot be written.
    """
    digest = find_release(node.store, ref)
    chain = stored_chain(node.store, node.blobs, digest)
    if form.endswith("adapter") and all(link.release.adapter is None for link in chain):
        raise BadData(f"{ref} is its base alone, without an adapter", f"node export {ref} --to {to} --format merged")
    if form.startswith("gguf"):
        from node.gguf import require_gguf

        require_gguf()
    with new_folder(to, "--to") as folder:
        if form == "merged":
            _write_merged(node, chain, folder, dtype)
        elif form == "gguf":
            _write_gguf(node, chain, folder, dtype)
        elif form == "gguf-adapter":
            _write_gguf_adapter(node, chain, folder)
        else:
            _write_adapter(node, chain, folder)
        card = node.blobs.read(chain[-1].release.card.sha256, MAX_CARD_BYTES)
        (folder / "README.md").write_bytes(card)
        write_lineage(folder, chain, read_manifest(node.blobs, chain[-1].release.base))
        files = sorted(file.name for file in folder.iterdir())
        size = sum((folder / name).stat().st_size for name in files)
    return Exported(to, form, digest, tuple(files), size)


def _write_merged(node: Node, chain: list[Link], folder: Path, dtype: DType) -> None:
    import torch

    from node.models import composer
    from sync.model import load_model

    base = base_folder(node.home, node.blobs, chain[-1].release.base)
    loaded = load_model(base, composer(node).deltas(chain), "fp32")
    kept = _stored_dtype(base) if dtype == "auto" else dtype
    torch_types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    loaded.model.to(torch_types[kept]).save_pretrained(folder)
    for file in base.iterdir():
        if (
            file.suffix != ".safetensors"
            and not (folder / file.name).exists()
            and not file.name.endswith(".index.json")
        ):
            shutil.copyfile(file, folder / file.name)
    for file in folder.iterdir():
        file.chmod(0o644)


def _stored_dtype(base: Path) -> Literal["fp32", "bf16", "fp16"]:
    """The type of most of the base's numbers."""
    names: dict[str, Literal["fp32", "bf16", "fp16"]] = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
    counts = dict.fromkeys(names, 0)
    for file in base.glob("*.safetensors"):
        for tensor in read_header(file).tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + prod(tensor.shape)
    return names[max(names, key=lambda name: counts[name])]


def _write_adapter(node: Node, chain: list[Link], folder: Path) -> None:
    from node.models import composer
    from sync.delta import stack, write_peft_folder

    write_peft_folder(
        stack(composer(node).deltas(chain)), folder, read_manifest(node.blobs, chain[-1].release.base).name
    )


def _write_gguf(node: Node, chain: list[Link], folder: Path, dtype: DType) -> None:
    from node import gguf
    from node.models import composer
    from sync.model import load_model

    base = base_folder(node.home, node.blobs, chain[-1].release.base)
    loaded = load_model(base, composer(node).deltas(chain), "fp32")
    number = _stored_dtype(base) if dtype == "auto" else dtype
    path = chain[-1].release.path
    gguf.write_model(loaded.model, loaded.tokenizer, base, folder, path, number)
    text = gguf.modelfile(path, loaded.tokenizer.chat_template)
    (folder / gguf.MODELFILE).write_text(text, encoding="utf-8")


def _write_gguf_adapter(node: Node, chain: list[Link], folder: Path) -> None:
    from node import gguf
    from node.models import composer
    from sync.delta import stack
    from sync.model import load_model

    base = base_folder(node.home, node.blobs, chain[-1].release.base)
    loaded = load_model(base, [], "fp32")
    path = chain[-1].release.path
    gguf.write_adapter(stack(composer(node).deltas(chain)), loaded.model.config, folder, path)
    name = read_manifest(node.blobs, chain[-1].release.base).name
    text = gguf.modelfile(path, loaded.tokenizer.chat_template, adapter_of=name)
    (folder / gguf.MODELFILE).write_text(text, encoding="utf-8")
