"""Private keys are files that only their owner reads; ids are computed; keys that prove nothing are refused."""

from __future__ import annotations

import hashlib
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadData, BanyanError, LocalFailure
from registry.keys import PrivateKey, PublicKey

PRIME = 2**255 - 19


@pytest.mark.parametrize("passphrase", [None, "correct horse battery staple", "pässwörd"])
def test_a_saved_key_is_the_same_key(tmp_path: Path, passphrase: str | None) -> None:
    file = tmp_path / "keys" / "node.pem"
    key = PrivateKey.generate()
    key.save(file, passphrase)
    assert PrivateKey.load(file, passphrase).public == key.public
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == ["node.pem"]  # noqa: PTH208


def test_saving_never_overwrites(tmp_path: Path) -> None:
    """K5."""
    file = tmp_path / "node.pem"
    first = PrivateKey.generate()
    first.save(file)
    with pytest.raises(LocalFailure, match="there is a key already"):
        PrivateKey.generate().save(file)
    assert PrivateKey.load(file).public == first.public
    assert list(tmp_path.iterdir()) == [file]


def test_saving_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "node.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalFailure):
        PrivateKey.generate().save(tmp_path / "node.pem")
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_leaves_no_half_key(tmp_path: Path) -> None:
    """K5."""
    script = "from pathlib import Path; from registry.keys import PrivateKey; PrivateKey.generate().save(Path({!r}))"
    run = subprocess.run(
        [sys.executable, "-c", script.format(str(tmp_path / "node.pem"))],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "LocalFailure: cannot write the key file" in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """K6."""
    file = tmp_path / "node.pem"
    PrivateKey.generate().save(file)
    file.chmod(mode)
    with pytest.raises(LocalFailure, match="can be read by others") as refusal:
        PrivateKey.load(file)
    assert f"chmod 600 {file}" in refusal.value.hint


def test_each_wrong_passphrase_has_its_own_error(tmp_path: Path) -> None:
    PrivateKey.generate().save(tmp_path / "open.pem")
    PrivateKey.generate().save(tmp_path / "locked.pem", "right")
    with pytest.raises(BadData, match="needs its passphrase"):
        PrivateKey.load(tmp_path / "locked.pem")
    with pytest.raises(BadData, match="the passphrase is wrong"):
        PrivateKey.load(tmp_path / "locked.pem", "wrong")
    with pytest.raises(BadData, match="the key file has none"):
        PrivateKey.load(tmp_path / "open.pem", "any")


def test_what_is_not_a_key_file_is_refused(tmp_path: Path) -> None:
    PrivateKey.generate().save(tmp_path / "real.pem")
    (tmp_path / "link.pem").symlink_to(tmp_path / "real.pem")
    os.mkfifo(tmp_path / "pipe.pem", 0o600)
    (tmp_path / "folder.pem").mkdir(0o700)
    for name in ("missing.pem", "link.pem", "pipe.pem", "folder.pem"):
        with pytest.raises(LocalFailure):
            PrivateKey.load(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "node.pem"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(BadData, match="cannot read the key file"):
        PrivateKey.load(file)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "node.pem"
    key = generate_private_key(SECP256R1())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    file.chmod(0o600)
    with pytest.raises(BadData, match="not an Ed25519 key"):
        PrivateKey.load(file)


def test_no_error_and_no_text_of_a_key_shows_the_private_part(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    secret = key.ed25519.private_bytes_raw()
    key.save(tmp_path / "node.pem", "right")
    texts = [repr(key), str(key), f"{key}", repr(key.public)]
    with pytest.raises(BanyanError) as refusal:
        PrivateKey.load(tmp_path / "node.pem", "wrong-passphrase")
    texts += [str(refusal.value), refusal.value.hint, repr(refusal.value.__cause__)]
    assert not any(secret.hex() in text or repr(secret) in text or "wrong-passphrase" in text for text in texts)


def test_an_id_is_the_digest_of_the_raw_key() -> None:
    """K2, K4."""
    key = PrivateKey.generate().public
    assert key.id == hashlib.sha256(key.raw).hexdigest()
    assert key.fingerprint.replace(" ", "") == key.id[:32]
    assert [len(group) for group in key.fingerprint.split(" ")] == [4] * 8


def test_equal_keys_are_one_key_in_a_set() -> None:
    key = PrivateKey.generate().public
    assert {key, PublicKey.from_hex(key.hex)} == {key}


@given(st.binary(max_size=80).filter(lambda raw: len(raw) != 32))
def test_a_key_of_another_length_is_refused(raw: bytes) -> None:
    """K1."""
    with pytest.raises(BadData):
        PublicKey(raw)


@pytest.mark.parametrize("text", ["", "zz" * 32, "AB" * 32, " " + "ab" * 32, "ab " * 32, "ab" * 31, "٣" * 64])
def test_another_spelling_of_a_key_is_refused(text: str) -> None:
    """K1."""
    with pytest.raises(BadData):
        PublicKey.from_hex(text)


def _low_order_points() -> list[int]:
    """Every y of a point whose order divides 8: y = 0 (4), 1 (1), -1 (2), and the y whose double has y = 0 (8)."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    found = [0, 1, PRIME - 1]
    # Doubling gives y = (x² + y²) / (1 - d·x²·y²) = 0 where x² = -y²; with -x² + y² = 1 + d·x²·y²: d·y⁴ + 2·y² - 1 = 0.
    root = next(r for r in _square_roots(1 + d))
    for y_squared in ((-1 + root) * pow(d, -1, PRIME) % PRIME, (-1 - root) * pow(d, -1, PRIME) % PRIME):
        found += _square_roots(y_squared)
    return found


def _square_roots(value: int) -> list[int]:
    root = pow(value, (PRIME + 3) // 8, PRIME)
    for candidate in (root, root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME):
        if candidate * candidate % PRIME == value % PRIME:
            return [candidate, PRIME - candidate]
    return []


def test_keys_that_anyone_can_sign_for_are_refused() -> None:
    """K3."""
    points = _low_order_points()
    assert len(set(points)) == 5
    for y in points:
        for sign in (0, 1 << 255):
            with pytest.raises(BadData, match="not safe"):
                PublicKey((y | sign).to_bytes(32, "little"))


@given(st.integers(0, 18))
def test_a_second_spelling_of_a_point_is_refused(small: int) -> None:
    """K3."""
    with pytest.raises(BadData, match="not safe"):
        PublicKey((PRIME + small).to_bytes(32, "little"))


def test_a_secret_is_a_key_and_always_the_same_one() -> None:
    """The first vector of RFC 8032, 7.1."""
    key = PrivateKey.from_secret(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert key.public.hex == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    with pytest.raises(BadData, match="32 bytes"):
        PrivateKey.from_secret(b"short")
