"""Our reading of safetensors headers: what is refused and why, and that it never reads what the library would not."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from registry.errors import BadData, LocalFailure
from sync.checks import tensors
from sync.checks.tensors import Header, TensorEntry, read_header, where_not_finite

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw(header: bytes | dict[str, Any], data: bytes = bytes(8), length: int | None = None) -> bytes:
    """The bytes of a safetensors file, of whatever header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(**changes: Any) -> bytes:
    """A file of one tensor that differs from a sound one in the fields given."""
    return raw({"w": F32 | changes})


def two(first: list[int], second: list[int], data: int = 16) -> bytes:
    """A file of two tensors at these places."""
    return raw({"a": F32 | {"data_offsets": first}, "b": F32 | {"data_offsets": second}}, bytes(data))


def torch_saved() -> bytes:
    target = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, target)
    return target.getvalue()


def many(count: int) -> bytes:
    """Many tensors, each of one number."""
    record = '"t%d":{"dtype":"F16","shape":[1],"data_offsets":[%d,%d]}'
    header = "{" + ",".join(record % (i, 2 * i, 2 * i + 2) for i in range(count)) + "}"
    return raw(header.encode(), bytes(2 * count))


# What it is, the bytes, and the words by which its own message is known.
REFUSED: list[tuple[str, bytes, str]] = [
    ("an empty file", b"", "too few"),
    ("seven bytes", bytes(7), "too few"),
    ("no header", raw(b"", b""), "does not start with"),
    ("a header of 2^62 bytes in a small file", raw({"w": F32}, length=1 << 62), "at most 1048576 may be"),
    ("a header of 1 MiB + 1", raw(b"{" + b" " * (1 << 20)), "at most 1048576 may be"),
    ("a header longer than the file", raw({"w": F32}, length=1000), "it is cut off"),
    ("a pickle", b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94", "a pickle"),
    (
        "a pickle with a short header length",
        b"\x80\x02" + bytes(6) + b"cposix\nsystem\n" + bytes(900),
        "does not start with",
    ),
    ("what torch.save writes", torch_saved(), "a zip archive"),
    ("a gzip file", b"\x1f\x8b\x08\x00\x9a\x11\x42\x67" + bytes(60), "a gzip file"),
    ("a list", raw(b"[1]"), "does not start with"),
    ("white space first", raw(b' {"w":1}'), "does not start with"),
    ("not UTF-8", raw(b'{"\xff":1}'), "not UTF-8"),
    ("not JSON", raw(b'{"w":'), "not JSON"),
    ("nested without end", raw(b'{"w":' + b"[" * 50_000), "not JSON"),
    ("340,000 lists", raw(b'{"w":[' + b"[]," * 340_000 + b"1]}"), "more than 10000 tensors"),
    ("text after the object", raw(b'{"w":1} x'), "not JSON"),
    ("10,001 tensors", many(10_001), "more than 10000 tensors"),
    ("90,000 keys", raw(b"{" + b",".join(b'"%d":0' % i for i in range(90_000)) + b"}"), "more than 10000 tensors"),
    ("300,000 objects", raw(b'{"w":[' + b"{}," * 300_000 + b"{}]}"), "more than 10000 tensors"),
    ("a tensor twice", raw(b'{"w":%b,"w":%b}' % ((json.dumps(F32).encode(),) * 2)), "the key 'w' twice"),
    ("a tensor twice, once escaped", raw(b'{"w":1,"\\u0077":1}'), "the key 'w' twice"),
    ("a field twice", raw(b'{"w":{"dtype":"F32","dtype":"F32"}}'), "the key 'dtype' twice"),
    ("metadata twice", raw(b'{"__metadata__":{},"__metadata__":{}}'), "the key '__metadata__' twice"),
    ("a metadata key twice", raw(b'{"__metadata__":{"a":"","a":""}}'), "the key 'a' twice"),
    ("a load of metadata", raw({"__metadata__": {"a": "x" * 70_000}, "w": F32}), "more than 65536 characters"),
    ("metadata that are numbers", raw({"__metadata__": {"a": 1}, "w": F32}), "not a set of texts"),
    ("metadata that are a list", raw({"__metadata__": [], "w": F32}), "not a set of texts"),
    ("half a character", raw(b'{"__metadata__":{"a":"\\ud800"}}'), "half a character"),
    ("a name that climbs", raw({"../../etc/passwd": F32}), "no name for a tensor"),
    ("an absolute name", raw({"/etc/passwd": F32}), "no name for a tensor"),
    ("a name with NUL", raw({"w\x00": F32}), "no name for a tensor"),
    ("a name with a line break", raw({"w\n": F32}), "no name for a tensor"),
    ("a name with two dots", raw({"a..b": F32}), "no name for a tensor"),
    ("an empty name", raw({"": F32}), "no name for a tensor"),
    ("a long name", raw({"w" * 201: F32}), "no name for a tensor"),
    ("a name that looks like another", raw({"model.lаyers": F32}), "no name for a tensor"),
    ("no offsets", raw({"w": {"dtype": "F32", "shape": [2]}}), "not described by"),
    ("a field more", raw({"w": F32 | {"code": "x"}}), "not described by"),
    ("a tensor that is a number", raw({"w": 1}), "not described by"),
    ("a dtype of integers", one(dtype="I64", shape=[1]), "has the dtype 'I64'"),
    ("an unknown dtype", one(dtype="F32\u202e"), "has the dtype"),
    ("a dtype that is a list", one(dtype=["F32"]), "has the dtype"),
    ("a shape that is a number", one(shape=2), "a shape that is not a list"),
    ("a shape of true", one(shape=[True, 2]), "a shape that is not a list"),
    ("a shape of texts", one(shape=["2"]), "a shape that is not a list"),
    ("too many dimensions", one(shape=[1] * 8 + [2]), "a shape that is not a list"),
    ("a shape of (0, 2^40)", raw({"w": F32 | {"shape": [0, 1 << 40], "data_offsets": [0, 0]}}, b""), "is empty"),
    ("a shape that overflows 64 bits", one(shape=[1 << 33, 1 << 33]), "needs 295147905179352825856 bytes"),
    ("a number beyond reason", raw(b'{"w":%b}' % (b"9" * 5_000)), "more than any file can hold"),
    ("a negative number", one(shape=[-2]), "negative"),
    ("a negative nought", raw(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}'), "negative"),
    ("a broken number", one(shape=[2.0]), "only whole numbers"),
    ("NaN as a number", raw(b'{"w":NaN}'), "only whole numbers"),
    ("offsets backwards", one(data_offsets=[8, 0]), "not a start and an end"),
    ("three offsets", one(data_offsets=[0, 4, 8]), "not a start and an end"),
    ("offsets of texts", one(data_offsets=["0", "8"]), "not a start and an end"),
    ("a shape larger than its bytes", one(shape=[3]), "needs 12 bytes"),
    ("a shape smaller than its bytes", one(shape=[1]), "needs 4 bytes"),
    ("an overlap", two([0, 8], [4, 12], 12), "overlaps"),
    ("the same bytes twice", two([0, 8], [0, 8], 8), "overlaps"),
    ("a hole", two([0, 8], [12, 20], 20), "a hole of 4 bytes"),
    ("a hole at the start", two([4, 12], [12, 20], 20), "a hole of 4 bytes"),
    ("trailing bytes", two([0, 8], [8, 16], 17), "1 bytes follow the last"),
    ("only trailing bytes", raw({}), "8 bytes follow the last"),
    ("numbers cut off", two([0, 8], [8, 16], 15), "the tensors need 16 bytes"),
]


@pytest.mark.parametrize(("data", "words"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_bad_header_is_refused_with_its_own_message(tmp_path: Path, data: bytes, words: str) -> None:
    """C15."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    with pytest.raises(BadData) as refusal:
        read_header(file)
    assert words in refusal.value.message
    assert refusal.value.message.isprintable()
    assert refusal.value.message.isascii()
    assert len(refusal.value.message) < 500


@pytest.mark.parametrize(
    "data",
    [
        raw(b'{"w":[' + b"{}," * 340_000 + b"{}]}"),
        raw(b'{"w":' + b"[" * 80_000),
        raw(b'{"w":[' + b"[]," * 80_000 + b"1]}"),
        raw(b"{" + b",".join(b'"%d":0' % i for i in range(90_000)) + b"}"),
        raw({"__metadata__": {str(i): "" for i in range(70_000)}}),
    ],
    ids=["objects", "depth", "lists", "keys", "metadata"],
)
def test_header_bomb_costs_little_memory(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(BadData):
            read_header(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_sound_header_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    header = {
        "__metadata__": {"format": "pt", "größe": "ß"},
        "b.1": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]},
        "a-0": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode() + b"   "
    file.write_bytes(raw(text, bytes(16)))
    found = read_header(file)
    assert list(found.tensors.items()) == [
        ("a-0", TensorEntry("F32", (), 0, 4)),
        ("b.1", TensorEntry("BF16", (2, 3), 4, 16)),
    ]
    assert found.data_at == 8 + len(text)


def test_ten_thousand_tensors_are_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(many(10_000))
    assert len(read_header(file).tensors) == 10_000


def test_what_is_no_file_is_our_own_failure(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "gone"):
        with pytest.raises(LocalFailure, match="not a file"):
            read_header(missing)


def same_as_the_library(data: bytes, header: Header) -> bool:
    """Whether the library reads the same names, dtypes, shapes and bytes; it raises where it refuses the file."""
    theirs = {
        name: (record["dtype"], tuple(record["shape"]), bytes(record["data"]))
        for name, record in safetensors.deserialize(data)
    }
    ours = {
        name: (entry.dtype, entry.shape, data[header.data_at + entry.start : header.data_at + entry.end])
        for name, entry in header.tensors.items()
    }
    return ours == theirs


def read_or_refuse(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        header = read_header(file)
    except BadData:
        return
    assert same_as_the_library(data, header)


SOUND = save(
    {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(3, 2, dtype=torch.bfloat16)}, {"format": "pt"}
)
PIECES = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"1", b"8", b"-", b"e1", b".5", b"\\u0061", b"null", b"true"]
MUTATION = st.tuples(
    st.sampled_from(["flip", "insert", "delete", "copy"]),
    st.integers(0, len(SOUND) + 8),
    st.integers(1, 40),
    st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=4)),
)


def mutate(data: bytes, mutations: list[tuple[str, int, int, bytes]], *, keep_length: bool) -> bytes:
    for kind, at, count, piece in mutations:
        match kind:
            case "flip":
                data = data[:at] + piece + data[at + len(piece) :]
            case "insert":
                data = data[:at] + piece + data[at:]
            case "delete":
                data = data[:at] + data[at + count :]
            case "copy":
                data = data[:at] + data[at : at + count] + data[at:]
    if keep_length and (end := data.rfind(b"}}")) > 8:  # so that the mutation reaches the JSON, not the length alone
        data = struct.pack("<Q", end + 2 - 8) + data[8:]
    return data


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(MUTATION, max_size=4), st.booleans())
@example([], False)
def test_mutated_file_is_refused_or_read_as_the_library_reads_it(
    tmp_path: Path, mutations: list[tuple[str, int, int, bytes]], keep_length: bool
) -> None:
    read_or_refuse(tmp_path / "x.safetensors", mutate(SOUND, mutations, keep_length=keep_length))


NUMBER = st.one_of(st.integers(0, 12), st.sampled_from([0, 4, 8, 16, -1, 1 << 40, 1 << 63, 1 << 64]))
RECORD = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "F64", "f32"]),
        "shape": st.lists(NUMBER, max_size=3),
        "data_offsets": st.lists(NUMBER, min_size=2, max_size=2),
    }
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c.d", "../e"]), RECORD, max_size=3), st.integers(0, 24))
def test_any_header_is_refused_or_read_as_the_library_reads_it(
    tmp_path: Path, header: dict[str, Any], data: int
) -> None:
    read_or_refuse(tmp_path / "x.safetensors", raw(header, bytes(data)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["F32", "F16", "BF16"]), st.lists(st.integers(1, 5), max_size=4)),
        min_size=1,
        max_size=12,
    )
)
def test_what_the_library_writes_is_read(tmp_path: Path, contents: list[tuple[str, list[int]]]) -> None:
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    data = save({f"t{i}": torch.ones(shape, dtype=kinds[kind]) for i, (kind, shape) in enumerate(contents)})
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    header = read_header(file)
    assert same_as_the_library(data, header)
    assert where_not_finite(file, header) is None


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(min_size=4, max_size=64).map(lambda data: data[: len(data) // 4 * 4]))
@example(bytes.fromhex("0000807f"))
@example(bytes.fromhex("000080ff"))
@example(bytes.fromhex("ffff7f7f"))
@example(bytes.fromhex("0100807f"))
@example(bytes.fromhex("007c00fc"))
@example(bytes.fromhex("ff7bfffb"))
def test_finite_agrees_with_torch(tmp_path: Path, dtype: str, data: bytes) -> None:
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    numbers = torch.frombuffer(bytearray(data), dtype=kind)
    file = tmp_path / "x.safetensors"
    record = {"dtype": dtype, "shape": [numbers.numel()], "data_offsets": [0, len(data)]}
    file.write_bytes(raw({"w": record}, data))
    assert (where_not_finite(file, read_header(file)) is None) == bool(torch.isfinite(numbers).all())


@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 1025, 2047, 2499])
def test_nan_is_found_in_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """C17."""
    monkeypatch.setattr(tensors, "CHUNK_BYTES", 4096)
    numbers = np.zeros(2500, dtype="<f4")
    numbers[at] = np.nan
    file = tmp_path / "x.safetensors"
    sound = {"dtype": "F32", "shape": [2500], "data_offsets": [0, 10_000]}
    file.write_bytes(
        raw({"sound": sound, "bad": sound | {"data_offsets": [10_000, 20_000]}}, bytes(10_000) + numbers.tobytes())
    )
    assert where_not_finite(file, read_header(file)) == "bad"


def test_file_that_shrinks_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(raw({"w": F32}))
    header = read_header(file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(BadData, match="ends inside"):
        where_not_finite(file, header)
