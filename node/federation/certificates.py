"""Short-lived keys of federated rounds: the certificate that a parent serves with, the key that a SuperNode shows.

Neither says who a node is: the node's own key signs the certificate's invitation and the SuperNode's admission.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from registry.durable import make_folder
from registry.errors import BadData
from registry.trust.files import write_whole

VALID: Final = timedelta(days=7)
EARLIER: Final = timedelta(minutes=5)  # clocks differ


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed certificate and its key, as files."""

    file: Path
    key: Path

    @property
    def pem(self) -> str:
        """The certificate."""
        return self.file.read_text(encoding="ascii")


def make_certificate(folder: Path, name: str, hosts: list[str], now: datetime) -> Certificate:
    """A certificate for names and addresses, made anew in `folder`; it holds for a week."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "banyan rounds")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    write_private(certificate.key, _private(key, serialization.PrivateFormat.PKCS8))
    write_private(certificate.file, made.public_bytes(serialization.Encoding.PEM))
    return certificate


def only(pem: str) -> ssl.SSLContext:
    """What trusts this certificate and no other."""
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted.load_verify_locations(cadata=pem)
    return trusted


def make_supernode_key(file: Path) -> str:
    """A new key for a SuperNode, in OpenSSH's form as Flower wants it; its public half, in that form too."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(file, _private(key, serialization.PrivateFormat.OpenSSH))
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def as_pem(public: str) -> bytes:
    """A public key in OpenSSH's form as the PEM that a SuperNode sends. Raises BadData where it is none."""
    try:
        key = serialization.load_ssh_public_key(public.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadData("not the public key of a SuperNode") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise BadData("a SuperNode has a key on a NIST curve")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_private(file: Path, data: bytes) -> None:
    """Write a file for its owner alone, in the place of an older one."""
    make_folder(file.parent)
    write_whole(file, data)


def _private(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
