"""Signed bytes: DSSE envelopes with one Ed25519 signature, through securesystemslib.

An envelope is accepted in one form only, the bytes that `seal` writes, so its digest names it and no byte of it can
be changed unseen. Reading the payload is left to `registry.documents`; who may sign what, to the callers.
securesystemslib ignores the payload type when it verifies, and takes one key under two ids for two keys: the type is
checked here, key ids are computed, and there is exactly one signature.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey  # type: ignore[attr-defined]  # has no __all__

from registry.errors import BadData
from registry.keys import KeyId, PrivateKey, PublicKey

MEDIA_TYPE: Final = "application/vnd.dsse.envelope.v1+json"
MAX_ENVELOPE_BYTES: Final = 1 << 20

_KEY_ID = re.compile(r"[0-9a-f]{64}")
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Opened:
    """What a verified envelope held, who signed it, and the SHA-256 (hex) of the envelope's bytes (E7)."""

    payload: bytes
    signer: PublicKey
    digest: str


def seal(payload: bytes, payload_type: str, key: PrivateKey) -> bytes:
    """Sign bytes (E1); returns the envelope's bytes.

    Raises BadData where the envelope would be larger than is accepted.
    """
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(library_signer(key))
    sealed = _write(envelope)
    if len(sealed) > MAX_ENVELOPE_BYTES:
        raise BadData(f"too large to be sealed: {len(sealed)} bytes, the limit is {MAX_ENVELOPE_BYTES}")
    return sealed


def open_sealed(envelope: bytes, payload_type: str, keys: Iterable[PublicKey]) -> Opened:
    """Verify an envelope against the keys that may have signed it (E1, E4, E5).

    Raises BadData unless everything is right.
    """
    parsed, signature = _read(envelope)
    if parsed.payload_type != payload_type:
        raise BadData(f"the envelope holds {parsed.payload_type!a:.100}, not {payload_type}")
    signer = {key.id: key for key in keys}.get(signature.keyid)
    if signer is None:
        raise BadData(f"signed by a key that may not sign this: {signature.keyid}")
    try:
        parsed.verify([library_key(signer)], threshold=1)
    except VerificationError as error:
        raise BadData(f"the signature does not hold: said to be by key {signer.id}") from error
    return Opened(parsed.payload, signer, hashlib.sha256(envelope).hexdigest())


def peek_signer(envelope: bytes) -> KeyId:
    """The key id that an envelope names (K2). Nothing is verified: only for looking up the key. Raises BadData."""
    return _read(envelope)[1].keyid


def peek_payload(envelope: bytes) -> bytes:
    """The payload of an envelope. Nothing is verified: only to find the key of a self-signed one; raises BadData."""
    return _read(envelope)[0].payload


def peek_type(envelope: bytes) -> str:
    """The payload type that an envelope names. Not verified: only to choose what to open it as. Raises BadData."""
    return str(_read(envelope)[0].payload_type)


def library_key(key: PublicKey) -> SSlibKey:
    """A public key as securesystemslib and python-tuf know it, under its computed id (K2)."""
    return SSlibKey(key.id, "ed25519", "ed25519", {"public": key.hex})


def library_signer(key: PrivateKey) -> CryptoSigner:
    """A private key as those libraries sign with it."""
    return CryptoSigner(key.ed25519, library_key(key.public))


def _write(envelope: Envelope) -> bytes:
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()


def _read(data: bytes) -> tuple[Envelope, Signature]:
    """Parse the one accepted form (E2, E3): writing it again gives the same bytes, no spaces, no other base64."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise BadData(f"the envelope is too large: {len(data)} bytes, the limit is {MAX_ENVELOPE_BYTES}")
    try:
        fields = json.loads(data.decode("ascii"))
        (signature,) = fields["signatures"]
        key_id, signed = signature["keyid"], base64.b64decode(signature["sig"], validate=True)
        envelope = Envelope(
            base64.b64decode(fields["payload"], validate=True),
            fields["payloadType"],
            {key_id: Signature(key_id, signed.hex())},
        )
        canonical = _write(envelope) == data and _KEY_ID.fullmatch(key_id) and len(signed) == _SIGNATURE_BYTES
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadData("not a signed document: the envelope cannot be read") from error
    if not canonical:
        raise BadData("not a signed document: the envelope is not in the accepted form")
    return envelope, envelope.signatures[key_id]
