"""What the recommender found, in words: the first answer and its evidence, the runner-up, or what stands in the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from recommender.answers import Recommendation, Recommendations, WayOut

MOST_SHOWN: Final = 3

OFFER: Final = "I can clone it, fine-tune it on your data, or evaluate it: say which. Or: smaller, faster, why."
ABOUT: Final = "I only help to find a model, and to clone, fine-tune or evaluate it."
NO_MODELS: Final = "This node knows no model yet. Import one (node import) or found a tree (node init)."


def recommended(found: Recommendations) -> str:
    """The first answer, what it rests on, and how the second differs."""
    first = found.answers[0]
    lines = [f"I recommend {first.candidate.id}: {facts(first)}.", f"Evidence: {evidence(first)}."]
    if first.missed:
        lines.append(f"It misses a wish: {'; '.join(first.missed)}.")
    if first.unknown:
        lines.append(f"Nobody said of it: {', '.join(dict.fromkeys(first.unknown))}.")
    if len(found.answers) > 1:
        second = found.answers[1]
        lines.append(f"Runner-up: {second.candidate.id}, {second.against_first}.")
    return "\n".join([*lines, OFFER])


def facts(one: Recommendation) -> str:
    """Where it runs and what it takes: "4.1 GB as Q8_0, about 23 tokens/s, licence mit"."""
    parts = [f"licence {one.candidate.license or 'unknown'}"]
    if one.candidate.weights == "api":
        price = one.candidate.price_usd_per_mtok
        parts.insert(0, "rented" if price is None else f"rented at {price:g} USD per million tokens")
    if one.tokens_per_s is not None:
        parts.insert(0, f"about {one.tokens_per_s:.0f} tokens/s")
    if one.memory_gb is not None:
        parts.insert(0, f"{one.memory_gb:.1f} GB {one.form if one.form == 'as stored' else f'as {one.form}'}")
    return ", ".join(parts)


def evidence(one: Recommendation) -> str:
    """Expected quality with its interval and the grade of what it rests on."""
    if one.quality is None:
        return "nothing is known of its quality"
    known = one.low is not None and one.high is not None
    spread = f", between {one.low:.0f} and {one.high:.0f} nine times in ten" if known else ""
    return f"{one.quality:.1f} points of 100 expected{spread} ({one.grade or 'ungraded'})"


def reasons(found: Recommendations) -> str:
    """Why these: what the first rests on, why the second lost, what each rule cost."""
    first = found.answers[0]
    lines = [*found.why, f"Evidence: {evidence(first)}."]
    if first.met:
        lines.append(f"It meets: {'; '.join(first.met)}.")
    lines.append(f"{found.survivors:,} of {found.considered:,} models meet every rule.")
    lines += [f"  {one.rule}: {one.models:,} do not, {one.alone:,} of them fail only there" for one in found.left_out]
    return "\n".join(lines)


def others(found: Recommendations) -> str:
    """The answers after the first, each against it."""
    if len(found.answers) < 2:
        return "No other model meets every rule. Give one up, and there may be more."
    return "\n".join(f"{one.candidate.id}: {facts(one)}; {one.against_first}" for one in found.answers[1:])


def nothing(found: Recommendations) -> str:
    """Which rules stand in each other's way, and what giving one up would buy."""
    if not found.considered:
        return NO_MODELS
    lines = [f"None of {found.considered:,} models meets every rule."]
    lines += [f"  {_conflict(rules)}" for rules in found.conflicts[:MOST_SHOWN]]
    if found.ways_out:
        lines += ["What would help:", *(f"  {_way(way)}" for way in found.ways_out[:MOST_SHOWN])]
    return "\n".join(lines)


def _conflict(rules: Sequence[str]) -> str:
    return f"{'not together' if len(rules) > 1 else 'met by none'}: {'; '.join(rules)}"


def _way(way: WayOut) -> str:
    quality = "" if way.best_quality is None else f" ({way.best_quality:.1f} points expected)"
    return f"{'; '.join(way.best_takes)}: then {way.best}{quality}"
