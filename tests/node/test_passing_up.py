"""What a node merged of updates from below goes on to its own parent: here from `en/shapes` by `en` to `master`.

One line of nodes serves all tests, since the merge takes seconds; no test depends on what another one did with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.api.app import create_app
from node.context import Node, open_node
from node.exchange import exchange
from node.learned import learned_prompts
from node.offer import make_offer
from node.outbox import opened
from node.passing_up import pass_up
from node.promotions import parent_round, promoter
from node.publish import publish
from node.validation import store_validation
from registry.documents import Update
from registry.errors import BadData, LocalFailure
from registry.paths import NodePath
from registry.rows import Row, read_rows
from registry.store import select
from registry.tables import UpdateRow
from sync.delta import Delta
from sync.score import evaluate_rows
from tests.conftest import served
from tests.toy import KNOWN, SHAPES, held_out, rows, share
from tests.toy_tree import SETTINGS, enrol, head_of, make_parent, put_toy_release, state_of
from tests.world import enrol_child, make_node, put_base, utc_now

EN, MASTER = NodePath.parse("en"), NodePath.parse("master")
ROWS = 40


@dataclass
class Line:
    """Two nodes above each other; the lower one was taught shapes from below, and has offered them to the upper one."""

    root: Node
    middle: Node
    offered: str
    unasked: list[str]  # what it offered before its operator let it

    def update(self) -> Update:
        """What the lower node offered."""
        with self.middle.store.read() as session:
            row = session.scalars(select(UpdateRow).where(UpdateRow.digest == self.offered)).one()
        update = opened(self.middle, row)
        assert isinstance(update, Update)
        return update


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Delta]) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    with ExitStack() as stack:
        with closing(make_parent(folder / "root", toy_base, "master")) as made:
            store_validation(made.home, MASTER, held_out(KNOWN))
        root = stack.enter_context(closing(open_node(made.settings.model_copy(update={"policy_every": 1}))))
        url = stack.enter_context(served(create_app(root)))
        with closing(make_node(folder / "middle", "en", **SETTINGS, policy_every=1, pass_up_rows=ROWS)) as new:
            enrol_child(new, root, url, "en")
        settings = new.settings.model_copy(update={"parent_url": url})
        with closing(open_node(settings)) as careful:
            learn_shapes(careful, toy_base, toy_adapters["en/shapes"])
            unasked = pass_up(careful, utc_now())
        middle = stack.enter_context(closing(open_node(settings.model_copy(update={"pass_up": True}))))
        (offered,) = pass_up(middle, utc_now())
        yield Line(root, middle, offered, unasked)


def learn_shapes(middle: Node, toy_base: Path, delta: Delta) -> None:
    """Pull, release `en` over it, and merge what a key below it offers."""
    assert exchange(middle, utc_now(), 0.5, thorough=True).error is None
    base = put_base(middle, {file.name: file.read_bytes() for file in toy_base.iterdir()})
    put_toy_release(middle, "en", base, above=head_of(middle, "master").pin, anchors=rows(KNOWN))
    store_validation(middle.home, EN, [*held_out(KNOWN), *held_out(SHAPES)])
    enrol(middle, "en/shapes").offer(delta, rows(SHAPES, range(20)))
    parent_round(middle, promoter(middle), utc_now())
    assert head_of(middle, "en").release.version == 2


def knows(node: Node, table: list[Row], path: str) -> float:
    """The share of rows that a node's release of a path answers."""
    making = promoter(node).composer
    loaded = making.load_chain(making.chain(head_of(node, path).digest))
    return share(evaluate_rows(loaded, table, path)[1])


def test_what_a_leaf_taught_reaches_the_root(line: Line) -> None:
    """U15: the merge goes up by itself, with prompts that were let travel, and the root learns what the leaf knew."""
    assert knows(line.root, held_out(SHAPES), "master") == 0
    assert line.offered in exchange(line.middle, utc_now(), 0.5, thorough=True).sent
    parent_round(line.root, promoter(line.root), utc_now())
    assert state_of(line.root, line.offered) == ("announced", head_of(line.root, "master").digest)
    assert knows(line.root, held_out(SHAPES), "master") >= knows(line.middle, held_out(SHAPES), "en")


def test_it_is_offered_once(line: Line) -> None:
    """U15: nothing is offered again while nothing was merged."""
    assert pass_up(line.middle, utc_now()) == []


def test_nothing_goes_up_by_itself_unless_the_operator_lets_it(line: Line) -> None:
    """U15: it is off by default."""
    assert line.unasked == []


def test_a_root_has_nobody_to_tell(line: Line) -> None:
    """`pass_up` on a node without parent does nothing."""
    with closing(open_node(line.root.settings.model_copy(update={"pass_up": True}))) as root:
        assert pass_up(root, utc_now()) == []


def test_what_leaves_is_what_was_let_travel(line: Line) -> None:
    """U9, U15: the claim is on what was held back of the children's prompts; none but theirs go up."""
    update = line.update()
    (claim,) = update.claims
    assert (claim.dataset, claim.rows) == ("own", len(rows(SHAPES, range(20))) // 10)
    assert claim.metrics["exact_match"] > claim.metrics["exact_match_before"]
    assert update.run == head_of(line.middle, "en").digest
    assert update.transfer is not None
    travelled = read_rows(line.middle.blobs.open_verified(update.transfer.sha256), 1 << 20)
    assert len(travelled) == ROWS
    assert {row.input for row in travelled} <= {row.input for row in rows(SHAPES, range(20))}


def test_a_person_may_offer_a_merge_too(line: Line) -> None:
    """`node publish` of a merged release needs no run; more prompts than there are is said with the number."""
    shown = []
    done = publish(line.middle, EN, None, 6, lambda leaving: not shown.append(leaving), now=utc_now())
    assert done.new
    assert shown[0].transfer_rows == 6
    with pytest.raises(BadData, match="1000 prompts were asked for, en@v2 has"):
        learned_prompts(line.middle, make_offer(line.middle, EN), 1000)


def test_what_only_passes_through_is_not_offered(line: Line) -> None:
    """The parent's own release is nobody's work here."""
    with pytest.raises(LocalFailure, match="not this node's own work"):
        make_offer(line.middle, MASTER)
