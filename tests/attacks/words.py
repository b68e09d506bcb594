"""Attacks in what a rightly signed update says: place, audience, release, time, number, sizes, names."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from node.bases import read_manifest
from registry.documents import AdapterShape, BaseManifest, Enrolment, ReleasePin, open_document, seal_document
from registry.keys import PrivateKey
from registry.tables import EnrolmentRow
from sync.checks.envelope import Limits
from sync.inbox import Busy, receive
from tests.attacks.adapters import SHAPE, declared
from tests.attacks.envelopes import text
from tests.attacks.scene import DAY, HONEST, Attack, Scene
from tests.toy_tree import enrol, head_of, put_toy_release
from tests.world import put_base

REGEX_BOMB = "(.+)+!"


def says(**changes: Any) -> Callable[[Scene], str]:
    """The child signs these words."""
    return lambda scene: scene.send(scene.sealed(**changes), HONEST)


def shaped(**changes: Any) -> Callable[[Scene], str]:
    """The adapter is declared in another shape."""
    shape = AdapterShape(**(SHAPE.model_dump() | changes))
    return lambda scene: scene.send(scene.sealed(adapter=declared(HONEST, shape)), HONEST)


def named(**lies: Any) -> Callable[[Scene], str]:
    """The adapter's file is declared with lies."""
    return lambda scene: scene.send(scene.sealed(adapter=declared(HONEST, **lies)), HONEST)


def for_sibling(scene: Scene) -> str:
    return scene.send(scene.sealed(path=scene.sibling_path), HONEST)


def below_sibling(scene: Scene) -> str:
    return scene.send(scene.sealed(path=f"{scene.sibling_path}/below"), HONEST)


def like_its_own(scene: Scene) -> str:
    """A place whose name begins as the child's does."""
    return scene.send(scene.sealed(path=f"{scene.path}0"), HONEST)


def lasting(created_days: float, expires_days: float) -> Callable[[Scene], str]:
    """Made and expiring so many days from now."""
    return lambda scene: scene.send(
        scene.sealed(created=scene.now + created_days * DAY, expires=scene.now + expires_days * DAY), HONEST
    )


def expires_first(scene: Scene) -> str:
    """It ends before it begins; the text is changed, as no class of ours would write it."""
    update = scene.update()
    begin, end = (moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (update.created, update.expires))
    return scene.send(scene.forced(lambda said: said.replace(end, begin)), HONEST)


def in_the_parents_tomorrow(scene: Scene) -> str:
    """The parent's clock is a day fast: what was good for a day has ended for it."""
    envelope = scene.sealed(expires=scene.now + DAY)
    scene.now += DAY
    return scene.send(envelope, HONEST)


def in_the_parents_yesterday(scene: Scene) -> str:
    """The parent's clock is a day slow: what is made now comes from the future."""
    envelope = scene.sealed()
    scene.now -= DAY
    return scene.send(envelope, HONEST)


def expired_while_it_waited(scene: Scene) -> str:
    digest = scene.offer(scene.sealed(expires=scene.now + timedelta(hours=1), adapter=declared(scene.fresh)))
    scene.now += timedelta(hours=2)
    return scene.decided(digest)


def row_of(scene: Scene, **columns: Any) -> None:
    with scene.node.store.transaction() as session:
        row = session.get(EnrolmentRow, (scene.child.public.id, scene.path))
        assert row is not None
        for name, value in columns.items():
            setattr(row, name, value)


def when(**columns: Any) -> Callable[[Scene], str]:
    """The enrolment stands otherwise."""

    def does(scene: Scene) -> str:
        row_of(scene, **columns)
        return scene.send(scene.sealed(), HONEST)

    return does


def enrolment_by_itself(scene: Scene) -> str:
    """The enrolment was signed by the child."""
    with scene.node.store.read() as session:
        row = session.get(EnrolmentRow, (scene.child.public.id, scene.path))
    assert row is not None
    assert row.envelope is not None
    enrolment, _ = open_document(row.envelope, Enrolment, [scene.node.key.public])
    forged = enrolment.model_copy(update={"issuer": scene.child.public.id, "path": "en"})
    row_of(scene, envelope=seal_document(forged, scene.child))
    return scene.send(scene.sealed(path="en"), HONEST)


def enrolment_of_the_sibling(scene: Scene) -> str:
    """The sibling's enrolment stands beside the child's key."""
    with scene.node.store.read() as session:
        row = session.get(EnrolmentRow, (scene.sibling.public.id, scene.sibling_path))
    assert row is not None
    row_of(scene, envelope=row.envelope)
    return scene.send(scene.sealed(), HONEST)


def late_enrolment(scene: Scene) -> str:
    scene.now += 301 * DAY
    return scene.send(scene.sealed(), HONEST)


def revoked_meanwhile(scene: Scene) -> str:
    """Revoked between the envelope and the verdict."""
    digest = scene.offer(scene.sealed())
    scene.upload(digest, HONEST)
    row_of(scene, state="revoked")
    return scene.decided(digest)


def pinned(**changes: Any) -> Callable[[Scene], str]:
    """The release that it builds on is named otherwise."""
    return lambda scene: scene.send(scene.sealed(release=scene.pin.model_copy(update=changes)), HONEST)


def on_a_strangers_release(scene: Scene) -> str:
    """A release that the parent holds and did not sign."""
    base = read_base(scene)
    pin = put_toy_release(scene.node, "de", base, signer=PrivateKey.generate())
    return scene.send(scene.sealed(release=pin), HONEST)


def read_base(scene: Scene) -> BaseManifest:
    return read_manifest(scene.node.blobs, head_of(scene.node, "en").release.base)


def on_a_stale_release(scene: Scene) -> str:
    """Five versions behind: the head moves on while the child sleeps."""
    base, old = read_base(scene), scene.pin
    for version in range(old.version + 1, old.version + 6):
        put_toy_release(scene.node, "en", base, version=version)
    return scene.send(scene.sealed(release=old), HONEST)


def number(value: int, after: int = 0) -> Callable[[Scene], str]:
    """A sequence number, after another one was taken."""

    def does(scene: Scene) -> str:
        if after:
            assert scene.send(scene.sealed(sequence=after), HONEST).startswith("accepted")
        answer = scene.send(scene.sealed(sequence=value, run="7" * 64), HONEST)
        assert scene.taken() == after
        return answer

    return does


def racing(scene: Scene) -> str:
    """Two updates with one number at the same moment: one is taken."""
    envelopes = [scene.sealed(run=str(digit) * 64) for digit in (1, 2)]
    gate, digests = threading.Barrier(2), []

    def send(envelope: bytes) -> None:
        gate.wait(10)
        digests.append(scene.offer(envelope))

    threads = [threading.Thread(target=send, args=(envelope,)) for envelope in envelopes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    taken = [digest for digest in digests if scene.said(digest) == "no verdict"]
    (refused,) = set(digests) - set(taken)
    assert len(taken) == 1
    return scene.said(refused)


def flood_of_one_key(scene: Scene) -> str:
    """Nine updates at a time."""
    for sequence in range(1, 9):
        scene.offer(scene.sealed(sequence=sequence))
    try:
        return scene.offer(scene.sealed(sequence=9))
    finally:
        assert scene.rows() == 8


def flood_of_many_keys(scene: Scene) -> str:
    """Nine keys fill the inbox; a full inbox empties itself, as files that do not come are not waited for."""
    for number in range(9):
        sybil = enrol(scene.node, f"{scene.path}/sybil-{number}")
        for sequence in range(1, 9):
            words = {"path": sybil.path, "issuer": sybil.key.public.id, "sequence": sequence}
            try:
                scene.offer(scene.sealed(sybil.key, **words))
            except Busy as busy:
                scene.end()
                assert scene.send(scene.sealed(), HONEST).startswith("accepted")
                return busy.message
    return "all were taken"


def flood_of_a_day(scene: Scene) -> str:
    """As many as may come in a day, each decided before the next; smaller numbers, so that the test is quick."""
    scene.limits = Limits(per_day_and_issuer=12)
    for sequence in range(1, 13):
        scene.send(scene.sealed(sequence=sequence, audience="9" * 64), HONEST)
    return scene.send(scene.sealed(sequence=13), HONEST)


def sent_to_another_base(scene: Scene) -> str:
    other = put_base(scene.node, {"config.json": b"{}"})
    return scene.send(scene.sealed(base=other.digest), HONEST)


def for_two_parents_at_once(scene: Scene) -> str:
    """The parent of another place takes nothing for this one."""
    elsewhere = ReleasePin(path="master", version=1, digest=scene.pin.digest)
    return scene.send(scene.sealed(release=elsewhere), HONEST)


def received_twice(scene: Scene) -> str:
    """A rejected update comes again: it is not looked at anew."""
    envelope = scene.sealed(audience="9" * 64)
    first = scene.send(envelope)
    assert receive(scene.node.store, scene.node.blobs, envelope, scene.own, scene.now).state == "rejected"
    assert scene.rows() == 1
    return first


WORDS = (
    Attack("for the sibling's place", "C1", for_sibling, "rejected: envelope.enrolment"),
    Attack("for a place below the sibling's", "C1", below_sibling, "rejected: envelope.enrolment"),
    Attack("for the parent's own place", "C1", says(path="en"), "rejected: envelope.enrolment"),
    Attack("for the root", "C1", says(path="master"), "rejected: envelope.enrolment"),
    Attack("for a place that begins like its own", "C1", like_its_own, "rejected: envelope.enrolment"),
    Attack("rejected once, sent again", "U4", received_twice, "rejected: envelope.audience"),
    Attack(
        "on a release that is unknown", "C3", pinned(digest="9" * 64), "rejected: envelope.release.*not a release of"
    ),
    Attack("on a release by another name", "C3", pinned(version=99), "rejected: envelope.release.*the release called"),
    Attack("on a stranger's release", "C3", on_a_strangers_release, "rejected: envelope.release.*not a release of"),
    Attack("on a release of another place", "C3", for_two_parents_at_once, "rejected: envelope.release"),
    Attack("on a release five versions behind", "C4", on_a_stale_release, "rejected: envelope.staleness: .*5 releases"),
    Attack("for another base", "C5", sent_to_another_base, "rejected: envelope.base"),
    Attack("sequence used before", "C6", number(5, after=5), "rejected: envelope.sequence.*used before"),
    Attack("sequence below the last", "C6", number(3, after=5), "rejected: envelope.sequence.*used before"),
    Attack("sequence jumps by a million and one", "U6", number(1_000_001), "rejected: envelope.sequence.*jumps"),
    Attack("sequence jumps to the end", "U6", number(2**53 - 1), "rejected: envelope.sequence.*jumps"),
    Attack("two updates race with one number", "U6", racing, "envelope.sequence.*used before"),
    Attack("expired", "C7", lasting(-9, -1), "rejected: envelope.expiry"),
    Attack("expired a second ago", "C7", lasting(-9, -1 / 86400), "rejected: envelope.expiry"),
    Attack("expires as it is made", "D11", expires_first, "BadData: .*expires before it is created"),
    Attack("not yet valid", "C8", lasting(1, 2), "rejected: envelope.clock"),
    Attack("made in 7,000 years", "C8", lasting(7000 * 365, 7001 * 365), "rejected: envelope.clock"),
    Attack("the parent's clock is a day fast", "C7", in_the_parents_tomorrow, "rejected: envelope.expiry"),
    Attack("the parent's clock is a day slow", "C8", in_the_parents_yesterday, "rejected: envelope.clock"),
    Attack(
        "expires while its files are awaited", "U11", expired_while_it_waited, "rejected: files.received: .*expired"
    ),
    Attack("a time in another zone", "D4", text('Z","expires"', '+00:00","expires"'), "BadData: "),
    Attack("a time without a zone", "D4", text('Z","expires"', '","expires"'), "BadData: "),
    Attack("a key that was revoked", "N9", when(state="revoked"), "NotEnrolled: .*revoked"),
    Attack("a key that still waits", "N9", when(state="pending"), "NotEnrolled: .*not enrolled yet"),
    Attack("an enrolment that has ended", "N9", late_enrolment, "NotEnrolled: .*expired"),
    Attack("an enrolment signed by its own key", "N9", enrolment_by_itself, "NotEnrolled: .*does not hold"),
    Attack("an enrolment of another key", "N9", enrolment_of_the_sibling, "NotEnrolled: .*another key or place"),
    Attack("a key revoked before the verdict", "V3", revoked_meanwhile, "rejected: envelope.still-enrolled"),
    Attack("files of 64 MiB and a byte", "C9", named(size=(64 << 20) + 1), "rejected: envelope.size"),
    Attack("a file of 2^41 bytes", "D9", text(f'"size":{len(HONEST)}', f'"size":{2**41}'), "BadData: .*size"),
    Attack("a file of -1 bytes", "D9", text(f'"size":{len(HONEST)}', '"size":-1'), "BadData: .*size"),
    Attack("rank 65", "C10", shaped(rank=65, alpha=65.0), "rejected: envelope.rank"),
    Attack("rank 257", "D12", text('"rank":4', '"rank":257'), "BadData: .*rank"),
    Attack("alpha of more than four ranks", "D12", text('"alpha":8.0', '"alpha":16.1'), "BadData: .*four times"),
    Attack("alpha 0", "D12", text('"alpha":8.0', '"alpha":0.0'), "BadData: .*alpha"),
    Attack("alpha below 0", "D12", text('"alpha":8.0', '"alpha":-8.0'), "BadData: .*alpha"),
    Attack(
        "a target twice", "D12", text('["q_proj","v_proj"]', '["q_proj","q_proj"]'), "BadData: .*twice|stands twice"
    ),
    Attack("a regular expression as target", "D12", text('"q_proj"', f'"{REGEX_BOMB}"'), "BadData: .*targets"),
    Attack(
        "33 targets",
        "D12",
        text('["q_proj","v_proj"]', str([f"t{i}" for i in range(33)]).replace("'", '"').replace(" ", "")),
        "BadData: .*targets",
    ),
    Attack("a dtype of 8 bits", "D12", text('"F32"', '"I8"'), "BadData: .*dtype"),
    Attack(
        "trust_remote_code in the shape",
        "D3",
        text('"dtype"', '"trust_remote_code":true,"dtype"'),
        "BadData: .*trust_remote",
    ),
    Attack(
        "modules_to_save in the shape",
        "D3",
        text('"dtype"', '"modules_to_save":["lm_head"],"dtype"'),
        "BadData: .*modules_to",
    ),
    Attack("a tokenizer as a further file", "R14", text('"claims"', '"tokenizer":{},"claims"'), "BadData: .*tokenizer"),
    Attack("rows without a file", "D14", text('"transfer_rows":0', '"transfer_rows":5'), "BadData: .*go together"),
    Attack(
        "5,001 rows",
        "C11",
        says(transfer=declared(b"{}", name="t.jsonl").file, transfer_rows=5001),
        "rejected: envelope.transfer",
    ),
    Attack(
        "one file as adapter and as rows",
        "C11",
        says(transfer=declared(HONEST).file, transfer_rows=3),
        "rejected: envelope.transfer",
    ),
    *(
        Attack(f"a file named {name}", "D8", text("adapter_model.safetensors", name), "BadData: .*name")
        for name in (
            "../../etc/passwd",
            "/etc/passwd",
            r"C:\\\\x",
            "C:x",
            r"\\u0000",
            "x/y",
            ".bashrc",
            "x.",
            "con",
            "LPT1.txt",
            "nul.safetensors",
            "~root",
            "x" * 101,
            "ädapter",
            r"\\u202egpj.exe",
            "a b",
            "$(id)",
        )
    ),
    *(
        Attack(f"a place named {name}", "D5", text('"path":"en/', f'"path":"{name}'), "BadData: .*path")
        for name in ("en/../", "/en/", "en//", "EN/", "en/x/master/", "en/ä/", "en/x/x/x/x/x/", r"en/\\u0000/")
    ),
    Attack(
        "a terminal command in a name",
        "D7",
        text('"claims":[]', r'"claims":[{"dataset":"\u001b[2J","split":"x","rows":1,"metrics":{},"path":"en"}]'),
        "BadData: .*dataset",
    ),
    Attack("201 claims", "D3", text('"claims":[]', '"claims":[' + ",".join(["{}"] * 201) + "]"), "BadData: .*claims"),
    Attack("nine updates of one key wait", "U5", flood_of_one_key, "Busy: 8 updates of this key wait"),
    Attack("nine keys fill the inbox", "U5", flood_of_many_keys, "64 updates wait"),
    Attack("more updates than a day may bring", "U5", flood_of_a_day, "Busy: .*24 hours"),
)
