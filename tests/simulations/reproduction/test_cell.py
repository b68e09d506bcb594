"""What a round of every method is, by property, on a BERT of two narrow layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from registry.errors import BadData
from simulations.reproduction.cell import Cell, Federation, play
from simulations.reproduction.classifier import Classifier
from simulations.reproduction.methods import METHODS, known
from simulations.reproduction.paper import GLOBAL_RANK
from simulations.reproduction.rows import Corpus

CELL = Cell("fedit", 0.5, 2, 1, 1e-2, rounds=2, epochs=2, clients=3, most_rows=60, arithmetic="fp32")


def federation(cell: Cell, corpus: Corpus, classifier: Classifier) -> Federation:
    return Federation(cell, classifier, corpus.shared(cell.clients, cell.alpha, cell.seed, cell.most_rows))


@pytest.mark.parametrize("method", METHODS)
def test_merging_one_client_changes_nothing(method: str, corpus: Corpus, classifier: Classifier) -> None:
    cell = replace(CELL, method=method, clients=1)
    alone = federation(cell, corpus, classifier)
    for number in range(2):
        sent = alone._trained(number, 0, METHODS[method]).delta
        alone.round(number, METHODS[method])
        for name, factor in alone.common.items():
            beyond = alone._residual.get(name, torch.zeros(()))
            torch.testing.assert_close(factor.product() + beyond, sent[name].product(), rtol=1e-4, atol=1e-6)


def test_fedex_stands_on_the_mean_of_the_products(corpus: Corpus, classifier: Classifier) -> None:
    cell, method = replace(CELL, method="fedex"), METHODS["fedex"]
    three = federation(cell, corpus, classifier)
    weights = torch.tensor([float(len(share)) for share in three._shares])
    sent = [three._trained(0, client, method).delta for client in range(len(weights))]
    three.round(0, method)
    assert three.common["encoder.layer.0.output.dense"].rank == cell.rank
    for name, factor in three.common.items():
        mean = sum(
            (w * one[name].product() for w, one in zip(weights / weights.sum(), sent, strict=True)), torch.zeros(())
        )
        torch.testing.assert_close(factor.product() + three._residual[name], mean, rtol=1e-3, atol=1e-6)


def test_lora_a2_that_may_send_all_ranks_is_rolora(corpus: Corpus, classifier: Classifier) -> None:
    whole = replace(CELL, method="lora-a2", rank=GLOBAL_RANK)
    assert play(whole, corpus, classifier) == play(replace(whole, method="rolora"), corpus, classifier)


def test_lora_a2_sends_its_budget_and_leaves_other_ranks_as_they_were(corpus: Corpus, classifier: Classifier) -> None:
    cell, method = replace(CELL, method="lora-a2", rank=1), METHODS["lora-a2"]
    three = federation(cell, corpus, classifier)
    start = three.common
    sent = three._trained(0, 0, method)
    changed = {name: (sent.delta[name].b != start[name].b).any(dim=0) for name in start}
    assert sum(int(one.sum()) for one in changed.values()) == cell.rank * len(start)
    assert sent.uploaded == sum(int(one.sum()) * len(start[name].b) for name, one in changed.items())
    assert all(torch.equal(sent.delta[name].a, start[name].a) for name in start)


@pytest.mark.parametrize(("method", "share"), [("fedit", 1.0), ("fedex", 1.0), ("flexlora", 1.0), ("ffa-lora", 0.5)])
def test_what_clients_send_is_counted(method: str, share: float, corpus: Corpus, classifier: Classifier) -> None:
    record = play(replace(CELL, method=method), corpus, classifier)
    numbers = sum(out + width for out, width in classifier.layout(1).shapes.values()) * CELL.rank * record["clients"]
    assert record["uploaded"] == [share * numbers] * 2


def test_frozen_halves_stay_and_rolora_takes_turns(corpus: Corpus, classifier: Classifier) -> None:
    for method, frozen in (("ffa-lora", "aa"), ("rolora", "ab")):
        three = federation(replace(CELL, method=method), corpus, classifier)
        for number, half in enumerate(frozen):
            before = three.common
            three.round(number, METHODS[method])
            moving = "b" if half == "a" else "a"
            for name, factor in three.common.items():
                assert torch.equal(getattr(factor, half), getattr(before[name], half))
                assert not torch.equal(getattr(factor, moving), getattr(before[name], moving))


def test_averaging_halves_apart_is_told_as_an_error_and_exact_rules_have_none(
    corpus: Corpus, classifier: Classifier
) -> None:
    errors = {m: play(replace(CELL, method=m), corpus, classifier)["average_error"] for m in METHODS}
    assert min(errors["fedit"]) > 0.01
    assert max(errors["rolora"] + errors["ffa-lora"] + errors["lora-a2"] + errors["fedex"]) == 0
    assert max(errors["centralised"]) < 1e-6


def test_training_learns_and_the_same_cell_gives_the_same_record(corpus: Corpus, classifier: Classifier) -> None:
    cell = replace(CELL, method="centralised", alpha=None, rounds=6, epochs=4, most_rows=1000)
    record = play(cell, corpus, classifier)
    assert record["accuracy"][-1] > 0.6
    assert record["clients"] == 1 and record["rows"] == len(corpus.train)
    assert play(cell, corpus, classifier) == record


def test_a_rate_that_leaves_the_numbers_is_a_figure_and_no_crash(corpus: Corpus, classifier: Classifier) -> None:
    record = play(replace(CELL, learning_rate=1e30, rounds=3), corpus, classifier)
    assert record["diverged"] == 1
    assert record["accuracy"] == [0.0] * 3


@pytest.mark.parametrize("changes", [{"clients": 0}, {"rounds": 0}, {"epochs": -1}, {"learning_rate": 0.0}])
def test_what_cannot_be_played_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(BadData):
        replace(CELL, **changes).checked()


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadData, match="fedprox") as told:
        known(["fedprox"])
    assert all(name in told.value.hint for name in METHODS)
    assert known(["lora-a2", "fedit"]) == ("fedit", "lora-a2")
