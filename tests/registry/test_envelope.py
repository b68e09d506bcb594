"""An envelope opens only as the bytes that were sealed, for the type and the keys that the reader expects."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, Key, SSlibKey  # type: ignore[attr-defined]

from registry.envelope import MAX_ENVELOPE_BYTES, open_sealed, peek_payload, peek_signer, seal
from registry.errors import BadData
from registry.keys import PrivateKey, PublicKey

TYPE = "application/vnd.banyan.test.v1+json"
KEY = PrivateKey.generate()
OTHER = PrivateKey.generate()
SEALED = seal(b'{"answer":42}', TYPE, KEY)
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group, RFC 8032


def rewritten(**changes: Any) -> bytes:
    """The sealed envelope with some of its fields changed, in the accepted form."""
    return json.dumps({**json.loads(SEALED), **changes}, separators=(",", ":")).encode()


def signed_as(key: PrivateKey, key_id: str, payload: bytes = b"{}") -> dict[str, str]:
    """A signature of `key` under any key id, as it stands in an envelope."""
    library_key = SSlibKey(key_id, "ed25519", "ed25519", {"public": key.public.hex})
    envelope = Envelope(payload, TYPE, {})
    envelope.sign(CryptoSigner(key.ed25519, library_key))
    (signature,) = envelope.to_dict()["signatures"]
    return dict(signature)


@given(st.binary(max_size=4000))
def test_what_is_sealed_opens_to_the_same_bytes(payload: bytes) -> None:
    """E7."""
    sealed = seal(payload, TYPE, KEY)
    opened = open_sealed(sealed, TYPE, [OTHER.public, KEY.public])
    assert (opened.payload, opened.signer) == (payload, KEY.public)
    assert opened.digest == hashlib.sha256(sealed).hexdigest()
    assert peek_signer(sealed) == KEY.public.id
    assert peek_payload(sealed) == payload


@given(st.binary(max_size=200), st.data())
def test_a_change_of_any_one_byte_is_detected(payload: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(payload, TYPE, KEY))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadData):
        open_sealed(bytes(sealed), TYPE, [KEY.public])


def test_no_byte_of_an_envelope_can_take_any_other_value() -> None:
    """Exhaustive on one envelope, so that no second spelling of base64 or of JSON is missed."""
    for place in range(len(SEALED)):
        for value in {*range(32, 127), 0, 9, 10, 13, 128, 255} - {SEALED[place]}:
            changed = SEALED[:place] + bytes([value]) + SEALED[place + 1 :]
            with pytest.raises(BadData):
                open_sealed(changed, TYPE, [KEY.public])


@given(st.integers(0, len(SEALED)), st.binary(min_size=1, max_size=3))
def test_an_insertion_is_detected(place: int, more: bytes) -> None:
    with pytest.raises(BadData):
        open_sealed(SEALED[:place] + more + SEALED[place:], TYPE, [KEY.public])


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 40))
def test_a_deletion_is_detected(place: int, length: int) -> None:
    with pytest.raises(BadData):
        open_sealed(SEALED[:place] + SEALED[place + length :], TYPE, [KEY.public])


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    for read in (peek_signer, peek_payload, lambda envelope: open_sealed(envelope, TYPE, [KEY.public])):
        with pytest.raises(BadData):
            read(data)


def test_trap_one_key_under_two_key_ids_counts_once() -> None:
    """E1: securesystemslib takes one key under two ids for two signers; here another id than its own is nobody's."""
    aliases = ["1" * 64, "2" * 64]
    signatures = [signed_as(KEY, alias) for alias in aliases]
    double = rewritten(payload=base64.b64encode(b"{}").decode(), signatures=signatures)
    library_keys: list[Key] = [SSlibKey(alias, "ed25519", "ed25519", {"public": KEY.public.hex}) for alias in aliases]
    assert len(Envelope.from_dict(json.loads(double)).verify(library_keys, threshold=2)) == 2  # the trap is there
    with pytest.raises(BadData):
        open_sealed(double, TYPE, [KEY.public])
    for signature in signatures:
        single = rewritten(payload=base64.b64encode(b"{}").decode(), signatures=[signature])
        with pytest.raises(BadData, match="may not sign this"):
            open_sealed(single, TYPE, [KEY.public, KEY.public])


def test_trap_the_payload_type_is_checked() -> None:
    """E4: securesystemslib verifies an envelope of any payload type; here a document of another type does not open."""
    other = seal(b"{}", "application/vnd.banyan.other.v1+json", KEY)
    library_key = SSlibKey(KEY.public.id, "ed25519", "ed25519", {"public": KEY.public.hex})
    assert Envelope.from_dict(json.loads(other)).verify([library_key], threshold=1)  # the trap is there
    with pytest.raises(BadData, match="the envelope holds"):
        open_sealed(other, TYPE, [KEY.public])
    with pytest.raises(BadData, match="the signature does not hold"):  # and the signature covers the type
        open_sealed(other.replace(b".other.", b".test."), TYPE, [KEY.public])


def test_a_key_that_is_known_twice_is_one_key() -> None:
    twice = [KEY.public, PublicKey(KEY.public.raw)]
    assert open_sealed(SEALED, TYPE, twice).signer == KEY.public


@pytest.mark.parametrize("keys", [[], [OTHER.public]])
def test_only_the_expected_keys_may_sign(keys: list[PublicKey]) -> None:
    """E5."""
    with pytest.raises(BadData, match="may not sign this"):
        open_sealed(SEALED, TYPE, keys)


def test_a_forged_key_id_does_not_help() -> None:
    """K2."""
    forged = rewritten(signatures=[signed_as(OTHER, KEY.public.id, b'{"answer":42}')])
    with pytest.raises(BadData, match="the signature does not hold"):
        open_sealed(forged, TYPE, [KEY.public, OTHER.public])


def test_a_signature_has_one_form() -> None:
    """E1: adding the group's order to S gives a signature that careless libraries accept (RFC 8032, 5.1.7)."""
    signature = base64.b64decode(json.loads(SEALED)["signatures"][0]["sig"])
    s = int.from_bytes(signature[32:], "little") + ORDER
    other = base64.b64encode(signature[:32] + s.to_bytes(32, "little")).decode()
    with pytest.raises(BadData, match="the signature does not hold"):
        open_sealed(rewritten(signatures=[{"keyid": KEY.public.id, "sig": other}]), TYPE, [KEY.public])


def other_forms() -> dict[str, bytes]:
    """The same values, written otherwise."""
    fields = json.loads(SEALED)
    (signature,) = fields["signatures"]
    payload, sig = fields["payload"], signature["sig"]
    assert payload.endswith("=") and sig.endswith("==")
    return {
        "spaces": json.dumps(fields).encode(),
        "lines": json.dumps(fields, indent=1).encode(),
        "line end": SEALED + b"\n",
        "order of keys": json.dumps(dict(reversed(fields.items())), separators=(",", ":")).encode(),
        "order of the signature's keys": rewritten(signatures=[{"sig": sig, "keyid": signature["keyid"]}]),
        "unknown field": rewritten(more=1),
        "unknown field of the signature": rewritten(signatures=[{**signature, "more": 1}]),
        "key twice": SEALED.replace(b'{"payload":', b'{"payload":"AA==","payload":'),
        "key twice in the signature": SEALED.replace(b'{"keyid":', b'{"keyid":"a","keyid":'),
        "escaped letter": SEALED.replace(b"payloadType", b"payload\\u0054ype"),
        "UTF-16": SEALED.decode().encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + SEALED,
        "no padding": rewritten(payload=payload.rstrip("=")),
        "more padding": rewritten(payload=payload + "===="),
        "unused bits": rewritten(signatures=[{**signature, "sig": sig[:-3] + chr(ord(sig[-3]) + 1) + "=="}]),
        "line break in base64": rewritten(payload=payload[:4] + "\n" + payload[4:]),
        "url-safe base64": seal(b"\xfb\xff", TYPE, KEY).replace(b"+/8=", b"-_8="),
        "no signature": rewritten(signatures=[]),
        "two signatures": rewritten(signatures=[signature, signature]),
        "signature of another as well": rewritten(signatures=[signature, signed_as(OTHER, OTHER.public.id)]),
        "key id in capitals": rewritten(signatures=[{**signature, "keyid": signature["keyid"].upper()}]),
        "long key id": rewritten(signatures=[{**signature, "keyid": signature["keyid"] * 1000}]),
        "short signature": rewritten(signatures=[{**signature, "sig": sig[:8]}]),
    }


@pytest.mark.parametrize("name", other_forms())
def test_another_form_of_the_same_envelope_is_refused(name: str) -> None:
    """E3."""
    with pytest.raises(BadData):
        open_sealed(other_forms()[name], TYPE, [KEY.public])


@pytest.mark.parametrize(
    "envelope",
    [
        b"", b"null", b"[]", b"{}", b'"text"', b"1" * 5000, b"[" * 500_000, b'{"payload":' * 50_000, b"NaN",
        rewritten(payload=1), rewritten(payloadType=1), rewritten(payload="ä"),
         rewritten(payloadType="\ud800"), rewritten(signatures={}),
        rewritten(signatures={"keyid": 1}), rewritten(signatures=[1]), rewritten(signatures=[{}]),
        rewritten(signatures=[{"keyid": [], "sig": ""}]), rewritten(signatures=[{"keyid": 5, "sig": "AA=="}]),
        rewritten(signatures=[{"keyid": "\ud800", "sig": "AA=="}]), rewritten(signatures=[{"keyid": "a", "sig": None}]),
    ],
)  # fmt: skip
def test_nonsense_is_bad_data_and_can_be_reported(envelope: bytes) -> None:
    with pytest.raises(BadData) as refusal:
        open_sealed(envelope, TYPE, [KEY.public])
    refusal.value.message.encode()


def test_an_envelope_has_a_largest_size() -> None:
    """E2."""
    fits = (MAX_ENVELOPE_BYTES - 400) // 4 * 3
    assert open_sealed(seal(bytes(fits), TYPE, KEY), TYPE, [KEY.public]).payload == bytes(fits)
    with pytest.raises(BadData, match="too large"):
        seal(bytes(fits + 600), TYPE, KEY)
    with pytest.raises(BadData, match="too large"):
        open_sealed(SEALED + b" " * MAX_ENVELOPE_BYTES, TYPE, [KEY.public])
