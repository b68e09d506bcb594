"""Signed checkpoints of a log, and what two of them say about it. Pure.

A checkpoint is a C2SP signed note (c2sp.org/signed-note, c2sp.org/tlog-checkpoint): the origin that names the log, its
size, its root, and the log's Ed25519 signature. Further signatures, as of witnesses, may follow and are not read.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal

from registry.errors import BadData
from registry.keys import PrivateKey, PublicKey
from registry.log.merkle import HASH_BYTES, MAX_SIZE, BadProof, Proof, check_consistency

MAX_NOTE_BYTES: Final = 64 << 10
MAX_SIGNATURES: Final = 16
ED25519: Final = b"\x01"  # the signature type of c2sp.org/signed-note
NOTE_MEDIA_TYPE: Final = "text/plain; charset=utf-8"

_ORIGIN: Final = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII without space and plus, as a key name must be
_SIZE: Final = re.compile(r"[1-9][0-9]{0,15}")
_SIGNATURE_LINE: Final = re.compile(r"\u2014 (\S+) ([A-Za-z0-9+/]+={0,2})")

Standing = Literal["consistent", "cannot tell", "split"]
STANDINGS: Final[tuple[Standing, ...]] = ("consistent", "cannot tell", "split")  # the worst last


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself at one moment: `size` leaves have the root hash `root`."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The part of the note that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def origin_of(key: PublicKey) -> str:
    """The origin of a log that begins under a key; it stays when the key changes."""
    return f"banyan.node/{key.id}"


def sign_checkpoint(checkpoint: Checkpoint, key: PrivateKey) -> str:
    """The signed note (L5); the name of the key in it is the origin."""
    signature = _key_hash(checkpoint.origin, key.public) + key.ed25519.sign(checkpoint.text.encode())
    return f"{checkpoint.text}\n\u2014 {checkpoint.origin} {base64.b64encode(signature).decode()}\n"


def open_checkpoint(note: str, key: PublicKey) -> tuple[Checkpoint, str]:
    """Verify a note (L5); the checkpoint, and the note with the signature of `key` alone, as it is kept.

    Raises BadData unless `key` signed it in the origin's name.
    """
    checkpoint, signatures = _read(note)
    ours = [signed for name, signed in signatures if name == checkpoint.origin]
    ours = [signed for signed in ours if signed[:4] == _key_hash(checkpoint.origin, key)]
    if not ours:
        raise BadData(f"the checkpoint of {checkpoint.origin} is not signed by key {key.id}")
    if not all(key.verifies(signed[4:], checkpoint.text.encode()) for signed in ours):
        raise BadData(f"the signature of the checkpoint does not hold: said to be by key {key.id}")
    line = f"\u2014 {checkpoint.origin} {base64.b64encode(ours[0]).decode()}\n"
    return checkpoint, f"{checkpoint.text}\n{line}"


def peek_checkpoint(note: str) -> Checkpoint:
    """What a note says. Nothing is verified: for notes of our own, and to find the key. Raises BadData."""
    return _read(note)[0]


def compare(one: Checkpoint, other: Checkpoint, proof: Proof | None) -> Standing:
    """Whether two checkpoints that one key signed belong to one log that only grew (L10).

    `proof` is the log's answer to the question for consistency; None where there was no answer. Two logs of one key,
    two roots of one size, and a proof that does not hold are a split view. Equal sizes need no proof.
    """
    if one.origin != other.origin:
        return "split"
    first, second = sorted((one, other), key=lambda checkpoint: checkpoint.size)
    if first.size == second.size:
        return "consistent" if first.root == second.root else "split"
    if proof is None:
        return "cannot tell"
    try:
        check_consistency(first.size, first.root, second.size, second.root, proof)
    except BadProof:
        return "split"
    return "consistent"


def _key_hash(name: str, key: PublicKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + key.raw).digest()[:4]


def _read(note: str) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """The three lines of a checkpoint (no extension lines) and every signature as (name, bytes); raises BadData."""
    text, separator, signed = note.rpartition("\n\n")
    lines = text.split("\n")
    bad = BadData("not a checkpoint: a signed note with origin, size and root", "is this the address of a node?")
    if len(note.encode("utf-8", "replace")) > MAX_NOTE_BYTES or not separator or len(lines) != 3:
        raise bad
    origin, size, root = lines
    if not (_ORIGIN.fullmatch(origin) and _SIZE.fullmatch(size) and int(size) <= MAX_SIZE):
        raise bad
    checkpoint = Checkpoint(origin, int(size), _base64(root))
    found = [_SIGNATURE_LINE.fullmatch(line) for line in signed.removesuffix("\n").split("\n")]
    signatures = [(match[1], _base64(match[2])) for match in found if match]
    if len(signatures) != len(found) or not signed.endswith("\n") or len(found) > MAX_SIGNATURES:
        raise bad
    if len(checkpoint.root) != HASH_BYTES or checkpoint.text != f"{text}\n":
        raise bad
    return checkpoint, signatures


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise BadData("not a checkpoint: not base64", "is this the address of a node?") from error
