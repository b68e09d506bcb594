from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from registry.documents import CheckResult
from registry.errors import BadData, LocalFailure
from registry.log.entry import LogEntry, log_entry
from registry.log.leaves import (
    append,
    entries_about,
    leaf_position,
    leaf_rows,
    log_root,
    log_size,
    prove_consistency,
    prove_inclusion,
    rehash,
)
from registry.log.merkle import BadProof, Frontier, check_consistency, check_inclusion, leaf_hash
from registry.store import Store
from registry.tables import LogCheckpointRow

NOW = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
COUNT = 67


def entry(number: int) -> LogEntry:
    return log_entry("release.made", f"{number:064x}", NOW)


def fill(store: Store, count: int = COUNT) -> list[bytes]:
    """A log of some leaves, appended by two in a transaction; the hashes of the leaves."""
    for number in range(0, count, 2):
        with store.transaction() as session:
            for one in range(number, min(number + 2, count)):
                assert append(session, entry(one)) == one
    return [leaf_hash(entry(number).to_bytes()) for number in range(count)]


def test_every_prefix_has_the_root_of_its_entries_and_proves_itself(store: Store) -> None:
    """L3, L4."""
    leaves, frontier = fill(store), Frontier()
    with store.read() as session:
        assert log_size(session) == COUNT
        roots = []
        for leaf in leaves:
            frontier.add(leaf)
            roots.append(log_root(session, frontier.size))
            assert roots[-1] == frontier.root()
        for size in (1, 2, 63, 64, COUNT):
            for number in range(0, size, 5):
                proof = prove_inclusion(session, number, size)
                check_inclusion(leaves[number], number, size, proof, roots[size - 1])
                proof = prove_consistency(session, number + 1, size)
                check_consistency(number + 1, roots[number], size, roots[size - 1], proof)
        assert rehash(session, {size: roots[size - 1] for size in (1, 40, COUNT)}) == []


def test_what_a_log_does_not_have_cannot_be_proven(store: Store) -> None:
    """L4."""
    fill(store, 5)
    with store.read() as session:
        for ask in (
            lambda: prove_inclusion(session, 5, 5),
            lambda: prove_inclusion(session, 0, 6),
            lambda: prove_consistency(session, 0, 5),
            lambda: prove_consistency(session, 4, 3),
            lambda: prove_consistency(session, 3, 6),
            lambda: log_root(session, 6),
        ):
            with pytest.raises(BadProof):
                ask()


def test_an_entry_is_found_by_what_it_is_about(store: Store) -> None:
    fill(store, 5)
    with store.transaction() as session:
        append(session, entry(3))
    with store.read() as session:
        assert [row.position for row in entries_about(session, f"{3:064x}", 10)] == [3, 5]
        assert leaf_position(session, leaf_hash(entry(4).to_bytes()).hex()) == 4
        assert leaf_position(session, "0" * 64) is None
        assert [row.position for row in leaf_rows(session, 2, 3)] == [2, 3, 4]


@pytest.mark.parametrize("table", ["log_leaves", "log_checkpoints"])
@pytest.mark.parametrize("change", ["UPDATE", "DELETE", "REPLACE", "TRUNCATE"])
def test_the_log_can_only_grow(store: Store, database_url: str, table: str, change: str) -> None:
    """L1, L6: the database itself refuses."""
    if ("TRUNCATE" if database_url.startswith("sqlite") else "REPLACE") == change:
        pytest.skip("not a statement of this database")
    fill(store, 3)
    with store.transaction() as session:
        session.add(LogCheckpointRow(size=3, note="note", created=NOW))
    column, values = {
        "log_leaves": ("leaf", "(position, subject, leaf, entry, hashes) VALUES (1, 'x', 'x', 'x', 'x')"),
        "log_checkpoints": ("note", "(size, note, created) VALUES (3, 'x', '2026-01-01')"),
    }[table]
    statement = {
        "UPDATE": f"UPDATE {table} SET {column} = 'x'",
        "DELETE": f"DELETE FROM {table}",
        "REPLACE": f"INSERT OR REPLACE INTO {table} {values}",
        "TRUNCATE": f"TRUNCATE {table}",
    }[change]
    with pytest.raises(IntegrityError, match=f"{table} is append-only"), store.transaction() as session:
        session.execute(text(statement))
    with store.read() as session:
        assert log_size(session) == 3
        assert rehash(session, {}) == []


@pytest.mark.parametrize("position", [-1, 1, 4, 9])
def test_a_leaf_has_no_place_but_the_next(store: Store, position: int) -> None:
    """L1."""
    fill(store, 3)
    values = f"VALUES ({position}, 'x', 'x', 'x', 'x')"
    with pytest.raises(IntegrityError, match="append-only"), store.transaction() as session:
        session.execute(text(f"INSERT INTO log_leaves (position, subject, leaf, entry, hashes) {values}"))


def test_a_transaction_that_fails_leaves_no_leaf(store: Store) -> None:
    """L1."""
    fill(store, 3)
    with pytest.raises(BadData), store.transaction() as session:
        append(session, entry(3))
        raise BadData("the decision failed")
    with store.transaction() as session:
        assert append(session, entry(7)) == 3
    with store.read() as session:
        assert rehash(session, {}) == []


CHANGES = {
    "an entry": ("UPDATE log_leaves SET entry = (SELECT entry FROM log_leaves WHERE position = 5) WHERE position = 4"),
    "a stored hash": "UPDATE log_leaves SET hashes = entry WHERE position = 7",
    "a leaf's hash": "UPDATE log_leaves SET leaf = 'ff' WHERE position = 6",
    "a subject": f"UPDATE log_leaves SET subject = '{9:064x}' WHERE position = 4",
    "a missing leaf": "DELETE FROM log_leaves WHERE position = 4",
    "a missing end": "DELETE FROM log_leaves WHERE position > 8",
    "an entry that is none": "UPDATE log_leaves SET entry = hashes WHERE position = 4",
}


@pytest.mark.parametrize("change", CHANGES)
def test_hashing_it_all_again_finds_what_was_changed(store: Store, database_url: str, change: str) -> None:
    """L8: by somebody who can switch the triggers off."""
    fill(store, 12)
    with store.read() as session:
        root = log_root(session, 12)
        assert rehash(session, {12: root}) == []
        assert rehash(session, {12: b"x" * 32}) == ["the checkpoint of 12 leaves has another root than the entries"]
        assert rehash(session, {13: root}) == ["there are 12 leaves; a checkpoint has 13"]
    off = (
        ["DROP TRIGGER log_leaves_no_update", "DROP TRIGGER log_leaves_no_delete"]
        if database_url.startswith("sqlite")
        else ["ALTER TABLE log_leaves DISABLE TRIGGER ALL"]
    )
    statement = CHANGES[change]
    with store.transaction() as session:
        for one in [*off, statement]:
            session.execute(text(one))
    with store.read() as session:
        assert rehash(session, {12: root})


def test_missing_hashes_are_a_local_failure(store: Store, database_url: str) -> None:
    fill(store, 4)
    off = (
        "DROP TRIGGER log_leaves_no_update"
        if database_url.startswith("sqlite")
        else "ALTER TABLE log_leaves DISABLE TRIGGER ALL"
    )
    with store.transaction() as session:
        session.execute(text(off))
        session.execute(text("UPDATE log_leaves SET hashes = substr(hashes, 1, 32)"))
    with store.read() as session, pytest.raises(LocalFailure, match="damaged"):
        log_root(session, 4)


def test_an_entry_tells_figures_and_digests_alone() -> None:
    """L2."""
    check = CheckResult(name="size.relative", value=2.5, threshold=1.0, passed=False, reason="a secret", cost_ms=3.0)
    made = log_entry("update.rejected", "1" * 64, NOW, document=b"verdict", checks=[check], checker="banyan 1 checks 2")
    assert json.loads(made.to_bytes()) == {
        "kind": "update.rejected",
        "subject": "1" * 64,
        "document": hashlib.sha256(b"verdict").hexdigest(),
        "by": "node",
        "checks": [{"name": "size.relative", "value": 2.5, "threshold": 1.0, "passed": False}],
        "checker": "banyan 1 checks 2",
        "created": "2026-03-01T12:00:00.000005Z",
    }
    assert LogEntry.from_bytes(made.to_bytes()) == made
    assert b"secret" not in made.to_bytes()
    for change in ({"kind": "update.lost"}, {"by": "ghost"}, {"subject": "x"}, {"path": "en"}):
        with pytest.raises(BadData):
            LogEntry.from_bytes(json.dumps(json.loads(made.to_bytes()) | change, separators=(",", ":")).encode())
