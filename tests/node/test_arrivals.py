"""What a child does with releases of a parent that is mistaken or lies; through the network, with the toy model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI

from node.api.app import create_app
from node.arrivals import check_release
from node.context import Node
from node.decisions import decide
from node.pull import Pulled, pull
from node.rebasing import rebase_all
from node.status import status
from node.updates import list_updates, show_update
from node.validation import store_validation
from registry.documents import BaseManifest, ReleasePin
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from registry.store import select
from registry.tables import ArrivalRow, DecisionRow, ReleaseRow
from sync.chain import stored_chain
from sync.delta import Delta, scaled
from tests.toy import KNOWN, TOOLS, held_out, rows
from tests.toy_tree import SETTINGS, head_of, make_parent, put_toy_release
from tests.world import enrol_child, make_node, put_base, put_release, utc_now

PATH = "en/shapes"


@pytest.fixture
def family(serve: Callable[[FastAPI], str], toy_base: Path, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """A parent, and a child that serves its first release."""
    with (
        closing(make_parent(tmp_path / "parent", toy_base)) as parent,
        closing(make_node(tmp_path / "child", PATH, **SETTINGS)) as child,
    ):
        enrol_child(child, parent, serve(create_app(parent)), PATH)
        pull(child, None, utc_now())
        yield parent, child


def follow_up(parent: Node, delta: Delta | None, version: int = 2) -> ReleasePin:
    """The parent's next release."""
    old = head_of(parent, "en")
    base = BaseManifest.from_bytes(parent.blobs.read(old.release.base, 1 << 20))
    anchors = [*rows(KNOWN), *rows(TOOLS)]
    return put_toy_release(parent, "en", base, version=version, delta=delta, anchors=anchors, previous=old.digest)


def pulled(child: Node) -> Pulled:
    [one] = pull(child, None, utc_now())
    return one


def test_an_honest_release_is_served_with_a_verdict(family: tuple[Node, Node], toy_adapters: dict[str, Delta]) -> None:
    """Q1."""
    parent, child = family
    pin = follow_up(parent, toy_adapters["en/tools"])
    assert (pulled(child).new, head_of(child, "en").pin) == (True, pin)
    detail = show_update(child, pin.digest[:12], utc_now())
    assert (detail.summary.kind, detail.summary.state, detail.summary.direction) == ("release", "accepted", "in")
    names = [check.name for check in detail.checks]
    assert names[:3] == ["files.rank", "files.alpha", "files.targets"]
    assert names[-5:-2] == ["size.terms", "behaviour.known", "behaviour.answers"]
    assert names[-2:] == ["behaviour.canaries", "behaviour.triggers"]
    assert pulled(child).new is False


@pytest.mark.parametrize("has_rows", [True, False])
def test_a_release_that_has_forgotten_is_held_back(
    family: tuple[Node, Node], toy_adapters: dict[str, Delta], has_rows: bool
) -> None:
    """Q1, Q2: by rows of the child's own, or by what the last release answered."""
    parent, child = family
    if has_rows:
        store_validation(child.home, NodePath.parse("en"), held_out(KNOWN))
    before = head_of(child, "en")
    bad = follow_up(parent, scaled(toy_adapters["en/tools"], -3.0))
    one = pulled(child)
    assert (one.new, head_of(child, "en")) == (False, before)
    assert one.held.startswith("quarantined: ")
    assert ("behaviour.known" in one.held) is has_rows
    assert "behaviour.answers" in one.held
    [summary] = [one for one in list_updates(child, "in") if one.state == "quarantined"]
    assert (summary.digest, summary.sequence, summary.path) == (bad.digest, 2, "en")
    with child.store.read() as session:
        assert session.get(ReleaseRow, bad.digest) is None  # it is not served to those below either
        [noted] = session.scalars(select(DecisionRow).where(DecisionRow.kind == "release.quarantined"))
    assert noted.subject == bad.digest
    assert rebase_all(child, utc_now()) == []


def test_what_was_held_back_is_not_checked_again_and_its_successor_is(
    family: tuple[Node, Node], toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q1."""
    parent, child = family
    follow_up(parent, scaled(toy_adapters["en/tools"], -3.0))
    first = pulled(child)
    with monkeypatch.context() as patched:
        patched.setattr("node.arrivals.check_release", None)
        assert pulled(child) == first
    good = follow_up(parent, toy_adapters["en/tools"], version=3)
    assert pulled(child).new
    assert head_of(child, "en").pin == good


def test_a_person_may_accept_what_was_held_back(family: tuple[Node, Node], toy_adapters: dict[str, Delta]) -> None:
    """Q3."""
    parent, child = family
    bad = follow_up(parent, scaled(toy_adapters["en/tools"], -3.0))
    pulled(child)
    detail = decide(child, bad.digest[:16], "accepted", "we want it to forget", utc_now())
    assert detail.verdict is not None
    assert (detail.summary.state, detail.verdict.checks[-1].name) == ("accepted", "person")
    assert pulled(child).new
    assert head_of(child, "en").pin == bad
    with pytest.raises(LocalFailure, match="nothing waits"):
        decide(child, bad.digest[:16], "rejected", "too late", utc_now())


def test_a_person_may_reject_it_for_good(family: tuple[Node, Node], toy_adapters: dict[str, Delta]) -> None:
    """Q3."""
    parent, child = family
    bad = follow_up(parent, scaled(toy_adapters["en/tools"], -3.0))
    pulled(child)
    assert decide(child, bad.digest, "rejected", "a lie", utc_now()).summary.state == "rejected"
    assert pulled(child).held.startswith("rejected: ")


def test_where_what_is_served_is_broken_a_person_decides(
    family: tuple[Node, Node], toy_adapters: dict[str, Delta]
) -> None:
    """Q1: a file of ours that is damaged is neither the new release's fault nor asked again in every round."""
    parent, child = family
    served = head_of(child, "en").release.anchors
    assert served is not None
    child.blobs.path(served.sha256).write_bytes(b"damaged")
    good = follow_up(parent, toy_adapters["en/tools"])
    first = pulled(child)
    assert first.held.startswith("quarantined: behaviour.served: what is served until now, en@v1, cannot be asked")
    assert pulled(child) == first
    [held] = status(child, utc_now()).quarantined
    assert (held["digest"], held["number"]) == (good.digest, 2)
    assert "node doctor" in held["reason"]
    decide(child, good.digest, "accepted", "the old one is broken", utc_now())
    assert pulled(child).new


def test_going_back_to_what_was_accepted_is_accepted(family: tuple[Node, Node], toy_adapters: dict[str, Delta]) -> None:
    """Q4: though it knows less than what it replaces."""
    parent, child = family
    follow_up(parent, toy_adapters["en/tools"])
    pulled(child)
    store_validation(child.home, NodePath.parse("en"), held_out(TOOLS))
    back = follow_up(parent, None, version=3)
    assert pulled(child).new
    assert head_of(child, "en").pin == back
    assert [check.name for check in show_update(child, back.digest, utc_now()).checks] == ["behaviour.same"]


def test_a_file_that_lies_is_rejected_before_anything_is_loaded(
    family: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q1, Q2."""
    parent, child = family
    old = head_of(parent, "en")
    base = BaseManifest.from_bytes(parent.blobs.read(old.release.base, 1 << 20))
    put_release(parent, "en", base, version=2, adapter=b"\x80\x04pickle me" * 99)
    monkeypatch.setattr("sync.model.load_model", None)
    assert pulled(child).held.startswith("rejected: files.header")
    assert head_of(child, "en") == old


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("pytorch_model.bin", b"\x80\x04", "pytorch_model.bin, which is not a file of a base"),
        ("modeling_evil.py", b"import os", "modeling_evil.py, which is not a file of a base"),
        ("model.safetensors", b"\x80\x04" * 99, "safetensors"),
        ("config.json", b'{"auto_map": {"AutoModel": "x.Y"}}', "asks to run Python code"),
        ("config.json", b"[" * 99_999, "config.json of the base is not"),
        ("config.json", b"[]", "config.json of the base is not"),
    ],
)
def test_a_base_with_what_could_run_is_rejected(
    family: tuple[Node, Node], toy_base: Path, name: str, data: bytes, reason: str
) -> None:
    """Q1, T10: a parent cannot bring code with another base."""
    parent, child = family
    files = {file.name: file.read_bytes() for file in toy_base.iterdir()}
    put_release(parent, "en", put_base(parent, {**files, name: data}), version=2)
    held = pulled(child).held
    assert held.startswith("rejected: files.base")
    assert reason in held


def test_one_bad_place_does_not_keep_the_others(
    serve: Callable[[FastAPI], str], toy_base: Path, tmp_path: Path
) -> None:
    with (
        closing(make_parent(tmp_path / "parent", toy_base, "master", "en")) as parent,
        closing(make_node(tmp_path / "child", PATH, **SETTINGS)) as child,
    ):
        enrol_child(child, parent, serve(create_app(parent)), PATH)
        base = BaseManifest.from_bytes(parent.blobs.read(head_of(parent, "en").release.base, 1 << 20))
        put_release(parent, "master", base, version=2, created=utc_now() - timedelta(days=2), days=1)
        with pytest.raises(BadData, match="master@v2 expired"):
            pull(child, None, utc_now())
        assert head_of(child, "en") == head_of(parent, "en")


def test_a_verdict_stands_with_what_it_decided_or_not_at_all(
    family: tuple[Node, Node], toy_adapters: dict[str, Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q1: killed before the end, it is checked again."""

    class Stopped(BaseException):
        pass

    def stopped(*_: object) -> None:
        raise Stopped

    parent, child = family
    pin = follow_up(parent, toy_adapters["en/tools"])
    with monkeypatch.context() as patched:
        patched.setattr("sync.pull._make_visible", stopped)
        with pytest.raises(Stopped):
            pulled(child)
    with child.store.read() as session:
        assert session.get(ArrivalRow, pin.digest) is None
    assert pulled(child).new


def test_checks_are_made_on_what_is_new_here(family: tuple[Node, Node]) -> None:
    _, child = family
    chain = stored_chain(child.store, child.blobs, head_of(child, "en").digest)
    results, norms = check_release(child, chain)
    assert ([one.name for one in results], norms) == (["behaviour.same"], None)
