from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.documents import Adapter, AdapterShape, CheckResult, Verdict, open_document, seal_document
from registry.errors import BadData, LocalFailure
from registry.keys import PrivateKey
from registry.log.entry import LogEntry
from registry.log.leaves import leaf_rows, rehash
from registry.store import func, select
from registry.tables import DecisionRow, EnrolmentRow, SequenceRow, UpdateRow
from sync.checks.envelope import CHECKS
from sync.checks.version import checker_version
from sync.inbox import (
    Busy,
    Limits,
    NotEnrolled,
    Receipt,
    State,
    UnknownUpdate,
    accepted,
    advance,
    append_file,
    file_offset,
    mark,
    receipt_of,
    receive,
    settle,
    undecided,
    verdict_of,
)
from sync.lifecycle import RELEASING
from tests.sync.inbox_world import ADAPTER, BASE, NOW, TRANSFER, World, file_of, live, open_world, passing

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("BANYAN_TEST_KILLS", "4"))
DAY = timedelta(days=1)


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    world = open_world(database_url, tmp_path)
    yield world
    world.store.close()


def take(world: World, envelope: bytes, **more: Any) -> Receipt:
    return receive(world.store, world.blobs, envelope, world.own, NOW, **more)


def step(world: World, digest: str, checks: Any = passing, now: Any = NOW) -> State:
    return advance(world.store, world.blobs, digest, checks, world.own, now)


def verdict(world: World, digest: str) -> Verdict:
    envelope = verdict_of(world.store, digest)
    assert envelope is not None
    return open_document(envelope, Verdict, [world.own.key.public])[0]


def highest(world: World) -> int:
    with world.store.read() as session:
        row = session.get(SequenceRow, (world.child.public.id, "en/x"))
    return row.highest if row else 0


def decisions(world: World, digest: str) -> list[str]:
    with world.store.read() as session:
        rows = session.scalars(select(DecisionRow).where(DecisionRow.subject == digest).order_by(DecisionRow.id))
        return [row.kind.removeprefix("update.") for row in rows]


def rows(world: World) -> int:
    with world.store.read() as session:
        return session.scalars(select(func.count()).select_from(UpdateRow)).one()


def finding(name: str, *, passed: bool = False) -> CheckResult:
    return CheckResult(name=name, value=2.5, threshold=1.0, passed=passed, reason=f"{name} is so", cost_ms=1.0)


def adapter(rank: int = 8, size: int | None = None) -> Adapter:
    file = file_of(ADAPTER, "a.safetensors")
    return Adapter(
        file=file.model_copy(update={"size": size or file.size}),
        shape=AdapterShape(rank=rank, alpha=16.0, targets=("q_proj",), dtype="F32"),
    )


# Each: what is wrong, the one check that fails, its reason. `w` is the world.
REFUSALS: dict[str, tuple[Callable[[World], dict[str, Any]], str, str]] = {
    "wrong audience": (lambda w: {"audience": "9" * 64}, "audience", "for the node 9999"),
    "other base": (lambda w: {"base": "9" * 64}, "base", f"for the base 9+, its release has {BASE}"),
    "unknown release": (lambda w: {"release": w.pin("en", 7)}, "release", "en@v7 .* not a release of this node"),
    "another's release": (lambda w: {"release": w.pin("en", 3)}, "release", "en@v3 .* not a release of this node"),
    "release elsewhere": (lambda w: {"release": w.pin("de", 1)}, "release", "de@v1 .* not a release of this node"),
    "release misnamed": (
        lambda w: {"release": w.pin("en", 1).model_copy(update={"version": 2})},
        "release",
        "the release called en@v2 is en@v1 here",
    ),
    "stale release": (lambda w: {"release": w.pin("en", 2)}, "staleness", "en@v2 is 7 releases behind; 4 may be"),
    "outside its place": (lambda w: {"path": "en/y"}, "enrolment", "may speak for en/x; the update is for en/y"),
    "jumping sequence": (lambda w: {"sequence": 2**40}, "sequence", "jumps by more than 1000000"),
    "expired": (
        lambda w: {"created": NOW - 2 * DAY, "expires": NOW - DAY},
        "expiry",
        "expired 86400 s ago: sign it anew",
    ),
    "from the future": (
        lambda w: {"created": NOW + DAY, "expires": NOW + 9 * DAY},
        "clock",
        r"created 86400 s in the future: the sender's clock is wrong, or this node's \(2026-03-01T12:00:00Z\)",
    ),
    "too big": (lambda w: {"adapter": adapter(size=65 << 20)}, "size", "bytes in all; 67108864 may be"),
    "rank above limit": (lambda w: {"adapter": adapter(rank=65)}, "rank", "rank 65; at most 64 may be"),
    "too many rows": (lambda w: {"transfer_rows": 5001}, "transfer", "5001 rows; at most 5000 may be"),
    "one file twice": (
        lambda w: {"transfer": file_of(ADAPTER, "t.jsonl")},
        "transfer",
        "one file is offered as adapter and as transfer set",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_an_update_may_not_say_is_refused_stored_and_readable(world: World, case: str) -> None:
    """U7, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11."""
    world.release("de", 1)
    world.release("en", 2, is_head=False)
    world.release("en", 3, own=False, is_head=False)
    newest = 9 if case == "stale release" else 1
    if newest > 1:
        world.release("en", newest)
    change, check, reason = REFUSALS[case]
    receipt = take(world, world.update(**change(world)))
    assert (receipt.state, receipt.missing) == ("rejected", [])
    assert [result.name for result in receipt.failed] == [f"envelope.{check}"]
    said = verdict(world, receipt.digest)
    assert (said.outcome, said.update) == ("rejected", receipt.digest)
    assert [result.name for result in said.checks] == [f"envelope.{name}" for name in CHECKS]
    assert re.search(reason, said.reason)
    assert highest(world) == 0
    assert decisions(world, receipt.digest) == ["received", "rejected"]
    assert take(world, world.update(release=world.pin("en", newest))).state == "received"


def test_a_replayed_sequence_is_refused_whatever_else_changed(world: World) -> None:
    """U6, C6."""
    assert take(world, world.update(sequence=5)).state == "received"
    for sequence in (5, 4, 1):
        receipt = take(world, world.update(sequence=sequence, created=NOW - DAY))
        assert [result.name for result in receipt.failed] == ["envelope.sequence"]
        assert receipt.failed[0].reason == f"sequence {sequence} was used before: send more than 5"
        assert (receipt.failed[0].value, receipt.failed[0].threshold) == (sequence, 6)
    assert take(world, world.update(sequence=6)).state == "received"
    assert highest(world) == 6


def test_every_failed_check_is_told_at_once(world: World) -> None:
    receipt = take(world, world.update(audience="9" * 64, adapter=adapter(rank=200)))
    assert [result.name for result in receipt.failed] == ["envelope.audience", "envelope.rank"]


STRANGERS: dict[str, tuple[Callable[[World, PrivateKey], None], str]] = {
    "unknown": (lambda w, key: None, "it is unknown here"),
    "revoked": (lambda w, key: w.enrol(key.public, "en/x", state="revoked"), "en/x: its enrolment was revoked"),
    "pending": (lambda w, key: w.enrol(key.public, "en/x", state="pending"), "en/x: it was not enrolled yet"),
    "ended": (lambda w, key: w.enrol(key.public, "en/x", days=-1), "en/x: its enrolment expired on 2026-02-28"),
    "forged": (lambda w, key: w.enrol(key.public, "en/x", by=key), "en/x: its enrolment does not hold"),
    "of another": (
        lambda w, key: w.enrol(w.child.public, "en/x", key_id=key.public.id, public_key=key.public.hex),
        "en/x: its enrolment is for another key or place",
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_who_is_not_enrolled_is_told_why_and_leaves_no_trace(world: World, case: str) -> None:
    """N9, U2."""
    key = PrivateKey.generate()
    enrol, reason = STRANGERS[case]
    enrol(world, key)
    with pytest.raises(NotEnrolled, match=reason):
        take(world, world.update(key))
    assert rows(world) == 0


def test_what_is_no_signed_update_leaves_no_trace(world: World) -> None:
    """U3."""
    wrong_speaker = world.update(issuer=PrivateKey.generate().public.id, key=None)
    other_document = seal_document(
        Verdict(update="1" * 64, outcome="accepted", checks=(), reason="", created=NOW), world.child
    )
    for envelope in (b"", b"\x00" * 100, b"{}", b" " * (2 << 20), wrong_speaker, other_document):
        with pytest.raises(BadData):
            take(world, envelope)
    assert rows(world) == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_of_an_update_can_be_changed(world: World, data: st.DataObject) -> None:
    """U1, U3."""
    envelope = bytearray(world.update())
    place = data.draw(st.integers(0, len(envelope) - 1))
    envelope[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadData):
        take(world, bytes(envelope))
    assert rows(world) == 0


def test_the_same_bytes_get_the_same_receipt(world: World) -> None:
    """U4."""
    good, bad = world.update(), world.update(audience="9" * 64)
    first = take(world, good), take(world, bad)
    assert (take(world, good), take(world, bad)) == first
    assert [file.name for file in first[0].missing] == ["adapter.safetensors", "transfer.jsonl"]
    world.upload(first[0].digest)
    assert take(world, good) == Receipt(first[0].digest, "received", [], [], None)
    assert (rows(world), highest(world)) == (2, 1)


def test_of_two_updates_with_one_sequence_one_is_taken(world: World) -> None:
    envelopes = [world.update(run=f"{n}" * 64) for n in range(4)]
    receipts: list[Receipt] = []
    barrier = threading.Barrier(len(envelopes))

    def send(envelope: bytes) -> None:
        barrier.wait(10)
        receipts.append(take(world, envelope))

    threads = [threading.Thread(target=send, args=(envelope,)) for envelope in envelopes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(receipt.state for receipt in receipts) == ["received", "rejected", "rejected", "rejected"]


def test_a_crowd_is_sent_away_and_may_come_again(world: World) -> None:
    """U5."""
    other = PrivateKey.generate()
    world.enrol(other.public, "en/z")
    limits = Limits(pending=3, pending_per_issuer=2, per_day_and_issuer=4)
    updates = [world.update(sequence=n) for n in range(1, 6)]
    digests = [take(world, envelope, limits=limits).digest for envelope in updates[:2]]
    with pytest.raises(Busy, match="2 updates of this key wait, the limit is 2"):
        take(world, updates[2], limits=limits)
    take(world, world.update(other, path="en/z"), limits=limits)
    for digest in digests:
        world.upload(digest)
        while step(world, digest) != "accepted":
            pass
    assert take(world, updates[2], limits=limits).state == "received"
    assert take(world, updates[3], limits=limits).state == "received"
    with pytest.raises(Busy, match="3 updates wait, the limit is 3"):
        take(world, updates[4], limits=Limits(pending=3))
    with pytest.raises(Busy, match="4 updates of this key came in the last 24 hours"):
        take(world, updates[4], limits=Limits(per_day_and_issuer=4))
    assert receive(world.store, world.blobs, updates[4], world.own, NOW + DAY, limits=Limits(per_day_and_issuer=4))


def test_files_come_in_pieces_and_no_more_than_was_declared(world: World) -> None:
    """T2, T4."""
    digest = take(world, world.update()).digest
    sha256 = hashlib.sha256(ADAPTER).hexdigest()

    def append(offset: int, data: bytes) -> int:
        return append_file(world.store, world.blobs, digest, sha256, offset=offset, data=data)

    assert file_offset(world.store, world.blobs, digest, sha256) == 0
    assert append(0, ADAPTER[:1000]) == 1000
    assert append(500, ADAPTER[500:1200]) == 1200
    assert file_offset(world.store, world.blobs, digest, sha256) == 1200
    with pytest.raises(BadData, match="1200 bytes"):
        append(1300, ADAPTER[1300:])
    with pytest.raises(BadData, match="the limit is 3500"):
        append(1200, ADAPTER[1200:] + b"!")
    assert append(1200, ADAPTER[1200:]) == len(ADAPTER)
    assert append(0, b"late") == file_offset(world.store, world.blobs, digest, sha256) == len(ADAPTER)
    assert world.blobs.read(sha256, 10_000) == ADAPTER
    assert [file.name for file in receipt_of(world.store, world.blobs, digest).missing] == ["transfer.jsonl"]
    with pytest.raises(BadData, match="has no file"):
        append_file(world.store, world.blobs, digest, "1" * 64, offset=0, data=b"x")
    with pytest.raises(UnknownUpdate):
        file_offset(world.store, world.blobs, "1" * 64, sha256)


def test_wrong_bytes_are_sent_again_from_the_start(world: World) -> None:
    """T5."""
    digest = take(world, world.update()).digest
    sha256 = hashlib.sha256(ADAPTER).hexdigest()
    with pytest.raises(BadData, match="not those of"):
        append_file(world.store, world.blobs, digest, sha256, offset=0, data=ADAPTER[::-1])
    assert file_offset(world.store, world.blobs, digest, sha256) == 0
    world.upload(digest)
    assert receipt_of(world.store, world.blobs, digest).missing == []


def test_a_rejected_update_brings_no_files(world: World) -> None:
    digest = take(world, world.update(audience="9" * 64)).digest
    with pytest.raises(BadData, match="was rejected"):
        append_file(world.store, world.blobs, digest, hashlib.sha256(ADAPTER).hexdigest(), offset=0, data=b"x")


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        ([], "accepted"),
        ([finding("files.header", passed=True)], "accepted"),
        ([finding("size.cohort"), finding("files.header", passed=True)], "quarantined"),
        ([finding("size.cohort"), finding("behaviour.anchors")], "rejected"),
        ([finding("files.finite")], "rejected"),
    ],
)
def test_the_checks_decide_arrow_by_arrow(world: World, results: list[CheckResult], outcome: State) -> None:
    """V2."""
    digest = take(world, world.update()).digest
    seen: list[bytes] = []

    def checks(update: Any, adapter: Path, transfer: Path | None) -> list[CheckResult]:
        seen.extend((adapter.read_bytes(), transfer.read_bytes() if transfer else b""))
        return results

    assert step(world, digest, checks) == "received"  # its files are not here yet
    assert [row.digest for row in undecided(world.store)] == [digest]
    world.upload(digest)
    assert [step(world, digest, checks) for _ in range(4)] == ["verified", "checked", outcome, outcome]
    assert seen == [ADAPTER, TRANSFER]
    said = verdict(world, digest)
    assert said.outcome == outcome
    assert said.checks[len(CHECKS) :] == tuple(results)
    for result in results:
        assert result.passed or f"{result.name}: {result.reason}" in said.reason
    assert [row.digest for row in accepted(world.store)] == ([digest] if outcome == "accepted" else [])
    assert decisions(world, digest) == ["received", "verified", "checked", outcome]
    with world.store.read() as session:
        last = session.scalars(select(DecisionRow).order_by(DecisionRow.id.desc())).first()
    assert last is not None
    assert json.loads(last.body)["verdict"]["checks"] == json.loads(said.model_dump_json())["checks"]
    assert world.store.check_integrity() == []


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (BadData("tensor \x1b[31m is not finite"), "rejected", "files.readable: tensor  [31m is not finite"),
        (ZeroDivisionError("by zero"), "quarantined", "crash: a check broke down: ZeroDivisionError: by zero"),
    ],
)
def test_a_check_that_raises_gives_a_verdict(world: World, error: Exception, outcome: State, reason: str) -> None:
    """V4."""
    digest = take(world, world.update()).digest
    world.upload(digest)

    def checks(*_: Any) -> list[CheckResult]:
        raise error

    assert [step(world, digest, checks) for _ in range(3)] == ["verified", "checked", outcome]
    assert verdict(world, digest).reason == reason


def test_a_failure_of_this_machine_leaves_the_update_where_it_was(world: World) -> None:
    digest = take(world, world.update()).digest
    world.upload(digest)
    step(world, digest)
    for error in (LocalFailure("no memory left"), OSError("disk"), MemoryError()):

        def checks(*_: Any, error: Exception = error) -> list[CheckResult]:
            raise error

        with pytest.raises(type(error)):
            step(world, digest, checks)
    assert [step(world, digest) for _ in range(2)] == ["checked", "accepted"]


def test_an_issuer_revoked_meanwhile_is_not_listened_to(world: World) -> None:
    """V3."""
    digest = take(world, world.update()).digest
    world.upload(digest)
    assert [step(world, digest), step(world, digest)] == ["verified", "checked"]
    with world.store.transaction() as session:
        session.get_one(EnrolmentRow, (world.child.public.id, "en/x")).state = "revoked"
    assert step(world, digest) == "rejected"
    assert "still-enrolled" in verdict(world, digest).reason


@pytest.mark.parametrize(
    ("valid", "reason"),
    [
        (30 * DAY, "its files did not come within 2 days, 0:00:00"),
        (DAY, "the update expired before its files were here"),
    ],
)
def test_files_that_never_come_are_not_waited_for_without_end(world: World, valid: timedelta, reason: str) -> None:
    """U11."""
    digest = take(world, world.update(expires=NOW + valid)).digest
    end = NOW + min(valid, 2 * DAY)
    assert step(world, digest, now=end - timedelta(seconds=1)) == "received"
    assert step(world, digest, now=end) == "rejected"
    assert verdict(world, digest).reason == f"files.received: {reason}"


def test_half_a_file_goes_with_its_update(world: World) -> None:
    """U12: nobody fills the disk with files that never end."""
    digest = take(world, world.update()).digest
    append_file(world.store, world.blobs, digest, hashlib.sha256(ADAPTER).hexdigest(), offset=0, data=ADAPTER[:-1])
    assert step(world, digest) == "received"
    assert world.blobs.partial_size(hashlib.sha256(ADAPTER).hexdigest()) == len(ADAPTER) - 1
    assert step(world, digest, now=NOW + 2 * DAY) == "rejected"
    assert world.blobs.partial_size(hashlib.sha256(ADAPTER).hexdigest()) == 0


def test_a_known_blob_of_another_size_is_not_what_was_declared(world: World) -> None:
    world.blobs.put_bytes(ADAPTER)
    world.blobs.put_bytes(TRANSFER)
    receipt = take(world, world.update(adapter=adapter(size=100)))
    assert receipt.missing == []
    assert step(world, receipt.digest) == "rejected"
    assert "has 3500 bytes, 100 were declared" in verdict(world, receipt.digest).reason


def test_a_file_damaged_on_our_disk_is_asked_for_again(world: World) -> None:
    """V5."""
    digest = take(world, world.update()).digest
    world.upload(digest)
    assert step(world, digest) == "verified"
    world.blobs.path(hashlib.sha256(ADAPTER).hexdigest()).write_bytes(b"x" * len(ADAPTER))
    assert step(world, digest) == "received"
    assert [file.name for file in receipt_of(world.store, world.blobs, digest).missing] == ["adapter.safetensors"]
    world.upload(digest)
    assert [step(world, digest) for _ in range(3)] == ["verified", "checked", "accepted"]


def test_any_number_of_checks_fits_into_a_verdict(world: World) -> None:
    """V1."""
    digest = take(world, world.update()).digest
    world.upload(digest)
    many = [
        CheckResult(name=f"size.m{n}", value=1.0, threshold=2.0, passed=n != 499, reason="é" * 2000, cost_ms=0.0)
        for n in range(500)
    ]
    assert [step(world, digest, lambda *_: many) for _ in range(3)] == ["verified", "checked", "quarantined"]
    assert verdict(world, digest).checks[0].name == "size.m499"


def set_state(world: World, digest: str, state: State) -> None:
    with world.store.transaction() as session:
        session.get_one(UpdateRow, digest).state = state


def test_mark_moves_along_the_table_and_nowhere_else(world: World) -> None:
    digest = take(world, world.update()).digest
    for before in get_args(State):
        for after in get_args(State):
            set_state(world, digest, before)
            count = len(decisions(world, digest))
            if before == after or after in RELEASING.get(before, ()):
                with world.store.transaction() as session:
                    mark(session, digest, after, NOW)
                assert len(decisions(world, digest)) == count + (before != after)
            else:
                with (
                    pytest.raises(LocalFailure, match=f"is {before} and cannot become {after}"),
                    world.store.transaction() as session,
                ):
                    mark(session, digest, after, NOW)
                assert len(decisions(world, digest)) == count
    with pytest.raises(UnknownUpdate), world.store.transaction() as session:
        mark(session, "1" * 64, "aggregated", NOW)


def test_a_quarantined_update_is_settled_with_a_new_verdict(world: World) -> None:
    digest = take(world, world.update()).digest
    world.upload(digest)
    assert [step(world, digest, lambda *_: [finding("size.z")]) for _ in range(3)][-1] == "quarantined"
    assert [result.name for result in receipt_of(world.store, world.blobs, digest).failed] == ["size.z"]
    why = CheckResult(name="person.decision", value=None, threshold=None, passed=True, reason="looked at", cost_ms=0.0)
    for _ in range(2):
        assert settle(world.store, digest, "accepted", why, world.own, NOW) == "accepted"
    said = verdict(world, digest)
    assert [result.name for result in said.checks[-2:]] == ["size.z", "person.decision"]
    assert decisions(world, digest)[-2:] == ["quarantined", "accepted"]
    assert settle(world.store, digest, "rejected", finding("gate.anchors"), world.own, NOW) == "rejected"
    with pytest.raises(LocalFailure, match="is rejected and cannot become accepted"):
        settle(world.store, digest, "accepted", why, world.own, NOW)


@pytest.mark.parametrize("seed", range(max(1, KILLS // 4)))
def test_a_life_that_is_killed_anywhere_ends_as_one_that_is_not(database_url: str, tmp_path: Path, seed: int) -> None:
    """L1: the log has the verdict once."""
    world = open_world(database_url, tmp_path)
    (tmp_path / "update.json").write_bytes(world.update())
    chance = random.Random(seed)
    program = [sys.executable, str(Path(__file__).with_name("inbox_world.py")), database_url, str(tmp_path)]
    codes = []
    for _ in range(4):  # a life has about 180 such points
        killed = subprocess.run(
            [*program, str(chance.randint(1, 90))], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False
        )
        codes.append(killed.returncode)
    assert -9 in codes
    live(world, world.update())
    (row,) = _all_updates(world)
    assert (row.state, row.release, highest(world)) == ("announced", "7" * 64, 1)
    assert verdict(world, row.digest).outcome == "accepted"
    arrows = ["received", "verified", "checked", "accepted", "aggregated", "gated", "released", "announced"]
    assert decisions(world, row.digest) == arrows
    assert logged(world) == [("update.accepted", row.digest, "node")]
    assert world.store.check_integrity() == world.blobs.check_integrity() == []
    assert [file.name for file in (tmp_path / "partial").iterdir()] == []
    world.store.close()


def logged(world: World) -> list[tuple[str, str, str]]:
    """Kind, subject and author of every leaf of the log, which is sound."""
    with world.store.read() as session:
        assert rehash(session, {}) == []
        entries = [LogEntry.from_bytes(row.entry) for row in leaf_rows(session, 0, 100)]
    return [(entry.kind, entry.subject, entry.by) for entry in entries]


def test_every_verdict_is_a_leaf_of_the_log(world: World) -> None:
    """L1: with the figures of its checks, whoever decided."""
    digest = take(world, world.update()).digest
    world.upload(digest)
    assert [step(world, digest, lambda *_: [finding("size.z")]) for _ in range(3)][-1] == "quarantined"
    envelopes = [verdict_of(world.store, digest)]
    why = CheckResult(name="person", value=None, threshold=None, passed=True, reason="looked at", cost_ms=0.0)
    settle(world.store, digest, "accepted", why, world.own, NOW)
    settle(world.store, digest, "quarantined", finding("gate.known"), world.own, NOW)
    wrong = take(world, world.update(sequence=2, audience="9" * 64)).digest
    assert logged(world) == [
        ("update.quarantined", digest, "node"),
        ("update.accepted", digest, "person"),
        ("update.quarantined", digest, "node"),
        ("update.rejected", wrong, "node"),
    ]
    with world.store.read() as session:
        first = LogEntry.from_bytes(leaf_rows(session, 0, 1)[0].entry)
    assert first.document == hashlib.sha256(envelopes[0] or b"").hexdigest()
    assert first.checks[-1].model_dump() == {"name": "size.z", "value": 2.5, "threshold": 1.0, "passed": False}
    assert (first.checker, first.created) == (checker_version(), NOW)


def _all_updates(world: World) -> list[UpdateRow]:
    with world.store.read() as session:
        return list(session.scalars(select(UpdateRow)))
