"""The network in memory: every fault that it has, and the bounds of what an asker reads."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any

import pytest

from registry.errors import BadData, LocalFailure
from simulations.clock import MAX_EVENTS, Clock, EndlessError, Watch
from simulations.network import LONGEST_DELAY_S, Answer, MemoryTransport, Network, Request, Weather, url_of
from sync.transport import Broken

START = datetime(2026, 3, 1, tzinfo=UTC)


class Scene:
    """`a` asks `b`, which answers with ten bytes from the offset on and writes down what it was asked."""

    def __init__(self, **chances: float) -> None:
        self.clock = Clock(START)
        self.network = Network(self.clock, random.Random(1), Weather(**chances))
        self.asked: list[Request] = []
        self.a = MemoryTransport(self.network, "a")
        self.network.join("b", self.answer)

    def answer(self, request: Request) -> Answer:
        self.asked.append(request)
        return Answer([b"0123456789"[request.offset :]], 10)

    def get(self, max_bytes: int = 10) -> bytes:
        return self.a.get(f"{url_of('b')}/x?y=1", max_bytes=max_bytes, timeout_s=1)

    def post(self) -> bytes:
        return self.a.post(f"{url_of('b')}/x", b"body", "text/plain", max_bytes=10, timeout_s=1)


def test_calm_weather_carries_everything_once() -> None:
    scene = Scene()
    assert scene.get() == b"0123456789"
    assert b"".join(scene.a.get_range(f"{url_of('b')}/f", 4, max_bytes=6, timeout_s=1)) == b"456789"
    assert scene.post() == b"0123456789"
    assert scene.a.offset(f"{url_of('b')}/u", timeout_s=1) == 10
    assert scene.a.put_range(f"{url_of('b')}/u", 5, b"piece", timeout_s=1) == 10
    assert [(r.method, r.path, r.body, r.offset) for r in scene.asked] == [
        ("GET", "/x?y=1", b"", 0), ("GET", "/f", b"", 4), ("POST", "/x", b"body", 0), ("HEAD", "/u", b"", 0),
        ("PUT", "/u", b"piece", 5),
    ]  # fmt: skip
    assert scene.network.moved_bytes == {("a", "b"): len("/x?y=1/f/x/u/u") + len("bodypiece"), ("b", "a"): 26}


def test_a_host_behind_a_cut_line_or_unknown_cannot_be_reached() -> None:
    scene, side = Scene(), frozenset({"a", "c"})
    scene.network.part(side)
    assert not scene.network.reaches("a", "b")
    assert scene.network.reaches("a", "c")
    with pytest.raises(Broken):
        scene.get()
    scene.network.mend(side)
    assert scene.get()
    with pytest.raises(Broken):
        scene.a.get("http://nobody/x", max_bytes=1, timeout_s=1)


def test_what_is_lost_never_arrives_and_what_is_unanswered_does() -> None:
    scene = Scene(lost=1.0)
    with pytest.raises(Broken):
        scene.post()
    assert scene.asked == []
    scene = Scene(unanswered=1.0)
    with pytest.raises(Broken):
        scene.post()
    assert len(scene.asked) == 1


def test_what_is_late_arrives_later_though_nobody_waits() -> None:
    scene = Scene(late=1.0)
    with pytest.raises(LocalFailure):
        scene.post()
    assert scene.asked == []
    scene.clock.run(LONGEST_DELAY_S)
    assert [request.body for request in scene.asked] == [b"body"]


def test_a_request_may_arrive_twice_and_once_more_later() -> None:
    scene = Scene(twice=1.0)
    assert scene.post() == b"0123456789"
    assert len(scene.asked) == 2
    scene.clock.run(LONGEST_DELAY_S)
    assert len(scene.asked) == 3


def test_what_breaks_off_leaves_the_first_half() -> None:
    scene = Scene(broken_off=1.0)
    got: list[bytes] = []
    with pytest.raises(Broken):
        got.extend(scene.a.get_range(f"{url_of('b')}/f", 0, max_bytes=10, timeout_s=1))
    assert b"".join(got) == b"01234"


def test_calm_comes_when_it_is_told_to() -> None:
    scene = Scene(lost=1.0)
    scene.network.part(frozenset({"a"}))
    scene.network.clear()
    assert scene.get()


@pytest.mark.parametrize("body", [[b"01234567890"], repeat(b"zeros")])
def test_an_answer_is_read_up_to_its_limit(body: Any) -> None:
    scene = Scene()
    scene.network.join("b", lambda request: Answer(body))
    with pytest.raises(BadData, match="more than 10 bytes"):
        scene.get()
    assert scene.network.moved_bytes["b", "a"] <= 20


def test_events_happen_in_their_order_and_time_stands_still_between_them() -> None:
    clock, seen = Clock(START), list[tuple[str, int]]()
    clock.after(5, lambda: seen.append(("second", clock.at_s)))
    clock.after(5, lambda: clock.after(0, lambda: seen.append(("third", clock.at_s))))
    clock.at(2, lambda: seen.append(("first", clock.at_s)))
    clock.at(9, lambda: seen.append(("never", clock.at_s)))
    clock.run(8)
    assert seen == [("first", 2), ("second", 5), ("third", 5)]
    assert clock.now == START + timedelta(seconds=8)
    assert Watch(clock, timedelta(hours=-1)).now() == clock.now - timedelta(hours=1)


def test_events_without_end_are_a_mistake() -> None:
    clock = Clock(START)

    def again() -> None:
        clock.after(0, again)

    clock.after(0, again)
    with pytest.raises(EndlessError, match=str(MAX_EVENTS)):
        clock.run(1)
