"""Attacks on the envelope: who signed, what, and in which bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from node.enrolments import take_request
from registry.documents import (
    CheckResult,
    Enrolment,
    EnrolmentRequest,
    Update,
    Verdict,
    seal_document,
)
from registry.envelope import MAX_ENVELOPE_BYTES, seal
from registry.keys import PrivateKey
from sync.inbox import receive
from tests.attacks.scene import DAY, HONEST, Attack, Scene

Json = dict[str, Any]
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
IDENTITY_POINT = "01" + "00" * 31  # of order 1: every signature of a certain form holds for it
ABOVE_THE_PRIME = "ee" + "ff" * 30 + "7f"  # y = 2^255 - 18, another spelling of y = 1
ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"


def compact(fields: Json) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def rewritten(change: Callable[[Json], object]) -> Callable[[Scene], str]:
    """Send the child's envelope with its JSON changed."""

    def does(scene: Scene) -> str:
        fields = json.loads(scene.sealed())
        change(fields)
        return scene.send(compact(fields), HONEST)

    return does


def spelled(change: Callable[[bytes], bytes]) -> Callable[[Scene], str]:
    """Send the child's envelope in other bytes."""

    def does(scene: Scene) -> str:
        envelope = scene.sealed()
        assert change(envelope) != envelope
        return scene.send(change(envelope), HONEST)

    return does


def flip_signature(fields: Json) -> None:
    signature = bytearray(base64.b64decode(fields["signatures"][0]["sig"]))
    signature[10] ^= 1
    fields["signatures"][0]["sig"] = base64.b64encode(bytes(signature)).decode()


def other_payload(fields: Json) -> None:
    payload = base64.b64decode(fields["payload"]).replace(b'"sequence":1,', b'"sequence":2,')
    fields["payload"] = base64.b64encode(payload).decode()


def add_order(fields: Json) -> None:
    """The second signature that holds where S is not compared with the group's order (RFC 8032, 5.1.7)."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = base64.b64decode(fields["signatures"][0]["sig"])
    higher = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    fields["signatures"][0]["sig"] = base64.b64encode(signature[:32] + higher).decode()


def spare_bits(envelope: bytes) -> bytes:
    """The signature's base64 with other bits where none are read."""
    fields = json.loads(envelope)
    text = fields["signatures"][0]["sig"]
    last = text.rstrip("=")[-1]
    other = ALPHABET[ALPHABET.index(last) ^ 1]
    fields["signatures"][0]["sig"] = text.rstrip("=")[:-1] + other + "=="
    return compact(fields)


def by_sibling(scene: Scene) -> str:
    """Another key that is enrolled here signs in the child's name."""
    return scene.send(scene.sealed(scene.sibling), HONEST)


def under_the_childs_id(scene: Scene) -> str:
    fields = json.loads(scene.sealed(scene.sibling))
    fields["signatures"][0]["keyid"] = scene.child.public.id
    return scene.send(compact(fields), HONEST)


def under_two_ids(scene: Scene) -> str:
    """The database is made to say that the sibling's id belongs to the child's key."""
    fields = json.loads(scene.sealed())
    fields["signatures"][0]["keyid"] = scene.sibling.public.id
    return scene.send(compact(fields), HONEST)


def twice_signed(scene: Scene) -> str:
    fields = json.loads(scene.sealed())
    fields["signatures"] += json.loads(scene.sealed(scene.sibling))["signatures"]
    return scene.send(compact(fields), HONEST)


def unknown_key(scene: Scene) -> str:
    stranger = PrivateKey.generate()
    return scene.send(scene.sealed(stranger, issuer=stranger.public.id), HONEST)


def asking_with(key: str) -> Callable[[Scene], str]:
    """Ask to be enrolled with a public key for which anybody can sign."""

    def does(scene: Scene) -> str:
        asker = PrivateKey.generate()
        request = EnrolmentRequest(path="en/weak", key=asker.public.hex, url=None, created=scene.now)
        text = request.to_bytes().replace(asker.public.hex.encode(), key.encode())
        return take_request(scene.node, seal(text, EnrolmentRequest.PAYLOAD_TYPE, asker), scene.now)

    return does


def as_update(make: Callable[[Scene], bytes]) -> Callable[[Scene], str]:
    return lambda scene: scene.send(make(scene), HONEST)


def a_verdict(scene: Scene) -> bytes:
    fine = CheckResult(name="files.all", value=None, threshold=None, passed=True, reason="", cost_ms=0.0)
    verdict = Verdict(update="1" * 64, outcome="accepted", checks=(fine,), reason="", created=scene.now)
    return seal_document(verdict, scene.child)


def an_enrolment(scene: Scene) -> bytes:
    enrolment = Enrolment(
        path=scene.path,
        key=scene.child.public.hex,
        issuer=scene.child.public.id,
        issuer_path=scene.path,
        created=scene.now,
        expires=scene.now + DAY,
    )
    return seal_document(enrolment, scene.child)


def a_release(scene: Scene) -> bytes:
    """The parent's own release, sent back to it."""
    with scene.node.store.read() as session:
        return session.connection().exec_driver_sql("SELECT envelope FROM releases LIMIT 1").scalar_one()


def read_as_verdict(scene: Scene) -> str:
    """An update's payload under the type of a verdict."""
    return scene.send(seal(scene.update().to_bytes(), Verdict.PAYLOAD_TYPE, scene.child), HONEST)


def text(old: str, new: str) -> Callable[[Scene], str]:
    """The child signs a text that no class of ours would write."""
    return lambda scene: scene.send(scene.forced(lambda said: said.replace(old, new, 1)), HONEST)


def too_large(scene: Scene) -> str:
    envelope = scene.sealed()
    return scene.send(envelope + b" " * (MAX_ENVELOPE_BYTES + 1 - len(envelope)), HONEST)


def replayed(scene: Scene) -> str:
    """The same bytes after they were accepted: they must not count again."""
    envelope = scene.sealed(sequence=7)
    assert scene.send(envelope, HONEST).startswith("accepted")
    for _ in range(3):
        receive(scene.node.store, scene.node.blobs, envelope, scene.own, scene.now)
    return f"{scene.rows()} update, sequence {scene.taken()}"


def replayed_when_forgotten(scene: Scene) -> str:
    """The words of an accepted update, signed anew in a later second."""
    assert scene.send(scene.sealed(sequence=7), HONEST).startswith("accepted")
    return scene.send(scene.sealed(sequence=7, expires=scene.now + 29 * DAY), HONEST)


def to_two_parents(scene: Scene) -> str:
    """What another parent was sent, as it stands."""
    return scene.send(scene.sealed(audience=PrivateKey.generate().public.id), HONEST)


ENVELOPES = (
    Attack("forged: one bit of the signature", "E6", rewritten(flip_signature), "BadData: the signature does not hold"),
    Attack("forged: another payload under a signature", "E6", rewritten(other_payload), "BadData: the signature does"),
    Attack(
        "forged: a second signature by the group's order", "E1", rewritten(add_order), "BadData: the signature does"
    ),
    Attack("forged: by another enrolled key in the child's name", "D10", by_sibling, "BadData: .* speaks for key"),
    Attack("forged: another key's signature under the child's id", "E5", under_the_childs_id, "BadData: the signature"),
    Attack("forged: a key under a second id", "K2", under_two_ids, "BadData: the signature does not hold"),
    Attack("a key that nobody knows", "U2", unknown_key, "NotEnrolled: .* it is unknown here"),
    Attack("two signatures", "E1", twice_signed, "BadData: not a signed document"),
    Attack("no signature", "E1", rewritten(lambda f: f["signatures"].clear()), "BadData: not a signed document"),
    Attack(
        "a signature of 63 bytes",
        "E1",
        rewritten(lambda f: f["signatures"][0].update(sig=base64.b64encode(bytes(63)).decode())),
        "BadData: not a signed document",
    ),
    Attack("base64 with other spare bits", "E3", spelled(spare_bits), "not in the accepted form"),
    Attack("base64 with line ends", "E3", rewritten(lambda f: f.update(payload=f["payload"] + "\n")), "BadData: not a"),
    Attack(
        "base64 of the web",
        "E3",
        rewritten(lambda f: f.update(payload=f["payload"] + "-_==")),
        "BadData: not a signed document",
    ),
    Attack("spaces in the envelope", "E3", spelled(lambda e: json.dumps(json.loads(e)).encode()), "accepted form"),
    Attack("a byte order mark", "E3", spelled(lambda e: b"\xef\xbb\xbf" + e), "BadData: not a signed document"),
    Attack("text after the envelope", "E3", spelled(lambda e: e + b"{}"), "BadData: not a signed document"),
    Attack("an unsigned field in the envelope", "E3", rewritten(lambda f: f.update(also="x")), "accepted form"),
    Attack(
        "fields of the envelope in another order",
        "E3",
        spelled(lambda e: compact(dict(reversed(json.loads(e).items())))),
        "accepted form",
    ),
    Attack("a key of the envelope twice", "E3", spelled(lambda e: e[:-1] + b',"payloadType":"x"}'), "accepted form"),
    Attack(
        "escaped letters in the envelope",
        "E3",
        spelled(lambda e: e.replace(b"payload", b"p\\u0061yload", 1)),
        "accepted form",
    ),
    Attack("an envelope nested 100,000 deep", "E3", lambda s: s.send(b"[" * 100_000, HONEST), "BadData: not a signed"),
    Attack("an envelope of a number of 100,000 digits", "E3", lambda s: s.send(b"9" * 100_000, HONEST), "BadData: not"),
    Attack("an envelope of 1 MiB and a byte", "E2", too_large, "BadData: the envelope is too large"),
    Attack("a release offered as update", "E4", as_update(a_release), "(NotEnrolled|BadData): "),
    Attack("a verdict offered as update", "E4", as_update(a_verdict), "BadData: .*verdict.v1"),
    Attack("an enrolment offered as update", "E4", as_update(an_enrolment), "BadData: .*enrolment.v1"),
    Attack("an update under the type of a verdict", "E4", read_as_verdict, "BadData: .*verdict.v1"),
    Attack(
        "the type of an update in other letters",
        "E4",
        rewritten(lambda f: f.update(payloadType=Update.PAYLOAD_TYPE.upper())),
        "BadData: ",
    ),
    Attack("a key of small order asks", "K3", asking_with(IDENTITY_POINT), "BadData: .*not safe"),
    Attack("a key of order 8 asks", "K3", asking_with(ORDER_8), "BadData: .*not safe"),
    Attack("a key in its second spelling asks", "K3", asking_with(ABOVE_THE_PRIME), "BadData: .*not safe"),
    Attack("a key in capital letters asks", "K1", asking_with("AB" * 32), "BadData: "),
    Attack("replayed: the same bytes", "U4", replayed, "^1 update, sequence 7$"),
    Attack("replayed: the same words signed anew", "U6", replayed_when_forgotten, "rejected: envelope.sequence"),
    Attack("replayed: what another parent was sent", "C2", to_two_parents, "rejected: envelope.audience"),
    Attack(
        "a key of the payload twice", "D2", text('"sequence":1', '"sequence":9,"sequence":1'), "BadData: .*byte form"
    ),
    Attack("spaces in the payload", "D2", text('"sequence":1', '"sequence": 1'), "BadData: .*byte form"),
    Attack("another spelling of a number", "D2", text('"alpha":8.0', '"alpha":8e0'), "BadData: .*byte form"),
    Attack("a float for a whole number", "D3", text('"sequence":1', '"sequence":1.0'), "BadData: .*sequence"),
    Attack("true for a number", "D3", text('"rank":4', '"rank":true'), "BadData: .*rank"),
    Attack("a text for a number", "D3", text('"rank":4', '"rank":"4"'), "BadData: .*rank"),
    Attack("NaN", "D3", text('"alpha":8.0', '"alpha":NaN'), "BadData: not a valid Update"),
    Attack("Infinity", "D3", text('"alpha":8.0', '"alpha":Infinity'), "BadData: not a valid Update"),
    Attack("1e999", "D3", text('"alpha":8.0', '"alpha":1e999'), "BadData: not a valid Update"),
    Attack(
        "a sequence of 5,000 digits", "D3", text('"sequence":1', f'"sequence":{"9" * 5000}'), "BadData: .*out of range"
    ),
    Attack("a sequence of 2^53", "D3", text('"sequence":1', f'"sequence":{2**53}'), "BadData: .*sequence"),
    Attack("sequence 0", "D3", text('"sequence":1', '"sequence":0'), "BadData: .*sequence"),
    Attack("claims nested 50,000 deep", "D3", text('"claims":[]', f'"claims":{"[" * 50_000}'), "BadData: not a valid"),
    Attack("an unknown field", "D3", text('"claims"', '"admin":true,"claims"'), "BadData: .*admin"),
    Attack("a missing field", "D3", text('"claims":[],', ""), "BadData: .*claims"),
    Attack("a prototype in the payload", "D3", text('"claims"', '"__proto__":{},"claims"'), "BadData: .*__proto__"),
    Attack("half a character", "D3", text('"claims":[]', r'"claims":["\ud800"]'), "BadData: not a valid Update"),
)
