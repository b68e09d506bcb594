"""Rules, wishes and trade-offs in words, for people: one place for how the recommender speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from recommender.own_scores import Difference, OwnScore
from recommender.rules import COMMERCIAL, MACHINE


def _license(value: str) -> str:
    return "a licence that allows commercial use" if value == COMMERCIAL else f"licence {value}"


_SAYS: Final[dict[str, Callable[[Any], str]]] = {
    "task": lambda value: f"does {value}",
    "languages": lambda value: f"knows {', '.join(value)}",
    "domain": lambda value: f"for {value}",
    "subdomain": lambda value: f"for {value}",
    "device": lambda value: f"runs on {value}",
    "memory_gb": lambda value: f"at most {value:g} GB of memory",
    MACHINE: lambda value: f"fits this machine ({value:.1f} GB)",
    "max_parameters_b": lambda value: f"at most {value:g} billion parameters",
    "min_context_tokens": lambda value: f"at least {value:,} tokens of context",
    "min_tokens_per_s": lambda value: f"at least {value:g} tokens/s",
    "license": _license,
    "local_only": lambda _: "runs here, not rented",
    "finetune": lambda _: "can be fine-tuned here",
    "max_usd_per_mtok": lambda value: f"at most {value:g} USD per million tokens",
}

_UNKNOWN: Final = {
    "task": "its tasks",
    "languages": "its languages",
    "domain": "its domain",
    "subdomain": "its subdomain",
    "memory_gb": "its size",
    MACHINE: "its size",
    "max_parameters_b": "its size",
    "min_context_tokens": "its context",
    "min_tokens_per_s": "its speed",
    "license": "its licence",
    "finetune": "its size",
    "max_usd_per_mtok": "its price",
}

_NEEDS: Final[dict[str, Callable[[float], str]]] = {
    "memory_gb": lambda needed: f"{needed:.1f} GB of memory",
    MACHINE: lambda needed: f"a machine with {needed:.1f} GB free",
    "max_parameters_b": lambda needed: f"{needed:.3g} billion parameters",
    "min_context_tokens": lambda needed: f"{needed:,.0f} tokens of context",
    "min_tokens_per_s": lambda needed: f"{needed:.2g} tokens/s",
    "finetune": lambda needed: f"{needed:.1f} GB to fine-tune in",
    "max_usd_per_mtok": lambda needed: f"{needed:.3g} USD per million tokens",
}


def rule_in_words(slot: str, value: Any) -> str:
    """A rule or wish: "at most 8 GB of memory"."""
    return _SAYS[slot](value)


def unknown_in_words(slot: str) -> str:
    """What nobody said of a model: "its licence"."""
    return _UNKNOWN.get(slot, slot)


def way_in_words(slot: str, value: Any, needed: float | None) -> str:
    """What giving up a rule means: "9.8 GB of memory instead of 8 GB", or "without: knows de"."""
    if needed is None or slot not in _NEEDS:
        return f"without: {rule_in_words(slot, value)}"
    instead = "" if slot in (MACHINE, "finetune") else f" (asked: {_NEEDS[slot](value)})"
    return f"{_NEEDS[slot](needed)}{instead}"


def trade_in_words(quality: float | None, memory_gb: float | None, tokens_per_s: float | None) -> str:
    """How one answer differs from another, in what anybody feels: "2.1 points less, 3.0 GB less, 20 tokens/s more"."""
    parts = [
        _difference(quality, 0.05, "points"),
        _difference(memory_gb, 0.05, "GB"),
        _difference(tokens_per_s, 0.5, "tokens/s"),
    ]
    return ", ".join(part for part in parts if part) or "the same in quality, memory and speed"


def score_in_words(score: OwnScore) -> str:
    """A measurement: "81.0 % of 300 rows right (intent, en, finance/cards), measured here on 2026-11-21"."""
    of = f" of {score.rows:,} rows right" if score.rows else ""
    said = ", ".join(part for part in (score.task, "/".join(score.languages), "/".join(score.domains)) if part)
    where = "measured here" if score.here else f"measured by {score.source}"
    return f"{score.score:.1f} %{of}{f' ({said})' if said else ''}, {where} on {score.measured.date().isoformat()}"


def scales_in_words(first: str, second: str, both: Difference | None) -> str:
    """How two answers compare where at least one has a score on a scale of its own."""
    if both is None:
        return f"{first} and {second} were measured on different scales: the gap between them says little"
    gap = f"{both.points:+.1f} points ({both.low:+.1f} to {both.high:+.1f})"
    return f"{first} against {second} on the same {both.rows:,} rows: {gap}"


def voices_in_words(model: str, points: float) -> str:
    """What users' voices changed."""
    return f"{model}: users' ratings and clones count {points:+.1f} points in this order"


def _difference(value: float | None, least: float, unit: str) -> str:
    if value is None or value != value or abs(value) < least:  # noqa: PLR0124  nan
        return ""
    return f"{abs(value):.1f} {unit} {'more' if value > 0 else 'less'}"
