"""What an update is compared with: one voice per issuer, at one place, over one base."""

from __future__ import annotations

import json

import pytest

from node.context import Node
from registry.blobs import BlobStore
from registry.documents import Update
from registry.tables import UpdateRow
from sync import cohort
from sync.checks.size import norms_of
from sync.checks.spectrum import spectrum_of
from sync.cohort import history_of, kept_norms, kept_spectrum, requests_of, siblings_of
from sync.delta import Delta, scaled
from sync.lifecycle import load_update
from sync.verdict import failure
from tests.sync.promoting import Done, at_work, updates_of
from tests.toy import TOOLS, rows
from tests.toy_tree import decide, enrol


def siblings(node: Node, digest: str) -> list[str]:
    """The digests of the siblings of an update."""
    update = load_update(node.store, digest)[1]
    composer = at_work(node).composer
    config = json.loads((composer.base_folder(update.base) / "config.json").read_text(encoding="utf-8"))
    return [row.digest for row in siblings_of(composer, update, config)]


def test_the_newest_update_of_each_other_issuer_counts_once(bare: Node, toy_adapters: dict[str, Delta]) -> None:
    """C26: nobody is a cohort by himself, and what failed is no measure."""
    delta = toy_adapters["en/tools"]
    children = {name: enrol(bare, f"en/{name}") for name in ("own", "often", "bad", "broken", "late")}
    own = children["own"].offer(delta)
    for _ in range(3):
        often = children["often"].offer(delta)
        assert decide(bare, often, lambda *_: []) == "accepted"
    bad = children["bad"].offer(delta)
    assert decide(bare, bad, lambda *_: [failure("size.cohort", "odd")]) == "quarantined"
    broken, late = children["broken"].offer(scaled(delta, float("nan"))), children["late"].offer(delta)
    assert set(siblings(bare, own)) == {often}, "the others wait for their files to be looked at"
    for digest in (broken, late):
        with bare.store.transaction() as session:
            row = session.get(UpdateRow, digest)
            assert row is not None
            row.state = "verified"
    assert set(siblings(bare, own)) == {often, late}


def test_requests_of_a_sibling_are_its_transfer_set_where_it_is_here(
    bare: Node, toy_adapters: dict[str, Delta]
) -> None:
    """C34."""
    shown = rows(TOOLS, range(3))
    child, composer = enrol(bare, "en/tools"), at_work(bare).composer
    row, update = load_update(bare.store, child.offer(toy_adapters["en/tools"], shown))
    assert [(one.input, one.output) for one in requests_of(composer, row)] == [(r.input, r.output) for r in shown]
    assert isinstance(update, Update)
    assert update.transfer is not None
    bare.blobs.path(update.transfer.sha256).unlink()
    assert requests_of(composer, row) == []
    without = load_update(bare.store, enrol(bare, "en/shapes").offer(toy_adapters["en/shapes"]))[0]
    assert requests_of(composer, without) == []


def test_there_is_an_end_to_how_many_are_read(
    bare: Node, toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    children = [enrol(bare, f"en/c{number}") for number in range(4)]
    digests = [child.offer(toy_adapters["en/tools"]) for child in children]
    for digest in digests[1:]:
        decide(bare, digest, lambda *_: [])
    monkeypatch.setattr(cohort, "MAX_SIBLINGS", 2)
    assert len(siblings(bare, digests[0])) == 2


def test_copies_of_one_adapter_under_several_keys_are_held_back(bare: Node, toy_adapters: dict[str, Delta]) -> None:
    """C26: the first is taken, those that come after it wait for a person."""
    check = at_work(bare).check
    sent = [
        enrol(bare, f"en/c{number}").offer(scaled(toy_adapters["en/tools"], 1.0 - 0.05 * number)) for number in range(2)
    ]
    assert [decide(bare, digest, check) for digest in sent] == ["accepted", "quarantined"]


def test_what_is_measured_of_earlier_updates_is_kept(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    composer, (_, updates) = at_work(done.node).composer, updates_of(done.node)
    deltas = [composer.delta(update.adapter) for update in updates]

    def kept() -> list[tuple[object, object]]:
        rows = [row for update in updates for row in history_of(composer, update)]
        return [(kept_norms(composer, row), kept_spectrum(composer, row)) for row in rows]

    first = kept()
    assert first == [(norms_of(delta), spectrum_of(delta)) for delta in deltas]
    monkeypatch.setattr(BlobStore, "open_verified", lambda *_: pytest.fail("an adapter was read again"))
    monkeypatch.setattr(BlobStore, "has", lambda *_: False)
    assert kept() == first
