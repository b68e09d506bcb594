from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from node.context import Node
from registry.errors import BadData
from registry.keys import PrivateKey, PublicKey
from registry.log.entry import LogEntry
from registry.log.leaves import entries_about
from sync.checks.thresholds import Thresholds
from sync.consolidate import merge
from sync.delta import Delta, Factor
from sync.federation.arrays import fresh, to_record
from sync.federation.client import LocalPrivacy, client_app
from sync.federation.contributions import Asked
from sync.federation.desk import TooFew
from sync.federation.inspection import Reference, inspect_numbers, inspect_round
from sync.federation.plan import CentralPrivacy, RoundsPlan
from sync.federation.rounds import Prepared, run_rounds
from sync.federation.strategy import ARRAYS, CONFIG, ENVELOPE, SIGNED, TASK
from tests.sync.federation.conftest import app, member
from tests.sync.federation.direct import DirectGrid, Twist
from tests.toy_tree import Child, head_of


def grid_of(prepared: Prepared, children: dict[str, Child], work: Path) -> DirectGrid:
    return DirectGrid({n: app(child, prepared.promoter, work) for n, child in enumerate(children.values(), 1)})


def test_the_release_is_what_our_own_aggregation_makes_of_the_last_contributions(
    bare: Node, children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J7."""
    prepared = ready_run(rounds=2)
    result = run_rounds(prepared, cast(Grid, grid_of(prepared, children, tmp_path)))
    assert result.release is not None, result.checks
    assert [ruling.outcome for ruling in prepared.desk.rulings] == ["accepted"] * 6
    assert len(result.release.contributions) == 6
    assert result.release.version == 2
    assert head_of(bare, "en").release == result.release
    expected = merge(None, [one.delta for one in prepared.desk.last], 16)
    assert result.release.adapter is not None
    released = prepared.promoter.composer.delta(result.release.adapter)
    assert released.keys() == expected.delta.keys()
    for name, factor in expected.delta.items():
        assert torch.equal(released[name].product(), factor.product())


def reply_with(reply: Message, change: Callable[[dict[str, Any]], None]) -> Message:
    """A reply whose arrays somebody changed after they were signed."""
    arrays: dict[str, Any] = dict(reply.content.array_records[ARRAYS])
    change(arrays)
    content = RecordDict({ARRAYS: ArrayRecord(arrays), **dict(reply.content.config_records)})
    return Message(content, reply_to=_asked(reply))


def _asked(reply: Message) -> Message:
    """A message that this one can be a reply to."""
    said = reply.metadata
    asked = Message(RecordDict(), said.src_node_id, said.message_type, group_id=said.group_id, ttl=60.0)
    asked.metadata.__dict__["_message_id"] = said.reply_to_message_id
    return asked


def filled(value: float) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        name = next(name for name in arrays if name.endswith(".b"))
        numbers = arrays[name].numpy().copy()
        numbers[0, 0] = value
        arrays[name] = Array(numbers)

    return change


def declared_huge(arrays: dict[str, Any]) -> None:
    """A small array whose file says that it is a large one: numpy would make room for it."""
    name = next(iter(arrays))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)})
    good = arrays[name]
    arrays[name] = Array(dtype="float32", shape=good.shape, stype=good.stype, data=head.getvalue())


def pickled(arrays: dict[str, Any]) -> None:
    name = next(iter(arrays))
    arrays[name] = Array(dtype="float32", shape=arrays[name].shape, stype="pickle", data=b"cos\nsystem\n(S'ls'\ntR.")


def unsigned(reply: Message) -> Message:
    return Message(RecordDict({ARRAYS: reply.content.array_records[ARRAYS]}), reply_to=_asked(reply))


def garbage(reply: Message) -> Message:
    return Message(RecordDict({"x": ConfigRecord({"y": b"z"})}), reply_to=_asked(reply))


def not_signed_bytes(reply: Message) -> Message:
    content = RecordDict({ARRAYS: reply.content.array_records[ARRAYS], SIGNED: ConfigRecord({ENVELOPE: b"{}"})})
    return Message(content, reply_to=_asked(reply))


TWISTS: dict[str, tuple[Twist, str]] = {
    "nothing": (lambda reply: None, "no answer"),
    "error": (lambda reply: Message(Error(code=7, reason="out of memory"), reply_to=_asked(reply)), "out of memory"),
    "garbage": (garbage, "arrays named"),
    "unsigned": (unsigned, "not signed"),
    "no envelope": (not_signed_bytes, "not a signed document"),
    "changed": (lambda reply: reply_with(reply, filled(0.5)), "not those that were signed"),
    "a missing array": (lambda reply: reply_with(reply, lambda arrays: arrays.popitem()), "not those of the task"),
    "a pickle": (lambda reply: reply_with(reply, pickled), "pickle"),
    "a huge claim": (lambda reply: reply_with(reply, declared_huge), "were expected"),
}


@pytest.mark.parametrize("name", TWISTS)
def test_a_bad_answer_is_refused_with_its_reason_and_the_round_goes_on(
    name: str, children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J2, J3, J5."""
    prepared = ready_run()
    grid = grid_of(prepared, children, tmp_path)
    grid.twists[3] = TWISTS[name][0]
    prepared.desk.plan = replace(prepared.desk.plan, deadline_s=1.0)
    run_rounds(prepared, cast(Grid, grid))
    found = {ruling.client: ruling for ruling in prepared.desk.rulings}
    assert [found[client].outcome for client in "123"] == ["accepted", "accepted", "rejected"]
    assert re.search(TWISTS[name][1], found["3"].reason), found["3"].reason
    assert len(prepared.desk.last) == 2


def bad_member(children: dict[str, Child], prepared: Prepared, work: Path, **changes: Any) -> ClientApp:
    mine = replace(member(children["en/more"], prepared.promoter, work), **changes)
    return client_app(lambda context: mine)


def test_a_signed_nan_is_refused(
    bare: Node, children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J3, J6: the signature holds, so its verdict is signed and logged."""
    prepared = ready_run()
    grid = grid_of(prepared, children, tmp_path)
    grid.apps[3] = bad_member(
        children,
        prepared,
        tmp_path,
        train=lambda asked, start: {n: Factor(f.a * math.nan, f.b) for n, f in start.items()},
    )
    run_rounds(prepared, cast(Grid, grid))
    ruling = prepared.desk.rulings[2]
    assert ruling.outcome == "rejected"
    assert "NaN" in ruling.reason
    assert ruling.path == "en/more"
    with bare.store.read() as session:
        found = {r.digest: entries_about(session, r.digest, 10) for r in prepared.desk.rulings}
    kinds = {digest: [LogEntry.from_bytes(row.entry).kind for row in rows] for digest, rows in found.items()}
    assert kinds == {r.digest: [f"update.{r.outcome}"] for r in prepared.desk.rulings}


def test_a_liar_whose_signature_holds_is_held_back_by_the_checks(
    children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J4."""
    prepared = ready_run()
    grid = grid_of(prepared, children, tmp_path)
    honest = member(children["en/more"], prepared.promoter, tmp_path)

    def boosts(asked: Asked, start: Delta) -> Delta:
        return {name: Factor(factor.a, factor.b * -100) for name, factor in honest.train(asked, start).items()}

    grid.apps[3] = bad_member(children, prepared, tmp_path, train=boosts)
    run_rounds(prepared, cast(Grid, grid))
    assert [ruling.outcome for ruling in prepared.desk.rulings] == ["accepted", "accepted", "quarantined"]
    assert "size.relative" in prepared.desk.rulings[2].reason


def test_beside_few_a_lie_that_is_smaller_than_the_base_is_seen() -> None:
    """J4, C19: four short trainings, one of them sent as -100 times what it was."""

    def contribution(seed: int, by: float = 1.0) -> Delta:
        made = torch.Generator().manual_seed(seed)
        return {"m": Factor(torch.randn(2, 6, generator=made), by * 1e-3 * torch.randn(8, 2, generator=made))}

    start = {name: Factor(one.a, torch.zeros_like(one.b)) for name, one in contribution(0).items()}
    deltas = {"liar": contribution(1, -100.0)} | {f"honest {seed}": contribution(seed) for seed in (2, 3, 4)}
    found = inspect_round(deltas, start, Reference({"m": 10.0}, None, 0, Thresholds()))
    failed = {name: [one.name for one in results if not one.passed] for name, results in found.items()}
    assert failed == {"liar": ["size.cohort"], "honest 2": [], "honest 3": [], "honest 4": []}


def test_a_contribution_of_another_round_is_refused(
    children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J2."""
    prepared = ready_run(rounds=2)
    grid = grid_of(prepared, children, tmp_path)
    kept: list[Message] = []

    def replay(reply: Message) -> Message:
        kept.append(reply)
        return Message(kept[0].content, reply_to=_asked(reply))

    grid.twists[3] = replay
    run_rounds(prepared, cast(Grid, grid))
    assert [ruling.outcome for ruling in prepared.desk.rulings] == ["accepted"] * 5 + ["rejected"]
    assert "made for round 1" in prepared.desk.rulings[-1].reason


def test_a_stranger_and_a_thief_are_refused(
    children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J2: a key that nobody enrolled; an enrolled key for a place that is not its own; one answer given twice."""
    prepared = ready_run(least=1)
    grid = grid_of(prepared, children, tmp_path)
    grid.apps[2] = bad_member(children, prepared, tmp_path, key=PrivateKey.generate())
    grid.apps[3] = bad_member(children, prepared, tmp_path, path="en/tools")
    grid.apps[4] = app(children["en/shapes"], prepared.promoter, tmp_path)
    run_rounds(prepared, cast(Grid, grid))
    assert [ruling.outcome for ruling in prepared.desk.rulings] == ["accepted", *["rejected"] * 3]
    reasons = [ruling.reason for ruling in prepared.desk.rulings]
    assert "unknown here" in reasons[1]
    assert "may not speak for en/tools" in reasons[2]
    assert "another contribution of this key" in reasons[3]


def test_too_few_contributions_end_the_run_with_words_and_no_release(
    bare: Node, children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J5."""
    prepared = ready_run(least=3)
    grid = grid_of(prepared, children, tmp_path)
    grid.twists[3] = unsigned
    with pytest.raises(TooFew, match="round 1: 2 of 3 contributions were accepted, 3 are needed"):
        run_rounds(prepared, cast(Grid, grid))
    with pytest.raises(TooFew, match="1 of the 3 children that a round needs came within 1 s"):
        run_rounds(prepared, cast(Grid, DirectGrid({1: grid.apps[1]})))
    assert head_of(bare, "en").release.version == 1


@pytest.mark.parametrize(
    ("parent", "reason"), [(PrivateKey.generate().public, "may not sign this"), (None, "not those that the parent")]
)
def test_a_child_trains_for_nobody_but_its_parent(
    parent: PublicKey | None,
    reason: str,
    children: dict[str, Child],
    ready_run: Callable[..., Prepared],
    tmp_path: Path,
) -> None:
    """J1: a task of another key, and one whose arrays were exchanged on the way."""
    prepared = ready_run()
    changes = {"parent": parent} if parent else {}
    theirs = bad_member(children, prepared, tmp_path, train=lambda asked, start: pytest.fail("it trained"), **changes)
    start = fresh(prepared.shapes, 1)
    envelope = prepared.desk.ask(1, start)
    sent = start if parent else fresh(prepared.shapes, 2)
    content = RecordDict({ARRAYS: to_record(sent), CONFIG: ConfigRecord({TASK: envelope})})
    message = Message(content, 3, MessageType.TRAIN, ttl=60.0, group_id="1")
    context = Context(run_id=1, node_id=3, node_config={}, state=RecordDict(), run_config={})
    with pytest.raises(BadData, match=reason):
        theirs(message, context)


def test_half_that_is_frozen_stays_and_the_average_is_exact(
    children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J3: FFA-LoRA freezes A; a child that moves it is refused."""
    prepared = ready_run(rule="ffa-lora")
    grid = grid_of(prepared, children, tmp_path)
    grid.twists[3] = lambda reply: reply
    result = run_rounds(prepared, cast(Grid, grid))
    assert result.release is not None
    start = fresh(prepared.shapes, 1)
    for one in prepared.desk.last:
        assert all(torch.equal(one.delta[name].a, start[name].a) for name in start)
    assert "merged by ffa-lora exactly" in result.checks[-1].reason
    moved = {name: Factor(f.a + 1, f.b) for name, f in start.items()}
    assert [r.passed for r in inspect_numbers(moved, start, "a")] == [True, False]


def test_privacy_comes_from_flower_and_stands_in_the_release(
    children: dict[str, Child], ready_run: Callable[..., Prepared], tmp_path: Path
) -> None:
    """J8: what is released is the noised average, each change cut to the norm."""
    prepared = ready_run(rule="fedit", private=CentralPrivacy(noise=1.0, clip=0.5))
    grid = grid_of(prepared, children, tmp_path)
    grid.apps[3] = app(children["en/more"], prepared.promoter, tmp_path, LocalPrivacy(clip=0.1, epsilon=50.0))
    result = run_rounds(prepared, cast(Grid, grid))
    assert [ruling.outcome for ruling in prepared.desk.rulings] == ["accepted"] * 3
    assert result.release is not None
    assert result.release.adapter is not None
    noised = prepared.desk.noised
    assert noised is not None
    released = prepared.promoter.composer.delta(result.release.adapter)
    assert all(torch.equal(released[name].product(), factor.product()) for name, factor in noised.items())
    plain = prepared.desk.merged([one.delta for one in prepared.desk.last])
    apart = torch.cat([(noised[n].b - plain[n].b).flatten() for n in plain])
    assert 0.15 < float(apart.std()) < 0.35  # noise 1.0 x clip 0.5 / least 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rounds": 0}, "0 rounds"),
        ({"least": 0}, "at least 0"),
        ({"deadline_s": 0.0}, "needs time"),
        ({"rule": "regmean"}, "no rule that rounds can aggregate by"),
        ({"rule": "unheard-of"}, "no rule that rounds can aggregate by"),
        ({"rule": "multi-krum", "f": 1, "least": 4}, r"n > 2f \+ 2"),
        ({"private": CentralPrivacy(1.0, 1.0)}, "mean does not"),
        ({"private": CentralPrivacy(0.0, 1.0), "rule": "fedit"}, "above 0"),
    ],
)
def test_a_plan_that_nobody_can_follow_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadData, match=reason):
        RoundsPlan(**changes)
