"""What runs when: nobody waits for ever, nobody reads another's tokens, nothing is computed twice without need."""

from __future__ import annotations

import re
from itertools import chain

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.engine.config import EngineConfig
from node.engine.errors import EngineError, Overloaded, RequestRefused
from node.engine.scheduler import Piece, Step
from node.engine.sequence import Finish, Sequence, Status
from tests.node.engine.rows import SIZE, Bench, row

LONG = tuple(range(100, 100 + 10 * SIZE))


def counts(step: Step | None) -> dict[int, int]:
    assert step is not None
    return {piece.sequence.id: piece.count for piece in step.pieces}


def work(sequences: list[Sequence]) -> int:
    """Most steps for these, if the oldest always moves: as many as they have tokens to run, one after the other."""
    return sum(sequence.most_computed for sequence in sequences)


# Refusals


@pytest.mark.parametrize(
    ("sequence", "field", "numbers"),
    [
        (row(()), "prompt", ()),
        (row((1,) * 60, 5), "max_tokens", (60, 5, 64)),
        (row((1,) * 64, 1), "prompt", (64, 1, 64)),
        (row((1,) * 30, 12), "max_tokens", (30, 12, 11, 4, 10)),  # 41 tokens in the cache
        (row((1,), 1, adapters=("a", "b", "c")), "model", (3, 2)),
    ],
)
def test_what_can_never_run_is_refused_at_once_with_the_numbers(
    sequence: Sequence, field: str, numbers: tuple[int, ...]
) -> None:
    bench = Bench(10, context=64, adapter_slots=2)
    with pytest.raises(RequestRefused) as refusal:
        bench.add(sequence)
    assert refusal.value.field == field
    assert tuple(map(int, re.findall(r"\d+", refusal.value.message))) == numbers
    assert refusal.value.hint
    assert not bench.scheduler.waiting


@pytest.mark.parametrize("sequence", [row((1,) * 30, 11), row((1,) * 40, 1), row((1,) * 40, 0), row((1,), 40)])
def test_what_just_fits_runs_to_its_end(sequence: Sequence) -> None:
    bench = Bench(10, context=64)
    bench.add(sequence)
    bench.finish_all(sequence.most_computed)
    assert len(sequence.output) == sequence.max_new_tokens


def test_the_queue_is_bounded() -> None:
    bench = Bench(10, max_waiting=2)
    bench.add(row((1,)), row((2,)))
    with pytest.raises(Overloaded, match="2 requests wait"):
        bench.add(row((3,)))
    bench.step()
    bench.add(row((3,)))


def test_who_waits_too_long_is_named_and_who_has_run_is_not() -> None:
    bench = Bench(4, max_wait_s=10, max_running=2, chunk_tokens=8)
    runs, waits = row((1,) * 4, 8), row((2,) * 12, 4)
    bench.add(runs, waits)
    bench.step()
    bench.clock.now = 10.0
    assert bench.scheduler.expired(bench.clock()) == []
    bench.clock.now = 10.1
    assert bench.scheduler.expired(bench.clock()) == [waits]
    bench.scheduler.finish(waits, Finish.ERROR)
    assert bench.scheduler.expired(bench.clock()) == []


def test_limits_that_could_stall_prompts_are_refused() -> None:
    with pytest.raises(EngineError, match="64 sequences"):
        EngineConfig(chunk_tokens=64, max_running=64)
    with pytest.raises(EngineError, match="max_wait_s is -1"):
        EngineConfig(max_wait_s=-1)
    with pytest.raises(EngineError, match="holds no block"):
        EngineConfig(cache_tokens=15)
    with pytest.raises(EngineError, match="dtype"):
        EngineConfig(dtype="fp8")  # type: ignore[arg-type]


# Sharing a step


def test_a_long_prompt_does_not_stall_who_decodes() -> None:
    bench = Bench(200, max_running=8, chunk_tokens=16)
    talkers = [row((n,), 30) for n in range(4)]
    bench.add(*talkers)
    bench.step()
    bench.add(row(tuple(range(300)), 1))
    for step in range(20):
        before = [len(talker.output) for talker in talkers]
        ran = counts(bench.step())
        assert sum(ran.values()) == 16, step
        assert [len(talker.output) for talker in talkers] == [length + 1 for length in before]


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    bench = Bench(200, max_running=8, chunk_tokens=16)
    long, short = row(tuple(range(300)), 1), row((1,) * 6, 2)
    bench.add(long)
    bench.step()
    bench.add(short)
    assert counts(bench.step()) == {long.id: 10, short.id: 6}
    assert len(short.output) == 1


def test_short_prompts_do_not_stall_a_long_one() -> None:
    bench = Bench(2_000, max_running=8, chunk_tokens=16)
    long = row(tuple(range(100, 400)), 1)
    bench.add(long)
    for n in range(1_000):
        bench.add(row((n % 50,) * 8, 1))
        bench.step()
        if long.status is Status.FINISHED:
            break
    assert n <= 300 / ((16 - 8) / 2)


def test_tokens_that_a_grammar_forced_are_run_together() -> None:
    bench = Bench(20, chunk_tokens=16, max_running=4)
    sequence = row((1,), 12)
    bench.add(sequence)
    bench.step(tokens=(5, 6, 7, 8, 9))
    step = bench.step()
    assert counts(step) == {sequence.id: 5}
    assert len(sequence.output) == 6


def test_tokens_in_the_wrong_place_are_an_error_and_change_nothing() -> None:
    bench = Bench(20, chunk_tokens=8, max_running=4)
    first, second = row((1,), 2), row((2,) * 12, 2)
    bench.add(first, second)
    step = bench.scheduler.schedule()
    assert step is not None
    for wrong in ({second: [1]}, {first: [1, 2, 3]}):
        with pytest.raises(ValueError, match="new tokens"):
            bench.scheduler.done(step, wrong)
    assert (first.computed, second.computed) == (0, 0)


def test_logits_are_wanted_at_the_end_or_everywhere_in_a_prompt() -> None:
    sequence = row(LONG)
    assert [Piece(sequence, 0, n).logits for n in (1, 39, 40)] == [0, 0, 1]
    sequence.prompt_logits = True
    assert [Piece(sequence, 0, n).logits for n in (1, 39, 40)] == [1, 39, 40]
    sequence.output.append(1)
    assert [Piece(sequence, 0, n).logits for n in (40, 41)] == [0, 1]


def test_a_step_has_no_more_adapters_than_slots_and_nobody_is_passed_by_for_it() -> None:
    bench = Bench(50, adapter_slots=2)
    rows = [row((n,), 3, adapters=adapters) for n, adapters in enumerate([("a",), ("a", "b"), ("c",), ("a",)])]
    bench.add(*rows)
    bench.step()
    assert bench.scheduler.running == rows[:2]
    bench.scheduler.finish(rows[1], Finish.STOP)
    bench.step()
    assert bench.scheduler.running == [rows[0], rows[2], rows[3]]


# Pages


def test_the_youngest_is_preempted_and_finishes_later() -> None:
    bench = Bench(6, max_running=4, chunk_tokens=16)
    first, second = row((1,) * 7, 16), row((2,) * 7, 16)
    bench.add(first, second)
    bench.finish_all(work([first, second]))
    assert bench.scheduler.preemptions > 0
    assert (len(first.output), len(second.output)) == (16, 16)


def test_who_was_preempted_comes_before_who_came_later() -> None:
    bench = Bench(6, max_running=2, chunk_tokens=16)
    rows = [row((n,) * 7, 16) for n in range(3)]
    bench.add(*rows)
    ended: list[Sequence] = []
    while bench.step() is not None:
        ended += [sequence for sequence in rows if sequence.status is Status.FINISHED and sequence not in ended]
    assert bench.scheduler.preemptions > 0
    assert ended == rows


def test_who_has_had_a_turn_is_not_given_up_on_and_keeps_its_first_count_of_cached_tokens() -> None:
    bench = Bench(8, max_running=4, chunk_tokens=32, max_wait_s=10)
    first, second = row((1,) * 7, 24), row((2,) * 15, 16)
    bench.add(first, second)
    while not bench.scheduler.preemptions:
        bench.step()
    assert list(bench.scheduler.waiting) == [second]
    bench.clock.now = 1_000.0
    assert bench.scheduler.expired(bench.clock()) == []
    bench.scheduler.finish(first, Finish.STOP)
    assert bench.blocks.match(second) > 0
    bench.step()
    assert (second.status, second.cached) == (Status.RUNNING, 0)


def test_who_has_nothing_to_run_keeps_its_pages() -> None:
    bench = Bench(1)
    sequence = row((1,) * SIZE, 1)
    bench.add(sequence)
    step = bench.scheduler.schedule()
    assert step is not None
    bench.scheduler.done(step, {})
    assert bench.scheduler.schedule() is None
    assert (sequence.status, bench.blocks.used) == (Status.RUNNING, 1)


@pytest.mark.parametrize("moment", ["waiting", "prefill", "decode", "in flight"])
def test_who_leaves_frees_its_pages_at_once(moment: str) -> None:
    bench = Bench(20, max_running=4, chunk_tokens=16)
    sequence = row(LONG, 4)
    bench.add(sequence)
    for _ in range({"waiting": 0, "prefill": 1, "decode": 3, "in flight": 1}[moment]):
        bench.step()
    step = bench.scheduler.schedule() if moment == "in flight" else None
    bench.scheduler.finish(sequence, Finish.CANCELLED)
    assert bench.blocks.used == 0
    assert sequence.finish is Finish.CANCELLED
    if step is not None:
        bench.done(step)
    assert sequence.output == ([7] if moment == "decode" else [])
    bench.scheduler.finish(sequence, Finish.STOP)  # it has ended already
    assert sequence.finish is Finish.CANCELLED
    assert bench.finish_all(0) == 0


# Shared prefixes


def test_the_second_request_takes_the_prefix_of_the_first() -> None:
    bench = Bench(40)
    first, second, tenant = row((*LONG, 1)), row((*LONG, 2, 3)), row((*LONG, 1), namespace=b"b")
    for sequence, cached in ((first, 0), (second, len(LONG)), (tenant, 0)):
        bench.add(sequence)
        bench.finish_all(10)
        assert sequence.cached == cached


def test_a_burst_computes_its_common_prefix_once() -> None:
    bench = Bench(400, max_running=16, chunk_tokens=32)
    prefix = tuple(range(500, 500 + 200))
    rows = [row((*prefix, n, n), 4) for n in range(16)]
    bench.add(*rows)
    bench.finish_all(work(rows))
    ideal = len(prefix) + sum(2 + 3 for _ in rows)  # the last of four tokens is not run
    assert bench.memory.runs == ideal
    assert [sequence.cached for sequence in rows] == [0] + [len(prefix)] * 15


def test_equal_prompts_lose_no_more_than_a_block_each() -> None:
    bench = Bench(400, max_running=16, chunk_tokens=32)
    rows = [row(LONG, 1) for _ in range(8)]
    bench.add(*rows)
    bench.finish_all(work(rows))
    assert bench.memory.runs == len(LONG) + 7 * SIZE


def test_a_tree_of_prefixes_is_computed_once() -> None:
    bench = Bench(400, max_running=16, chunk_tokens=32)
    branches = [tuple(range(1_000 * n, 1_000 * n + 40)) for n in range(1, 4)]
    rows = [row((*LONG, *branch, leaf), 1) for leaf in range(4) for branch in branches]
    bench.add(*rows)
    bench.finish_all(work(rows))
    assert bench.memory.runs == len(LONG) + 3 * 40 + len(rows)


def test_a_follower_waits_only_for_what_it_shares() -> None:
    bench = Bench(400, max_running=4, chunk_tokens=20)
    leader, follower, stranger = row(tuple(range(300)), 1), row((*range(SIZE), 999), 1), row((5, 5), 2)
    bench.add(leader, follower, stranger)
    bench.step()
    assert bench.scheduler.running == [leader, stranger]
    bench.step()
    assert follower.cached == SIZE
    assert follower.status is Status.FINISHED


@pytest.mark.parametrize("steps", [0, 1])
def test_followers_go_on_when_their_leader_leaves(steps: int) -> None:
    bench = Bench(400, max_running=4, chunk_tokens=20)
    rows = [row((*LONG, n), 1) for n in range(3)]
    bench.add(*rows)
    for _ in range(steps):
        bench.step()
    bench.scheduler.finish(rows[0], Finish.CANCELLED)
    bench.finish_all(6)
    assert bench.memory.runs == len(LONG) + 2  # what the leader had computed is not computed again
    assert [len(sequence.output) for sequence in rows] == [0, 1, 1]


def test_other_namespaces_do_not_wait_for_one_another() -> None:
    bench = Bench(400, chunk_tokens=100, max_running=4)
    rows = [row(LONG, 1, namespace=name) for name in (b"a", b"b")]
    bench.add(*rows)
    assert counts(bench.step()) == {rows[0].id: 40, rows[1].id: 40}


def test_a_fork_runs_the_prompt_once() -> None:
    bench = Bench(400)
    parent = row(LONG[:-1], 4)
    bench.add(parent)
    bench.step()
    children = [row(LONG[:-1], 4) for _ in range(3)]
    for number, child in enumerate(children):
        child.output.append(number)
        bench.scheduler.fork(parent, child)
    step = bench.step()
    assert step is not None
    assert len(step.copies) == 3
    bench.finish_all(3)
    assert bench.memory.runs == len(LONG) - 1 + 4 * 3
    assert [child.output for child in children] == [[number, 7, 7, 7] for number in range(3)]


def test_a_fork_without_room_is_next_in_the_queue() -> None:
    bench = Bench(400, max_running=1, max_waiting=1)
    parent, other, child = row(LONG, 4), row((1,), 4), row(LONG, 4)
    bench.add(parent)
    bench.step()
    bench.add(other)
    child.output.append(1)
    bench.scheduler.fork(parent, child)
    assert list(bench.scheduler.waiting) == [child, other]
    bench.finish_all(20)
    assert child.output == [1, 7, 7, 7]


# Random schedules

# Few tokens, so that prefixes meet; two of them have one hash.
PARTS = [(0,) * SIZE, (2**61 - 1,) * SIZE, (1, 2, 3, 4), (5, 6)]
PROMPTS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map(lambda parts: tuple(chain(*parts)))
TOKENS = st.lists(st.sampled_from([0, 2**61 - 1, 1]), min_size=1, max_size=6).map(tuple)
BLOCKS = 12


class Schedules(RuleBasedStateMachine):
    """Everything that can happen to a scheduler, in any order, over a pool that is always too small."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(BLOCKS, max_running=4, chunk_tokens=10, max_waiting=6, adapter_slots=2)
        self.scheduler = self.bench.scheduler
        self.accepted: list[Sequence] = []
        self.in_flight: Step | None = None
        self.unfinished_steps = 0

    def pick(self, data: st.DataObject, among: list[Sequence]) -> Sequence:
        return data.draw(st.sampled_from(among))

    @rule(
        prompt=PROMPTS,
        new=st.integers(0, 30),
        namespace=st.sampled_from([b"a", b"b"]),
        adapters=st.sampled_from([(), ("x",), ("y", "z"), ("x", "y", "z")]),
        everywhere=st.booleans(),
    )
    def add(
        self, prompt: tuple[int, ...], new: int, namespace: bytes, adapters: tuple[str, ...], everywhere: bool
    ) -> None:
        sequence = row(prompt, new, namespace + "".join(adapters).encode(), adapters)
        sequence.prompt_logits = everywhere
        impossible = -(-sequence.most_computed // SIZE) > BLOCKS or len(adapters) > 2
        full = len(self.scheduler.waiting) >= 6
        try:
            self.scheduler.add(sequence)
        except RequestRefused:
            assert impossible
        except Overloaded:
            assert full
        else:
            assert not impossible
            assert not full
            self.accepted.append(sequence)

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def schedule(self) -> None:
        oldest = self.scheduler.running[:1]
        step = self.scheduler.schedule()
        assert self.scheduler.running[:1] == oldest or not oldest
        if step is None:
            assert not self.scheduler.running
            assert not self.scheduler.waiting
            return
        assert sum(piece.count for piece in step.pieces) <= 10
        moved = {piece.sequence for piece in step.pieces}
        assert self.scheduler.running[0] in moved
        assert {s for s in self.scheduler.running if s.computed >= len(s.prompt)} <= moved
        self.bench.memory.run(step)
        self.in_flight = step

    @precondition(lambda self: self.in_flight is not None)
    @rule(tokens=TOKENS)
    def done(self, tokens: tuple[int, ...]) -> None:
        assert self.in_flight is not None
        self.bench.done(self.in_flight, tokens)
        self.in_flight = None

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), why=st.sampled_from(Finish))
    def finish(self, data: st.DataObject, why: Finish) -> None:
        sequence = self.pick(data, self.accepted)
        self.scheduler.finish(sequence, why)
        self.accepted.remove(sequence)

    @precondition(lambda self: any(s.length for s in self.scheduler.running))
    @rule(data=st.data(), tokens=TOKENS)
    def fork(self, data: st.DataObject, tokens: tuple[int, ...]) -> None:
        parent = self.pick(data, self.scheduler.running)
        child = row(parent.prompt, parent.max_new_tokens, parent.namespace, parent.adapters)
        known = max(0, parent.computed - len(parent.prompt))
        child.output = [*parent.output[:known], *tokens][: max(known, parent.max_new_tokens - 1)]
        self.scheduler.fork(parent, child)
        self.accepted.append(child)

    @invariant()
    def the_books_agree(self) -> None:
        self.bench.blocks.check_integrity()
        running, waiting = set(self.scheduler.running), set(self.scheduler.waiting)
        assert len(running) == len(self.scheduler.running) <= 4
        assert running == self.bench.blocks._tables
        assert all(sequence.status is Status.RUNNING for sequence in running)
        assert all(sequence.status is Status.WAITING for sequence in waiting)
        assert all(sequence.status is Status.FINISHED for sequence in set(self.accepted) - running - waiting)
        assert len({adapter for sequence in running for adapter in sequence.adapters}) <= 2

    def teardown(self) -> None:
        """Whoever is left ends, after no more steps than their tokens take one by one."""
        if self.in_flight is not None:
            self.bench.done(self.in_flight)
        self.bench.finish_all(work(self.accepted) + 1)
        assert all(sequence.status is Status.FINISHED for sequence in self.accepted)


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
