from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.cli import main
from node.context import Node
from node.earlier import earlier_runs, own_rows
from node.finetune import finetune
from node.material import gather
from node.measure import as_evaluations
from node.preparation import FinetuneRequest
from node.repeat import Repeated, prepare_repeat
from registry.cards import parse_card
from registry.errors import BadData, LocalFailure
from registry.rows import Row, read_rows, split_of, write_rows
from sync.continual import Method
from tests.node.conftest import anchor_rows
from tests.node.conftest import own_rows as even_rows
from tests.node.test_finetune import PATH, PLAN, data_file, head


def colour_rows(count: int) -> list[Row]:
    """Other new knowledge: what stands behind a word."""
    return [Row(f"after {n}", str(n % 3)) for n in range(count)]


@pytest.fixture
def first(tiny_node: Node, tmp_path: Path) -> FinetuneRequest:
    """A node whose path has an adapter, and the request for more."""
    first = FinetuneRequest(data_file(tmp_path, even_rows(60)), plan=PLAN, score_rows=8)
    finetune(tiny_node, PATH, first)
    return replace(first, data=data_file(tmp_path, colour_rows(60), "more.jsonl"), continuing="replay")


@pytest.mark.parametrize("method", ["plain", "replay", "orthogonal", "osf"])
def test_a_run_goes_on_beside_the_adapter_and_measures_what_was_forgotten(
    method: Method, tiny_node: Node, first: FinetuneRequest
) -> None:
    before = head(tiny_node)
    result = finetune(tiny_node, PATH, replace(first, continuing=method))
    release = head(tiny_node).release
    assert (release.version, release.previous, release.above) == (2, before.digest, before.release.above)
    assert release.adapter is not None
    assert release.adapter.shape.rank == 8  # four of the old, four of the new
    assert release.recompression_error == 0
    manifest = result.prepared.manifest
    assert manifest.continuing is not None
    assert manifest.continuing.method == method
    assert [one.run for one in manifest.continuing.earlier] == [earlier_runs(tiny_node, PATH)[0].run]
    assert [one.dataset for one in release.evaluations] == ["own", "anchors", "earlier-1"]
    assert {"exact_match", "exact_match_before"} <= release.evaluations[2].metrics.keys()
    assert result.outcome is not None
    assert len(result.outcome.earlier_forgotten_points) == 1
    card = parse_card(tiny_node.blobs.read(release.card.sha256, 1 << 20).decode())
    assert card is not None
    trained = {example.row.input for example in result.prepared.material.train}
    rehearsed = {row.input for row in even_rows(60)} & trained
    assert bool(rehearsed) == (method == "replay")
    assert all(split_of(Row(text, "")) != "test" for text in rehearsed)


def test_the_same_request_again_answers_with_what_is_there(tiny_node: Node, first: FinetuneRequest) -> None:
    done = finetune(tiny_node, PATH, first)
    again = finetune(tiny_node, PATH, first)
    assert (again.state, again.run, again.outcome) == ("done before", done.run, done.outcome)


@pytest.mark.parametrize("method", ["replay", "osf"])
def test_a_run_that_went_on_is_repeated_to_the_same_adapter(
    method: Method, tiny_node: Node, first: FinetuneRequest
) -> None:
    result = finetune(tiny_node, PATH, replace(first, continuing=method, plan=replace(PLAN, epochs=1)))
    assert result.outcome is not None
    repetition = prepare_repeat(tiny_node, result.prepared.manifest, first.data)
    assert repetition.differences == ()
    assert repetition.run() == Repeated(result.outcome.adapter, result.outcome.adapter)


def test_a_repetition_needs_the_earlier_rows_as_they_were(tiny_node: Node, first: FinetuneRequest) -> None:
    result = finetune(tiny_node, PATH, replace(first, plan=replace(PLAN, epochs=1)))
    [run, _] = earlier_runs(tiny_node, PATH)
    with (tiny_node.home.runs / run.run / "train.jsonl").open("a") as rows:
        rows.write('{"input":"one more","output":"yes"}\n')
    with pytest.raises(LocalFailure, match="as they were"):
        prepare_repeat(tiny_node, result.prepared.manifest, first.data)


def test_the_rank_grows_to_its_bound(tiny_node: Node, first: FinetuneRequest) -> None:
    bounded = replace(tiny_node, settings=tiny_node.settings.model_copy(update={"rank_budget": 6}))
    result = finetune(bounded, PATH, replace(first, plan=replace(PLAN, epochs=1)))
    release = head(tiny_node).release
    assert release.adapter is not None
    assert release.adapter.shape.rank == 6
    assert release.recompression_error is not None
    assert 0 < release.recompression_error < 1
    assert "both together are recompressed to rank 6 (rank_budget)" in result.prepared.notes


def test_there_must_be_something_to_go_on_from(tiny_node: Node, tmp_path: Path) -> None:
    request = FinetuneRequest(data_file(tmp_path, even_rows(60)), plan=PLAN, continuing="replay")
    with pytest.raises(LocalFailure, match="no adapter of its own"):
        finetune(tiny_node, PATH, request)


def test_without_going_on_the_earlier_rows_are_missed_aloud(tiny_node: Node, first: FinetuneRequest) -> None:
    planned = finetune(tiny_node, PATH, replace(first, continuing=None, dry_run=True))
    assert any("--continue" in note for note in planned.prepared.notes)
    assert planned.prepared.material.earlier == ()
    assert "continuing" not in planned.prepared.manifest.model_dump()


def test_a_run_whose_rows_were_removed_is_no_longer_known(tiny_node: Node, first: FinetuneRequest) -> None:
    [run] = earlier_runs(tiny_node, PATH)
    (tiny_node.home.runs / run.run / "test.jsonl").unlink()
    assert earlier_runs(tiny_node, PATH) == []
    planned = finetune(tiny_node, PATH, replace(first, dry_run=True))
    assert any("no rows of earlier runs" in note for note in planned.prepared.notes)


def test_a_new_answer_counts_where_an_earlier_row_says_otherwise(tiny_node: Node, first: FinetuneRequest) -> None:
    """Rows that contradict each other: the earlier one is neither rehearsed nor scored."""
    turned = [Row(row.input, "perhaps") for row in even_rows(60)[:30]]
    material = gather(
        turned, str(PATH), anchor_rows(60), replay=0.5, score_rows=100, seed=1,
        earlier=earlier_runs(tiny_node, PATH), rehearse_earlier=True,
    )  # fmt: skip
    said = {(example.row.input, example.row.output) for example in material.train}
    asked = {row.input for row in turned}
    assert {answer for text, answer in said if text in asked} == {"perhaps"}
    assert not asked & {row.input for run in material.earlier for row in run.test}
    assert {row.input for run in material.earlier for row in run.train} == {
        row.input for row in earlier_runs(tiny_node, PATH)[0].train
    } - asked


def test_a_rebase_knows_the_rows_of_every_run(tiny_node: Node, first: FinetuneRequest) -> None:
    done = finetune(tiny_node, PATH, replace(first, plan=replace(PLAN, epochs=1)))
    train, test = own_rows(tiny_node, PATH)
    kept = [row for run in earlier_runs(tiny_node, PATH) for row in run.train]
    assert sorted(row.input for row in train) == sorted(row.input for row in kept)
    assert {row.input for row in test} & {f"is {n} even" for n in range(60)}
    assert {row.input for row in test} & {f"after {n}" for n in range(60)}
    again = tiny_node.home.runs / done.run / "train.jsonl"
    rows = read_rows(again, 1 << 20)
    write_rows([*rows, Row(kept[0].input, "neither")], again)
    assert [row.output for row in own_rows(tiny_node, PATH)[0] if row.input == kept[0].input] == ["neither"]


def test_claims_name_no_data_set_of_the_owner(tiny_node: Node, first: FinetuneRequest) -> None:
    """U9: an earlier run is known by its number alone."""
    outcome = finetune(tiny_node, PATH, replace(first, plan=replace(PLAN, epochs=1))).outcome
    assert outcome is not None
    named = [one.dataset for one in as_evaluations(outcome.before, outcome.after, "en/numbers")]
    assert named == ["own", "anchors", "earlier-1"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "osf"], "give --continue with it"),
        (["--continue", "--method", "forget"], "forget"),
        (["--manifest", "m.json", "--continue"], "--continue"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags: list[str], said: str, tmp_path: Path) -> None:
    rows = data_file(tmp_path, even_rows(5))
    path: list[Any] = [] if "--manifest" in flags else ["en"]
    result = CliRunner().invoke(main, ["finetune", *path, "--data", str(rows), *flags, "--home", str(tmp_path)])
    assert result.exit_code == 2
    assert said in result.output


def test_bad_options_change_nothing(tiny_node: Node, first: FinetuneRequest) -> None:
    before = head(tiny_node)
    with pytest.raises(BadData):
        finetune(tiny_node, PATH, replace(first, replay=0.95))
    assert head(tiny_node) == before
