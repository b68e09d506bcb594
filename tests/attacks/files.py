"""Attacks in the files of an update: what stands in them, and how they are sent."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from registry.documents import AdapterShape
from tests.attacks.adapters import (
    FIRST,
    FIRST_B,
    SHAPE,
    Header,
    Tensors,
    declared,
    honest,
    joined,
    laid_out,
    with_header,
    with_tensors,
    written,
)
from tests.attacks.scene import HONEST, Attack, Scene

PICKLE = b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."
HALF = AdapterShape(rank=4, alpha=8.0, targets=("q_proj", "v_proj"), dtype="F16")
LARGEST = float(np.finfo(np.float32).max)


def sends(data: bytes, shape: AdapterShape = SHAPE) -> Callable[[Scene], str]:
    """The file is what was signed, and this."""
    return lambda scene: scene.file(data, declared(data, shape))


def tensors(change: Callable[[Tensors], object], shape: AdapterShape = SHAPE) -> Callable[[Scene], str]:
    return sends(with_tensors(change, shape), shape)


def header(change: Callable[[Header], object]) -> Callable[[Scene], str]:
    return sends(with_header(change))


def number(value: float, name: str = FIRST) -> Callable[[Tensors], object]:
    """One number in one tensor."""
    return lambda found: found[name].reshape(-1).__setitem__(-1, value)


def moved(by: int) -> Callable[[Header], object]:
    """The first tensor begins and ends elsewhere."""
    return lambda h: h[FIRST].update(data_offsets=[at + by for at in h[FIRST]["data_offsets"]])


def alike(h: Header) -> None:
    """Two tensors in the same place."""
    second = FIRST.replace("layers.0", "layers.1")
    h[second]["data_offsets"] = h[FIRST]["data_offsets"]


def renamed(name: str) -> Callable[[Tensors], object]:
    return lambda found: found.__setitem__(name, found.pop(FIRST))


def added(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda found: found.__setitem__(name, np.ones(shape, np.float32))


def times(factor: float) -> Callable[[Tensors], object]:
    """Model replacement: every B is larger."""

    def change(found: Tensors) -> None:
        for name in found:
            if "lora_B" in name:
                found[name] = found[name] * np.float32(factor)

    return change


def hidden(factor: float, c: float) -> Callable[[Tensors], object]:
    """The same change times `factor`, spread as (cB)(A/c) so that neither factor of it looks like much."""

    def change(found: Tensors) -> None:
        for name in found:
            found[name] = found[name] * np.float32(factor * c if "lora_B" in name else 1 / c)

    return change


def cancelling(a: float, b: float) -> Callable[[Tensors], object]:
    """Two terms that are opposite on paper and leave NaN or rounding noise in the arithmetic of a model."""

    def change(found: Tensors) -> None:
        for name in found:
            if "lora_A" in name:
                found[name][0], found[name][1] = a, -a
            else:
                found[name][:, 0] = found[name][:, 1] = b

    return change


def one_module(factor: float) -> Callable[[Tensors], object]:
    """The whole attack in a single module."""
    return lambda found: found.__setitem__(FIRST_B, found[FIRST_B] * np.float32(factor))


def many(count: int) -> bytes:
    record = '"t%d":{"dtype":"F16","shape":[1],"data_offsets":[%d,%d]}'
    text = "{" + ",".join(record % (i, 2 * i, 2 * i + 2) for i in range(count)) + "}"
    return joined(text.encode(), bytes(2 * count))


def empty_tensors(count: int) -> bytes:
    """A header that costs a reader seconds and a gigabyte, at 67 bytes a tensor."""
    text = "{" + ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count)) + "}"
    return joined(text.encode(), b"")


def key_twice() -> bytes:
    found, data = laid_out(honest())
    text = json.dumps(found).encode()[:-1] + b"," + json.dumps({FIRST: found[FIRST]}).encode()[1:]
    return joined(text, data)


def hole() -> bytes:
    """Some bytes between the header and the first tensor belong to nobody."""
    found, data = laid_out(honest())
    for record in found.values():
        record["data_offsets"] = [at + 8 for at in record["data_offsets"]]
    return joined(found, bytes(8) + data)


def archived() -> bytes:
    """What torch.save writes: a zip archive with a pickle."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
    return target.getvalue()


def tarred() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../.ssh/authorized_keys"), io.BytesIO())
    return target.getvalue()


def metadata(value: Any) -> Callable[[Scene], str]:
    return header(lambda h: h.__setitem__("__metadata__", value))


def rank_told(scene: Scene) -> str:
    """Rank 4 is declared, the tensors have 8."""
    wide = AdapterShape(**(SHAPE.model_dump() | {"rank": 8}))
    return scene.file(written(honest(wide)), declared(written(honest(wide)), SHAPE))


def alpha_told(scene: Scene) -> str:
    """The tensors of an honest update, read with the largest alpha that is allowed; they are ten times honest ones."""
    shape = AdapterShape(**(SHAPE.model_dump() | {"alpha": 16.0}))
    data = written(honest(shape, size=0.04))
    return scene.file(data, declared(data, shape))


def rows_file(data: bytes, rows: int) -> Callable[[Scene], str]:
    """A sound adapter with this transfer set."""

    def does(scene: Scene) -> str:
        file = declared(data, name="transfer.jsonl").file
        return scene.send(scene.sealed(transfer=file, transfer_rows=rows), HONEST, data)

    return does


LINE = b'{"input":"a","output":"b"}\n'


FILES = (
    Attack("header: a length of 2^63", "C15", sends(joined(b"{}", b"", 1 << 63)), "rejected: files.header: .*at most"),
    Attack("header: 1 MiB and a byte", "C15", sends(joined(b"{" + b" " * (1 << 20), b"")), "files.header: .*at most"),
    Attack("header: longer than the file", "C15", sends(joined(b"{}", b"", 5000)), "rejected: files.header: .*cut off"),
    Attack("header: a million tensors", "C15", sends(empty_tensors(1_000_000)), "rejected: files.header: .*at most"),
    Attack("header: 10,001 tensors", "C15", sends(many(10_001)), "rejected: files.header: .*more than 10000"),
    Attack("header: 18,000 empty tensors", "C15", sends(empty_tensors(18_000)), "files.header: .*more than 10000"),
    Attack("header: nested 50,000 deep", "C15", sends(joined(b'{"w":' + b"[" * 50_000, b"")), "files.header"),
    Attack("header: a tensor twice", "C15", sends(key_twice()), "rejected: files.header: .*twice"),
    Attack("header: tensors overlap", "C15", header(moved(-4)), "rejected: files.header"),
    Attack("header: two tensors in one place", "C15", header(alike), "rejected: files.header: .*overlaps|hole"),
    Attack("header: a hole", "C15", sends(hole()), "rejected: files.header: .*hole"),
    Attack(
        "header: trailing bytes", "C15", sends(HONEST + b"#!/bin/sh\n"), "rejected: files.header: .*10 bytes follow"
    ),
    Attack("header: cut off", "C15", sends(HONEST[:-1]), "rejected: files.header: .*cut off"),
    Attack(
        "header: offsets of 2^63",
        "C15",
        header(lambda h: h[FIRST].update(data_offsets=[2**63, 2**63 + 512])),
        "files.header",
    ),
    Attack("header: offsets below 0", "C15", header(lambda h: h[FIRST].update(data_offsets=[-512, 0])), "files.header"),
    Attack(
        "header: ends before it begins", "C15", header(lambda h: h[FIRST]["data_offsets"].reverse()), "files.header"
    ),
    Attack(
        "header: shape (0, 2^40)",
        "C15",
        header(lambda h: h.update(x={"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]})),
        "files.header: .*empty",
    ),
    Attack("header: shape (-1, -512)", "C15", header(lambda h: h[FIRST].update(shape=[-4, -32])), "files.header"),
    Attack(
        "header: a shape that overflows", "C15", header(lambda h: h[FIRST].update(shape=[2**33, 2**33])), "files.header"
    ),
    Attack("header: 9 dimensions", "C15", header(lambda h: h[FIRST].update(shape=[4, 32] + [1] * 7)), "files.header"),
    Attack("header: true for a number", "C15", header(lambda h: h[FIRST].update(shape=[True, 128])), "files.header"),
    Attack(
        "header: a number of 400,000 digits",
        "C15",
        sends(joined(b'{"w":' + b"9" * 400_000 + b"}", b"")),
        "files.header",
    ),
    Attack("header: NaN for a number", "C15", sends(joined(b'{"w":NaN}', b"")), "rejected: files.header"),
    Attack(
        "header: a dtype of 64 bits", "C15", header(lambda h: h[FIRST].update(dtype="F64")), "files.header: .*dtype"
    ),
    Attack("header: a field more", "C15", header(lambda h: h[FIRST].update(also=1)), "rejected: files.header"),
    Attack("header: a name that climbs", "C15", tensors(renamed("../../../etc/cron.d/x")), "files.header: .*no name"),
    Attack("header: a name with NUL", "C15", tensors(renamed("a\0b")), "rejected: files.header: .*no name"),
    Attack(
        "header: metadata of 70,000 characters", "C15", metadata({"note": "x" * 70_000}), "files.header: .*metadata"
    ),
    Attack(
        "header: metadata that is no text", "C15", metadata({"trust_remote_code": True}), "files.header: .*metadata"
    ),
    Attack("pickle: with the name of a safetensors file", "T10", sends(PICKLE), "rejected: files.header: .*a pickle"),
    Attack("pickle: in what torch.save writes", "T10", sends(archived()), "rejected: files.header: .*a zip archive"),
    Attack("pickle: behind a header", "T10", sends(joined(b"{}", PICKLE)), "rejected: files.header"),
    Attack(
        "pickle: adapter_model.bin",
        "T10",
        lambda s: s.file(PICKLE, declared(PICKLE, name="adapter_model.bin")),
        "files.header: .*a pickle",
    ),
    Attack("an archive: gzip", "T10", sends(gzip.compress(HONEST)), "rejected: files.header: .*gzip"),
    Attack("an archive: tar with a name that climbs", "T10", sends(tarred()), "rejected: files.header"),
    Attack("an empty file", "C15", sends(b""), "rejected: files.header: .*too few"),
    Attack("a GGUF file", "C15", sends(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60)), "rejected: files.header"),
    Attack(
        "a module is missing", "C16", tensors(lambda t: t.pop(FIRST)), "rejected: files.names: 1 tensors are missing"
    ),
    Attack(
        "a module more: the output matrix",
        "C16",
        tensors(added("base_model.model.lm_head.lora_A.weight", 4, 32)),
        "files.names: .*lm_head",
    ),
    Attack(
        "a module more: the embeddings",
        "C16",
        tensors(added("base_model.model.model.embed_tokens.weight", 300, 32)),
        "files.names: .*embed",
    ),
    Attack(
        "a module more: full weights of a layer",
        "C16",
        tensors(added("base_model.model.model.layers.0.self_attn.q_proj.weight", 32, 32)),
        "files.names",
    ),
    Attack(
        "a module more: a layer that is not there",
        "C16",
        tensors(added(FIRST.replace(".0.", ".2."), 4, 32)),
        "files.names: .*layers.2",
    ),
    Attack("a tokenizer as a tensor", "R14", tensors(added("tokenizer.json", 4)), "rejected: files.names: .*tokenizer"),
    Attack(
        "a chat template as a tensor", "R14", tensors(added("chat_template", 4)), "rejected: files.names: .*template"
    ),
    Attack("a name in other letters", "C16", tensors(renamed(FIRST.upper())), "rejected: files.names"),
    Attack("a factor turned over", "C16", tensors(lambda t: t.update({FIRST: t[FIRST].T})), "rejected: files.shapes"),
    Attack(
        "another dtype than declared", "C16", lambda s: s.file(written(honest(HALF), "F16")), "rejected: files.dtype"
    ),
    Attack("more rank than declared", "C16", rank_told, "rejected: files.shapes"),
    Attack(
        "a target that the base lacks",
        "C13",
        lambda s: s.file(HONEST, declared(HONEST, AdapterShape(**(SHAPE.model_dump() | {"targets": ("lm_head",)})))),
        "rejected: files.targets: .*lm_head",
    ),
    Attack("numbers: NaN", "C17", tensors(number(float("nan"))), "rejected: files.finite"),
    Attack("numbers: NaN of half floats", "C17", tensors(number(float("nan")), HALF), "rejected: files.finite"),
    Attack("numbers: infinity", "C17", tensors(number(float("inf"))), "rejected: files.finite"),
    Attack(
        "numbers: infinity below 0 at the end", "C17", tensors(number(float("-inf"), FIRST_B)), "rejected: files.finite"
    ),
    Attack("size: ten times", "C18", tensors(times(10)), "quarantined: size.relative"),
    Attack("size: a hundred times", "C18", tensors(times(100)), "quarantined: size.relative"),
    Attack("size: all of it in one module", "C18", tensors(one_module(30)), "quarantined: size.relative: .*q_proj"),
    Attack("size: hidden as (cB)(A/c)", "C18", tensors(hidden(10, 1e-6)), "quarantined: size.relative"),
    Attack("size: hidden the other way round", "C18", tensors(hidden(10, 1e6)), "quarantined: size.relative"),
    Attack("size: by the largest alpha", "C18", alpha_told, "quarantined: size.relative"),
    Attack("size: the largest floats", "C18", tensors(number(LARGEST)), "quarantined: size.relative"),
    Attack("size: terms that cancel on paper", "C24", tensors(cancelling(1e30, 1e3)), "quarantined: size.terms"),
    Attack("size: terms that overflow and cancel", "C24", tensors(cancelling(LARGEST, 1e3)), "quarantined: size.terms"),
    Attack("rows: fewer than declared", "C21", rows_file(LINE, 2), "rejected: files.readable: .*1 rows"),
    Attack(
        "rows: two million in one file", "C21", rows_file(LINE * 2_000_000, 5000), "rejected: files.readable: .*more"
    ),
    Attack(
        "rows: a key twice", "U10", rows_file(b'{"input":"a","input":"b","output":"c"}\n', 1), "files.readable: .*twice"
    ),
    Attack("rows: a field more", "U10", rows_file(b'{"input":"a","output":"b","run":"id"}\n', 1), "files.readable"),
    Attack(
        "rows: a line of 1 MiB",
        "U10",
        rows_file(b'{"input":"' + b"a" * (1 << 20) + b'","output":"b"}\n', 1),
        "files.readable: .*longer",
    ),
    Attack("rows: nested 100,000 deep", "U10", rows_file(b"[" * 100_000, 1), "rejected: files.readable"),
    Attack("rows: not text", "U10", rows_file(b"\xff\xfe\n", 1), "rejected: files.readable"),
    Attack(
        "rows: a tokenizer in their place", "R14", rows_file(b'{"version":"1.0","model":{}}\n', 1), "files.readable"
    ),
    Attack("rows: answers that are not the sender's model's", "C23", rows_file(LINE * 20, 20), "behaviour.transfer"),
)
