from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from node.context import Node
from node.models import composer
from registry.documents import BaseManifest
from registry.keys import PrivateKey
from registry.rows import Row
from sync.delta import Delta, scaled, stack, total_norm
from sync.model import LoadedModel, load_model
from sync.rebase import Option, Rebase, Way, choose
from sync.score import evaluate_rows
from sync.train import StepReport
from tests.toy import KNOWN, PLAN, SHAPES, TOOLS, held_out, rows, share
from tests.toy_tree import head_of, make_child, put_toy_release

PATH = "en/shapes"
NEW = [*held_out(TOOLS), *held_out(KNOWN)]  # what the parent's new release knows


@pytest.fixture
def child(toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path) -> Iterator[Node]:
    node, _ = make_child(tmp_path / "home", toy_base, toy_adapters)
    with closing(node):
        yield node


def rebase_of(node: Node, folder: Path, *, rank_budget: int = 32) -> Rebase:
    making, own = composer(node), head_of(node, PATH)
    return Rebase(
        composer=making,
        own=own,
        old_above=making.chain(own.digest)[:-1],
        new_above=making.chain(head_of(node, "en").digest),
        own_train=rows(SHAPES, range(20)),
        own_test=held_out(SHAPES),
        parent_anchors=[*rows(KNOWN), *rows(TOOLS)],
        parent_test=NEW,
        rank_budget=rank_budget,
        plan=replace(PLAN, epochs=4),
        work=folder / "work",
    )


def knows(loaded: LoadedModel, table: list[Row]) -> float:
    return share(evaluate_rows(loaded, table, PATH)[1])


def difference(one: LoadedModel, other: LoadedModel) -> float:
    """Frobenius norm of the difference of all weights."""
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return float(sum(float((a.double() - b.double()).norm()) ** 2 for a, b in pairs) ** 0.5)


def test_every_way_is_measured_on_own_rows_and_on_the_parent_s(
    child: Node, toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    found = {option.way: option for option in rebase_of(child, tmp_path).options()}
    assert list(found) == ["stay", "adopt", "adopt-and-consolidate", "preserve"]
    shapes, tools = toy_adapters[PATH], toy_adapters["en/tools"]
    models = {
        "stay": load_model(toy_base, [shapes], "fp32"),
        "adopt": load_model(toy_base, [tools, shapes], "fp32"),
        "adopt-and-consolidate": load_model(toy_base, [tools, found["adopt-and-consolidate"].delta or {}], "fp32"),
        "preserve": load_model(toy_base, [shapes], "fp32"),
    }
    for way, option in found.items():
        assert option.own_rows == pytest.approx(knows(models[way], held_out(SHAPES)), abs=0.04)
        assert option.parent_rows == pytest.approx(knows(models[way], NEW), abs=0.04)
    assert found["stay"].own_rows >= 0.95
    assert found["stay"].keeps_own
    learned = found["adopt-and-consolidate"]
    assert learned.keeps_own
    assert min(learned.own_rows, learned.parent_rows) >= 0.95
    assert learned.parent_rows > found["stay"].parent_rows + 0.2
    assert choose(list(found.values())) == learned


def test_preserving_keeps_the_function_as_it_was(
    child: Node, toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    [*_, preserved] = rebase_of(child, tmp_path).options()
    assert preserved.way == "preserve"
    assert preserved.delta is not None
    assert preserved.recompression_error == pytest.approx(0.0, abs=1e-6)
    before = load_model(toy_base, [toy_adapters[PATH]], "fp32")
    after = load_model(toy_base, [toy_adapters["en/tools"], preserved.delta], "fp32")
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(after.model(ids).logits, before.model(ids).logits, rtol=1e-3, atol=1e-3)
    assert preserved.keeps_own


def test_what_preserving_costs_within_a_small_rank_is_told_truly(
    child: Node, toy_base: Path, toy_adapters: dict[str, Delta], tmp_path: Path
) -> None:
    rebase = replace(rebase_of(child, tmp_path, rank_budget=6), own_test=[], parent_test=[], own_train=[])
    [*_, preserved] = replace(rebase, plan=replace(PLAN, epochs=0)).options()
    assert preserved.delta is not None
    assert max(factor.rank for factor in preserved.delta.values()) == 6
    shapes, tools = toy_adapters[PATH], toy_adapters["en/tools"]
    before = load_model(toy_base, [shapes], "fp32")
    after = load_model(toy_base, [tools, preserved.delta], "fp32")
    whole = total_norm(stack([shapes, scaled(tools, -1.0)]))
    assert 0.05 < preserved.recompression_error < 1
    assert difference(before, after) / whole == pytest.approx(preserved.recompression_error, rel=1e-3)


def test_measuring_leaves_the_model_as_it_was(child: Node, tmp_path: Path, toy_adapters: dict[str, Delta]) -> None:
    rebase = rebase_of(child, tmp_path)
    loaded = rebase.composer.load_chain(rebase.new_above)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    rebase.measure("adopt", loaded, toy_adapters[PATH], None, 0.0)
    for name, tensor in loaded.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-5)


def test_a_way_that_loses_own_knowledge_is_marked(child: Node, tmp_path: Path, toy_adapters: dict[str, Delta]) -> None:
    rebase = rebase_of(child, tmp_path)
    loaded = rebase.composer.load_chain(rebase.old_above)
    _, before = rebase.measure("stay", loaded, toy_adapters[PATH], None, 0.0)
    kept, _ = rebase.measure("adopt", loaded, toy_adapters[PATH], before, 0.0)
    lost, _ = rebase.measure("adopt", loaded, scaled(toy_adapters[PATH], -1.0), before, 0.0)
    assert kept.keeps_own
    assert not lost.keeps_own
    assert lost.own_rows < kept.own_rows


def test_without_an_adapter_of_its_own_a_child_stays_or_adopts(child: Node, tmp_path: Path) -> None:
    base = BaseManifest.from_bytes(child.blobs.read(head_of(child, "en").release.base, 1 << 20))
    first = composer(child).chain(head_of(child, PATH).digest)[0]
    put_toy_release(child, PATH, base, version=5, above=first.pin)
    options = rebase_of(child, tmp_path).options()
    assert [(option.way, option.delta) for option in options] == [("stay", None), ("adopt", None)]
    assert options[1].parent_rows > options[0].parent_rows
    assert choose(options).way == "adopt"


def test_on_another_base_the_own_adapter_means_nothing(child: Node, tmp_path: Path) -> None:
    other = BaseManifest.from_bytes(child.blobs.read(head_of(child, "en").release.base, 1 << 20))
    other = other.model_copy(update={"name": "banyan/other"})
    child.blobs.put_bytes(other.to_bytes())
    put_toy_release(child, "en", other, version=3, signer=PrivateKey.generate())
    assert [option.way for option in rebase_of(child, tmp_path).options()] == ["stay"]


def test_without_rows_nothing_speaks_against_staying(child: Node, tmp_path: Path) -> None:
    rebase = replace(rebase_of(child, tmp_path), own_train=[], own_test=[], parent_anchors=[], parent_test=[])
    options = rebase.options()
    assert [(option.own_rows, option.parent_rows, option.keeps_own) for option in options] == [(0.0, 0.0, True)] * 4
    assert choose(options).way == "stay"


class Stopped(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def test_a_rebase_that_was_ended_goes_on_to_the_same_adapter(child: Node, tmp_path: Path) -> None:
    def stop(report: StepReport) -> None:
        if report.step == 6:
            raise Stopped

    plan = replace(PLAN, epochs=1, checkpoint_every_s=0.0)
    rebase = replace(rebase_of(child, tmp_path), plan=plan, own_test=[], parent_test=[])
    whole = replace(rebase, work=tmp_path / "whole").options()[2]
    with pytest.raises(Stopped):
        replace(rebase, on_step=stop).options()
    resumed = rebase.options()[2]
    assert whole.delta is not None
    assert resumed.delta is not None
    for name, factor in whole.delta.items():
        assert torch.equal(factor.a, resumed.delta[name].a)
        assert torch.equal(factor.b, resumed.delta[name].b)


# Choosing


def option(way: Way, own: float, parent: float, *, keeps: bool = True) -> Option:
    return Option(way, own, parent, keeps, None)


STAY = option("stay", 0.9, 0.5)


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([], "stay"),
        ([option("adopt", 0.9, 0.8)], "adopt"),
        ([option("adopt", 0.9, 0.5)], "stay"),  # nothing is gained
        ([option("adopt", 0.9, 0.4), option("preserve", 0.89, 0.5)], "stay"),
        ([option("adopt", 0.2, 1.0, keeps=False)], "stay"),
        ([option("adopt", 1.0, 1.0, keeps=False), option("preserve", 0.9, 0.6)], "preserve"),
        ([option("adopt", 0.89, 0.8), option("adopt-and-consolidate", 0.92, 0.8)], "adopt-and-consolidate"),
        ([option("adopt", 0.88, 0.52001)], "stay"),  # what a rounding decides is a tie
        ([option("adopt", 0.9, 0.8), option("adopt-and-consolidate", 0.8, 0.9)], "adopt"),  # as good for less work
    ],
)
def test_the_way_that_knows_most_is_gone_if_it_keeps_what_is_own(others: list[Option], chosen: Way) -> None:
    """G8."""
    assert choose([STAY, *others]).way == chosen
