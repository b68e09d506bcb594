"""Every way we know to get in without right: each is refused for its reason, in bounded time and memory, and leaves
nothing behind.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from node.context import Node
from node.promotions import promoter
from sync.inbox import Checks
from tests.attacks.envelopes import ENVELOPES
from tests.attacks.files import FILES
from tests.attacks.liar import make_liar
from tests.attacks.releases import RELEASES
from tests.attacks.scene import Scene, answer_of, make_victim, table
from tests.attacks.uploads import UPLOADS
from tests.attacks.wire import WIRE
from tests.attacks.words import WORDS
from tests.test_protocol import RULES
from tests.world import snapshot

MAX_S = 20.0  # of the processor: seconds by the clock depend on who else computes
MAX_BYTES = 256 << 20
ON_PARENTS, ON_SERVERS, ON_CHILDREN = table(ENVELOPES, WORDS, FILES, UPLOADS), table(WIRE), table(RELEASES)
MOVING = {"on a release five versions behind", "on a stranger's release"}  # the parent itself releases meanwhile
Victim = tuple[Node, Checks]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with closing(make_victim(tmp_path_factory.mktemp("victim"))) as node:
        working = promoter(node)
        alike = replace(
            working.plan.thresholds, siblings_max_cosine=1.0, siblings_max_z=1e6
        )  # every scene sends one honest file
        yield node, replace(working, plan=replace(working.plan, thresholds=alike)).check


@contextmanager
def bounded() -> Iterator[None]:
    """An attack costs whom it is made on no more than this."""
    started, before = time.process_time(), peak_bytes()
    yield
    assert time.process_time() - started < MAX_S
    assert peak_bytes() - before < MAX_BYTES


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", ON_PARENTS)
def test_an_attack_on_a_parent_is_refused_and_leaves_nothing(
    victim: Victim, tmp_path: Path, serve: Callable[..., str], name: str
) -> None:
    """C24, U12."""
    node, checks = victim
    attack, scene, before = ON_PARENTS[name], Scene(node, checks, tmp_path, serve), snapshot(node)
    with bounded():
        answer = answer_of(attack, scene)
    assert re.search(attack.refused, answer), answer
    scene.end()
    assert scene.leftovers() == []
    assert snapshot(node) == before or name in MOVING


@pytest.mark.parametrize("name", ON_SERVERS)
def test_an_attack_on_a_server_is_refused_and_leaves_nothing(
    victim: Victim, tmp_path: Path, serve: Callable[..., str], name: str
) -> None:
    """H6, H7, H8."""
    node, checks = victim
    attack, scene, before = ON_SERVERS[name], Scene(node, checks, tmp_path, serve), snapshot(node)
    with bounded():
        answer = answer_of(attack, scene)
    assert re.search(attack.refused, answer.replace("\r\n", " ")), answer[:500]
    assert "PRIVATE KEY" not in answer
    scene.end()
    assert scene.leftovers() == []
    assert snapshot(node) == before


@pytest.mark.parametrize("name", ON_CHILDREN)
def test_an_attack_on_a_child_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    """R15: what its parent signed is not thereby good."""
    attack, liar = ON_CHILDREN[name], make_liar(tmp_path)
    with closing(liar.child):
        with bounded():
            answer = answer_of(attack, liar)
        assert re.search(attack.refused, answer), answer
        assert liar.child.store.check_integrity() == []
        assert liar.child.blobs.check_integrity() == []
        releases, heads = snapshot(liar.child)
        assert len(releases) <= 2  # what was honest before the lie: one release, or one over another
        assert set(heads.values()) <= releases
        assert liar.pull(liar.release(version=9)) == "taken", "an honest release is taken afterwards"


def test_every_attack_breaks_a_rule_that_there_is() -> None:
    attacks = [*ON_PARENTS.values(), *ON_SERVERS.values(), *ON_CHILDREN.values()]
    assert len(attacks) >= 60
    assert {attack.rule for attack in attacks} <= RULES.keys()
