"""What an engine counts: plain numbers under the names that vLLM made common, for whoever publishes them.

Times are in seconds by the engine's own clock, from the arrival of a request in the engine.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from node.engine.sequence import Finish

SHORT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0)
LONG_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie at or below each of `bounds` and above the one before; the last count is of the rest."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """All values."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Statistics:
    """One moment of an engine. Counters only grow; `num_*` and `*_perc` (0 to 1) are of the moment."""

    num_requests_running: int
    num_requests_waiting: int
    kv_cache_usage_perc: float
    prefix_cache_queries: int  # tokens of prompts that were looked up
    prefix_cache_hits: int  # of these, tokens that were found
    num_preemptions: int
    prompt_tokens_total: int
    generation_tokens_total: int
    request_success_total: Mapping[str, int]  # finished_reason -> answers
    time_to_first_token_seconds: Histogram
    inter_token_latency_seconds: Histogram
    e2e_request_latency_seconds: Histogram
    request_queue_time_seconds: Histogram
    request_prefill_time_seconds: Histogram
    request_decode_time_seconds: Histogram


class Timings:
    """A histogram that is still filled."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def taken(self) -> Histogram:
        """What was counted so far."""
        return Histogram(self._bounds, tuple(self._counts), self._sum)


@dataclass(slots=True)
class Marks:
    """When things happened to one answer, by the engine's clock; None for what has not."""

    arrived: float
    started: float | None = None  # first turn
    first: float | None = None  # first token
    last: float | None = None  # latest token


@dataclass(slots=True)
class Counters:
    """Counts as the engine works. Written by one thread, read by any."""

    queries: int = 0
    hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Finish, 0))
    time_to_first: Timings = field(default_factory=lambda: Timings(LONG_S))
    between_tokens: Timings = field(default_factory=lambda: Timings(SHORT_S))
    whole: Timings = field(default_factory=lambda: Timings(LONG_S))
    queued: Timings = field(default_factory=lambda: Timings(LONG_S))
    prefill: Timings = field(default_factory=lambda: Timings(LONG_S))
    decode: Timings = field(default_factory=lambda: Timings(LONG_S))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def started(self, marks: Marks, now: float, prompt: int, cached: int) -> None:
        """An answer got its first turn: so many tokens of prompt, of these so many from the cache."""
        marks.started = now
        with self.lock:
            self.queries += prompt
            self.hits += cached
            self.prompt_tokens += prompt
            self.queued.add(now - marks.arrived)

    def generated(self, marks: Marks, now: float, tokens: int) -> None:
        """A step gave an answer so many tokens."""
        with self.lock:
            self.generation_tokens += tokens
            if marks.last is None:
                self.time_to_first.add(now - marks.arrived)
                self.prefill.add(now - (marks.started if marks.started is not None else now))
                marks.first = now
            else:
                self.between_tokens.add((now - marks.last) / tokens, tokens)
        marks.last = now

    def ended(self, marks: Marks, now: float, why: Finish) -> None:
        """An answer is over."""
        with self.lock:
            self.finished[why] += 1
            if why in (Finish.STOP, Finish.LENGTH) and marks.first is not None:
                self.whole.add(now - marks.arrived)
                self.decode.add(now - marks.first)

    def taken(self, running: int, waiting: int, cache_usage: float, preemptions: int) -> Statistics:
        """Everything as it is now, with what the scheduler and the cache say of the moment."""
        with self.lock:
            return Statistics(
                num_requests_running=running,
                num_requests_waiting=waiting,
                kv_cache_usage_perc=cache_usage,
                prefix_cache_queries=self.queries,
                prefix_cache_hits=self.hits,
                num_preemptions=preemptions,
                prompt_tokens_total=self.prompt_tokens,
                generation_tokens_total=self.generation_tokens,
                request_success_total={str(why): count for why, count in self.finished.items()},
                time_to_first_token_seconds=self.time_to_first.taken(),
                inter_token_latency_seconds=self.between_tokens.taken(),
                e2e_request_latency_seconds=self.whole.taken(),
                request_queue_time_seconds=self.queued.taken(),
                request_prefill_time_seconds=self.prefill.taken(),
                request_decode_time_seconds=self.decode.taken(),
            )
