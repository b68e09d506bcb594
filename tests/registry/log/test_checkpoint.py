from __future__ import annotations

import base64
import hashlib

import pytest

from registry.errors import BadData
from registry.keys import PrivateKey, PublicKey
from registry.log.checkpoint import (
    MAX_NOTE_BYTES,
    Checkpoint,
    compare,
    open_checkpoint,
    origin_of,
    peek_checkpoint,
    sign_checkpoint,
)
from registry.log.merkle import Frontier, fold, leaf_hash

KEY, OTHER_KEY = PrivateKey.generate(), PrivateKey.generate()
ORIGIN = origin_of(KEY.public)
LEAVES = [leaf_hash(bytes([number])) for number in range(8)]
DASH = "\u2014"


def checkpoint(size: int, origin: str = ORIGIN) -> Checkpoint:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.add(leaf)
    return Checkpoint(origin, size, frontier.root())


NOTE = sign_checkpoint(checkpoint(5), KEY)


def resigned(text: str) -> str:
    """A note of any text, with a signature that holds."""
    name = text.partition("\n")[0]
    hint = hashlib.sha256(f"{name}\n".encode() + b"\x01" + KEY.public.raw).digest()[:4]
    return f"{text}\n{DASH} {name} {base64.b64encode(hint + KEY.ed25519.sign(text.encode())).decode()}\n"


def test_a_signature_is_that_of_the_specification() -> None:
    """L5: the example of Go's note package, which the format comes from: key PeterNeumann+c74f20a3."""
    key = PublicKey(base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:])
    signed = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    words = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    assert hashlib.sha256(b"PeterNeumann\n\x01" + key.raw).digest()[:4] == signed[:4] == bytes.fromhex("c74f20a3")
    assert key.verifies(signed[4:], words.encode())
    assert not key.verifies(signed[4:], words.upper().encode())
    assert not key.verifies(signed[4:-1], words.encode())


def test_a_checkpoint_is_a_signed_note() -> None:
    """L5."""
    lines = NOTE.split("\n")
    assert lines[:4] == [ORIGIN, "5", base64.b64encode(checkpoint(5).root).decode(), ""]
    dash, name, signature = lines[4].split(" ")
    assert (dash, name, lines[5:]) == (DASH, ORIGIN, [""])
    hint = hashlib.sha256(ORIGIN.encode() + b"\n\x01" + KEY.public.raw).digest()[:4]
    assert base64.b64decode(signature)[:4] == hint
    assert open_checkpoint(NOTE, KEY.public) == (checkpoint(5), NOTE)
    assert peek_checkpoint(NOTE) == checkpoint(5)


def test_signatures_of_unknown_keys_are_left_out() -> None:
    """L5: a witness, and another key under the same name, may have signed as well."""
    witness = f"{DASH} witness.example/w1 {base64.b64encode(b'0' * 76).decode()}\n"
    twin = sign_checkpoint(checkpoint(5), OTHER_KEY).rpartition("\n\n")[2]
    text, _, own = NOTE.rpartition("\n\n")
    assert open_checkpoint(f"{text}\n\n{witness}{twin}{own}", KEY.public) == (checkpoint(5), NOTE)


@pytest.mark.parametrize(
    "note",
    {
        "nothing": "",
        "no signature": NOTE.rpartition("\n\n")[0] + "\n",
        "an empty signature block": NOTE.rpartition("\n\n")[0] + "\n\n",
        "another key": sign_checkpoint(checkpoint(5), OTHER_KEY),
        "another name": NOTE.replace(f"{DASH} {ORIGIN}", f"{DASH} banyan.node/x"),
        "another size": NOTE.replace("\n5\n", "\n6\n"),
        "another origin": NOTE.replace(f"{ORIGIN}\n5", f"{ORIGIN}x\n5"),
        "a hyphen for the dash": NOTE.replace(DASH, "-"),
        "no last line end": NOTE.removesuffix("\n"),
        "carriage returns": NOTE.replace("\n", "\r\n"),
        "one bit of the signature": NOTE[:-5] + ("B" if NOTE[-5] != "B" else "C") + NOTE[-4:],
        "a good and a bad signature": NOTE + f"{DASH} {ORIGIN} " + NOTE.split(" ")[-1][:8] + "A" * 84 + "\n",
        "too long": NOTE.replace("\n\n", "\n\n" + f"{DASH} w {'A' * 88}\n" * (MAX_NOTE_BYTES // 80)),
        "seventeen signatures": NOTE + f"{DASH} w {'A' * 88}\n" * 16,
        "a blank signature line": NOTE + "\n",
        "an extension line": resigned(f"{ORIGIN}\n5\n{base64.b64encode(checkpoint(5).root).decode()}\nmore\n"),
        "two lines": resigned(f"{ORIGIN}\n5\n"),
        "size 0": resigned(f"{ORIGIN}\n0\n{base64.b64encode(fold([])).decode()}\n"),
        "size 05": resigned(f"{ORIGIN}\n05\n{base64.b64encode(checkpoint(5).root).decode()}\n"),
        "size -5": resigned(f"{ORIGIN}\n-5\n{base64.b64encode(checkpoint(5).root).decode()}\n"),
        "size 10**16": resigned(f"{ORIGIN}\n{10**16 - 1}\n{base64.b64encode(checkpoint(5).root).decode()}\n"),
        "a short root": resigned(f"{ORIGIN}\n5\n{base64.b64encode(bytes(31)).decode()}\n"),
        "a root in hex": resigned(f"{ORIGIN}\n5\n{checkpoint(5).root.hex()}\n"),
        "another base64 of the root": resigned(f"{ORIGIN}\n5\n{'A' * 42}B=\n"),
        "a space in the origin": resigned(f"a b\n5\n{base64.b64encode(checkpoint(5).root).decode()}\n"),
        "a plus in the origin": resigned(f"a+b\n5\n{base64.b64encode(checkpoint(5).root).decode()}\n"),
        "no origin": resigned(f"\n5\n{base64.b64encode(checkpoint(5).root).decode()}\n"),
        "a control character": resigned(f"a\x07b\n5\n{base64.b64encode(checkpoint(5).root).decode()}\n"),
    }.items(),
    ids=lambda case: case[0],
)
def test_what_is_no_checkpoint_of_the_key_is_refused(note: tuple[str, str]) -> None:
    """L5."""
    with pytest.raises(BadData):
        open_checkpoint(note[1], KEY.public)


def test_two_checkpoints_belong_to_one_log_or_do_not() -> None:
    """L10."""
    four, six = checkpoint(4), checkpoint(6)
    proof = [fold_of(4, 6)]
    assert compare(four, six, proof) == compare(six, four, proof) == "consistent"
    assert compare(four, four, None) == "consistent"
    assert compare(four, six, None) == "cannot tell"
    forked = Checkpoint(ORIGIN, 6, leaf_hash(b"fork"))
    assert compare(six, forked, None) == "split"
    assert compare(four, forked, proof) == "split"
    assert compare(four, six, []) == "split"
    assert compare(four, six, [*proof, *proof]) == "split"
    assert compare(four, checkpoint(6, "banyan.node/another"), proof) == "split"


def fold_of(start: int, end: int) -> bytes:
    frontier = Frontier()
    for leaf in LEAVES[start:end]:
        frontier.add(leaf)
    return frontier.root()
