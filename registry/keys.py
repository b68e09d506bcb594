"""Ed25519 keys: who a node is, and the file that holds its private key.

Signing and verifying documents is left to `registry.envelope`; which keys may speak for what, to the store.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from registry.errors import BadData, LocalFailure

KeyId = str  # SHA-256 of the raw public key in hex: always computed, never read

KEY_BYTES: Final = 32
MAX_KEY_FILE_BYTES: Final = 16_384

# RFC 8032: y is 255 bits, below the prime. The points of small order (y as little-endian hex) would make signatures
# that anyone can forge. Source of the two of order 8: libsodium, ed25519_ref10.c, ge25519_has_small_order.
_PRIME: Final = 2**255 - 19
_SMALL_ORDER: Final = frozenset(
    {0, 1, _PRIME - 1}
    | {
        int.from_bytes(bytes.fromhex(point), "little")
        for point in (
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        )
    }
)


@dataclass(frozen=True)
class PublicKey:
    """A public key, 32 raw bytes (K1, K3). Raises BadData where the bytes cannot be a key that proves anything."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise BadData(f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(self.raw)}")
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if y >= _PRIME or y in _SMALL_ORDER:
            raise BadData("this public key is not safe: anyone could sign for it", hint="make a new key")

    @classmethod
    def from_hex(cls, text: str) -> PublicKey:
        """Read what `hex` writes; raises BadData."""
        try:
            key = cls(bytes.fromhex(text))
        except ValueError as error:
            raise BadData(f"not a public key in hex: {text!a:.80}") from error
        if key.hex != text:
            raise BadData(f"not a public key in lower-case hex: {text!a:.80}")
        return key

    @property
    def hex(self) -> str:
        """The raw key in 64 lower-case hex characters."""
        return self.raw.hex()

    @cached_property
    def id(self) -> KeyId:
        """The key's id (K2): SHA-256 of the raw key."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def fingerprint(self) -> str:
        """The first half of the id in 8 groups of 4, for two people to compare (K4)."""
        return " ".join(self.id[start : start + 4] for start in range(0, 32, 4))

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether this key made an Ed25519 signature (RFC 8032) of some bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"PublicKey({self.fingerprint})"


class PrivateKey:
    """The key that a node signs with. `ed25519` is the library's key, for those that sign; it is never printed."""

    __slots__ = ("ed25519", "public")

    def __init__(self, ed25519: Ed25519PrivateKey) -> None:
        self.ed25519: Final = ed25519
        self.public: Final = PublicKey(ed25519.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"PrivateKey(of {self.public!r})"

    @classmethod
    def generate(cls) -> PrivateKey:
        """Make a new key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, secret: bytes) -> PrivateKey:
        """The key of a secret of 32 bytes (RFC 8032, 5.1.5), for nodes that are to have the same key again."""
        if len(secret) != KEY_BYTES:
            raise BadData(f"the secret of an Ed25519 key has {KEY_BYTES} bytes, not {len(secret)}")
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    @classmethod
    def load(cls, file: Path, passphrase: str | None = None) -> PrivateKey:
        """Read a key file (K6).

        Raises LocalFailure if it is missing or open to others, BadData if it is not a key or the passphrase is wrong.
        """
        return cls(_parse_pem(_read_private(file), file, passphrase))

    def save(self, file: Path, passphrase: str | None = None) -> None:
        """Write the key as PKCS #8 PEM, mode 0600, whole or not at all, never over another (K5). LocalFailure."""
        lock = (
            serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
        )
        pem = self.ed25519.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_new(file, pem)
        except FileExistsError as error:
            raise LocalFailure(
                f"there is a key already: {file}",
                hint="keep it, or move it away and keep it safe: it is who this node is",
            ) from error
        except OSError as error:
            raise LocalFailure(f"cannot write the key file {file}: {error.strerror}") from error


def _write_new(file: Path, data: bytes) -> None:
    """Write beside the file, then give it its name, which fails if the name is taken: a kill leaves no half key."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # O_EXCL, mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.link(temporary, file)
    finally:
        temporary.unlink()
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_private(file: Path) -> bytes:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise LocalFailure(f"there is no key file: {file}", hint="run `node init`") from error
    except OSError as error:
        raise LocalFailure(f"cannot open the key file {file}: {error.strerror}") from error
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise LocalFailure(f"the key file is not a regular file: {file}")
        if mode & 0o077:
            raise LocalFailure(
                f"the key file can be read by others (mode {stat.S_IMODE(mode):04o}): {file}",
                hint=f"run `chmod 600 {file}`; if others may have read it, make a new key",
            )
        return os.read(handle, MAX_KEY_FILE_BYTES)
    finally:
        os.close(handle)


def _parse_pem(pem: bytes, file: Path, passphrase: str | None) -> Ed25519PrivateKey:
    if passphrase is None and b"BEGIN ENCRYPTED PRIVATE KEY" in pem:
        raise BadData(f"the key file needs its passphrase: {file}", hint="set BANYAN_PASSPHRASE")
    if passphrase is not None and b"BEGIN PRIVATE KEY" in pem:
        raise BadData(f"a passphrase was given, but the key file has none: {file}", hint="leave the passphrase out")
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        cause = "the file is damaged" if passphrase is None else "the passphrase is wrong, or the file is damaged"
        raise BadData(
            f"cannot read the key file {file}: {cause}", hint="give the right passphrase or a copy of the file"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadData(f"not an Ed25519 key: {file}", hint="only Ed25519 keys are used here")
    return key
