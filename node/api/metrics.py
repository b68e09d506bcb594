"""/metrics for Prometheus: what the engines count, and the requests over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from node.engine.statistics import Histogram as Counts
from node.engine.statistics import Statistics

LABEL: Final = ["base"]
GAUGES: Final = {
    "num_requests_running": "Answers that are worked on",
    "num_requests_waiting": "Answers that wait for their turn",
    "kv_cache_usage_perc": "Share of the cache in use, 0 to 1",
}
COUNTERS: Final = {
    "prefix_cache_queries": "Tokens of prompts that were looked up in the cache",
    "prefix_cache_hits": "Tokens of prompts that were found in the cache",
    "num_preemptions": "Times that an answer lost its place to others",
    "prompt_tokens_total": "Tokens of prompts",
    "generation_tokens_total": "Tokens that were generated",
}
HISTOGRAMS: Final = {
    "time_to_first_token_seconds": "From the arrival of a request to its first token",
    "inter_token_latency_seconds": "Between two tokens of an answer",
    "e2e_request_latency_seconds": "From the arrival of a request to its last token",
    "request_queue_time_seconds": "From the arrival of a request to its first turn",
    "request_prefill_time_seconds": "From the first turn of a request to its first token",
    "request_decode_time_seconds": "From the first token of an answer to its last",
}


class EngineCollector(Collector):
    """Reads the engines when Prometheus asks; `statistics` gives theirs by the digest of the base."""

    def __init__(self, statistics: Callable[[], Mapping[str, Statistics]]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        """All series of all engines, named after vLLM's."""
        taken = {base[:12]: statistics for base, statistics in self._statistics().items()}
        for name, text in GAUGES.items():
            gauge = GaugeMetricFamily(f"banyan_{name}", text, labels=LABEL)
            for base, statistics in taken.items():
                gauge.add_metric([base], getattr(statistics, name))
            yield gauge
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"banyan_{name}", text, labels=LABEL)
            for base, statistics in taken.items():
                counter.add_metric([base], getattr(statistics, name))
            yield counter
        finished = CounterMetricFamily(
            "banyan_request_success", "Answers that ended, by the reason", labels=[*LABEL, "finished_reason"]
        )
        for base, statistics in taken.items():
            for reason, count in statistics.request_success_total.items():
                finished.add_metric([base, reason], count)
        yield finished
        yield from _histograms(taken)


def _histograms(taken: Mapping[str, Statistics]) -> Iterable[Metric]:
    for name, text in HISTOGRAMS.items():
        family = HistogramMetricFamily(f"banyan_{name}", text, labels=LABEL)
        for base, statistics in taken.items():
            counts: Counts = getattr(statistics, name)
            family.add_metric([base], _cumulative(counts), counts.sum)
        yield family


def _cumulative(counts: Counts) -> list[tuple[str, float]]:
    """Prometheus counts in each bucket everything below it, too."""
    buckets, below = [], 0
    for bound, count in zip((*map(str, counts.bounds), "+Inf"), counts.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    return buckets


class HttpMetrics:
    """Requests over HTTP, in a registry of the application's own."""

    def __init__(self, statistics: Callable[[], Mapping[str, Statistics]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(statistics))
        labels = ["route", "method"]
        self._requests = Counter(
            "banyan_http_requests", "Requests over HTTP", [*labels, "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "banyan_http_request_duration_seconds",
            "From the head of a request to the end of its answer",
            labels,
            registry=self.registry,
        )

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request; `route` is the pattern of its place, since places themselves are without number."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)


def metric_routes(metrics: HttpMetrics) -> APIRouter:
    """The route of metrics."""
    routes = APIRouter()

    @routes.get("/metrics", response_class=Response)
    def read() -> Response:
        """Everything that is counted, in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes
