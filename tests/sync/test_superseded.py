"""Who sends more often must not weigh more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from node.context import Node
from node.promotions import promoter
from registry.documents import Verdict, open_document
from registry.errors import BadData
from registry.paths import NodePath
from registry.tables import UpdateRow
from sync.candidate import Candidate
from sync.delta import Delta, scaled
from sync.lifecycle import accepted, load_update
from sync.policy import POLICIES, PolicySettings
from sync.policy_state import policy_state
from sync.superseded import NEWEST, supersede
from tests.toy_tree import decide, enrol, identity, make_parent, state_of
from tests.world import utc_now

SENT = 4


@pytest.fixture
def parent(toy_base: Path, tmp_path: Path) -> Iterator[Node]:
    with closing(make_parent(tmp_path / "home", toy_base)) as node:
        yield node


def taken(parent: Node, path: str, deltas: Sequence[Delta]) -> list[str]:
    """Updates of one new sender for a path, all accepted; how they are checked is not the question here."""
    child = enrol(parent, path)
    digests = [child.offer(delta) for delta in deltas]
    assert {decide(parent, digest, lambda update, file, transfer: []) for digest in digests} == {"accepted"}
    return digests


def weights(parent: Node, of: Sequence[Delta]) -> list[float]:
    """How much of each delta is in the merge of all that waits."""
    at_work = promoter(parent)
    updates = {row.digest: load_update(parent.store, row.digest)[1] for row in accepted(parent.store)}
    (release,) = {update.release.digest for update in updates.values()}
    merged = Candidate(at_work, at_work.composer.chain(release), updates).merged("mean").delta
    flat = [torch.cat([(one[name].b @ one[name].a).flatten() for name in sorted(merged)]) for one in (*of, merged)]
    found = torch.linalg.lstsq(torch.stack(flat[:-1], 1).double(), flat[-1].double().unsqueeze(1)).solution
    return [round(float(value), 2) for value in found.flatten()]


def test_a_sender_of_many_updates_outweighs_one_until_they_are_settled(
    parent: Node, toy_adapters: dict[str, Delta]
) -> None:
    """V10: the attack without the defence, and with it."""
    loud, quiet = toy_adapters["en/shapes"], toy_adapters["en/tools"]
    many = taken(parent, "en/shapes", [loud] * SENT)
    (one,) = taken(parent, "en/tools", [quiet])
    assert weights(parent, [loud, quiet]) == [0.8, 0.2]
    assert set(supersede(parent.store, identity(parent), utc_now())) == set(many[:-1])
    assert weights(parent, [loud, quiet]) == [0.5, 0.5]
    assert {row.digest for row in accepted(parent.store)} == {many[-1], one}


def test_the_sender_is_told_why(parent: Node, toy_adapters: dict[str, Delta]) -> None:
    """V10: a new verdict, signed."""
    first, _ = taken(parent, "en/shapes", [toy_adapters["en/shapes"]] * 2)
    supersede(parent.store, identity(parent), utc_now())
    assert state_of(parent, first) == ("rejected", None)
    row, _ = load_update(parent.store, first)
    assert row.verdict is not None
    verdict, _ = open_document(row.verdict, Verdict, [parent.key.public])
    assert verdict.checks[-1].name == NEWEST
    assert "update 2 of the same sender for en/shapes was accepted too" in verdict.checks[-1].reason


def test_a_child_that_sends_often_does_not_put_the_release_off(parent: Node, toy_adapters: dict[str, Delta]) -> None:
    """V10, G1: an update waits since the first one came that it supersedes."""
    child, hour = enrol(parent, "en/shapes"), timedelta(hours=1)
    enrol(parent, "en/tools")
    begun, settings = utc_now(), PolicySettings(updates=2, wait_s=24 * 3600)
    for number in range(4):
        digest = child.offer(toy_adapters["en/shapes"])
        decide(parent, digest, lambda update, file, transfer: [])
        with parent.store.transaction() as session:
            row = session.get_one(UpdateRow, digest)
            row.received = row.changed = begun + 20 * number * hour
        supersede(parent.store, identity(parent), begun + 20 * number * hour)
    (one,) = accepted(parent.store)

    def decision(hours: int) -> bool:
        state = policy_state(
            parent.store, parent.blobs, parent.key.public.id, NodePath.parse("en"), begun + hours * hour
        )
        assert [waiting.since for waiting in state.waiting] == [begun]
        return POLICIES["every-n"](state, settings).release

    assert one.changed == begun + 60 * hour
    assert (decision(23), decision(24)) == (False, True)


def test_other_paths_other_senders_and_refused_updates_supersede_nothing(
    parent: Node, toy_adapters: dict[str, Delta]
) -> None:
    """V10: it is one sender's own accepted word that replaces his earlier one."""
    delta = toy_adapters["en/shapes"]
    child = enrol(parent, "en/shapes")
    kept = child.offer(delta)
    decide(parent, kept, lambda update, file, transfer: [])

    def refuse(*_: object) -> list[object]:
        raise BadData("not this one")

    assert decide(parent, child.offer(scaled(delta, 0.5)), refuse) == "rejected"  # type: ignore[arg-type]
    below = child.offer(scaled(delta, 0.9), path="en/shapes/round")
    decide(parent, below, lambda update, file, transfer: [])
    (other,) = taken(parent, "en/other", [delta])
    assert supersede(parent.store, identity(parent), utc_now()) == []
    assert {row.digest for row in accepted(parent.store)} == {kept, below, other}
