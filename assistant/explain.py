"""What the recommender found, in words: the first answer and its evidence, the runner-up, or what stands in the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from assistant.voice import Voice
from recommender.answers import Recommendation, Recommendations, WayOut

MOST_SHOWN: Final = 3


def recommended(found: Recommendations, voice: Voice) -> str:
    """The first answer, what it rests on, and how the second differs."""
    first = found.answers[0]
    lines = [
        voice.say("recommend", model=first.candidate.id, facts=facts(first, voice)),
        voice.say("evidence", evidence=evidence(first, voice)),
    ]
    if first.missed:
        lines.append(voice.say("missed", rules=voice.phrases(first.missed)))
    if first.unknown:
        lines.append(voice.say("unsaid", facts=", ".join(map(voice.phrase, dict.fromkeys(first.unknown)))))
    if len(found.answers) > 1:
        second = found.answers[1]
        lines.append(voice.say("second", model=second.candidate.id, difference=voice.phrase(second.against_first)))
    return "\n".join([*lines, voice.say("offer_acts")])


def facts(one: Recommendation, voice: Voice) -> str:
    """Where it runs and what it takes: "4.1 GB as Q8_0, about 23 tokens/s, licence mit"."""
    licence = one.candidate.license
    parts = [voice.say("licence", licence=licence) if licence else voice.say("licence_unknown")]
    if one.candidate.weights == "api":
        price = one.candidate.price_usd_per_mtok
        parts.insert(0, voice.say("rented") if price is None else voice.say("rented_at", price=f"{price:g}"))
    if one.tokens_per_s is not None:
        parts.insert(0, voice.say("speed", speed=f"{one.tokens_per_s:.0f}"))
    if one.memory_gb is not None:
        key = "memory_as_stored" if one.form == "as stored" else "memory"
        parts.insert(0, voice.say(key, memory=f"{one.memory_gb:.1f}", form=one.form))
    return ", ".join(parts)


def evidence(one: Recommendation, voice: Voice) -> str:
    """Expected quality with its interval and the grade of what it rests on."""
    if one.quality is None:
        return voice.say("nothing_known")
    points, grade = f"{one.quality:.1f}", voice.phrase(one.grade or "ungraded")
    if one.low is None or one.high is None:
        return voice.say("expected", points=points, grade=grade)
    return voice.say("expected_between", points=points, low=f"{one.low:.0f}", high=f"{one.high:.0f}", grade=grade)


def reasons(found: Recommendations, voice: Voice) -> str:
    """Why these: what the first rests on, why the second lost, what each rule cost."""
    first = found.answers[0]
    lines = [*map(voice.phrase, found.why), voice.say("evidence", evidence=evidence(first, voice))]
    if first.met:
        lines.append(voice.say("meets", rules=voice.phrases(first.met)))
    lines.append(voice.say("survivors", survivors=f"{found.survivors:,}", considered=f"{found.considered:,}"))
    for one in found.left_out:
        counts = {"models": f"{one.models:,}", "alone": f"{one.alone:,}"}
        lines.append(f"  {voice.say('left_out', rule=voice.phrase(one.rule), **counts)}")
    return "\n".join(lines)


def others(found: Recommendations, voice: Voice) -> str:
    """The answers after the first, each against it."""
    if len(found.answers) < 2:
        return voice.say("only_one")
    return "\n".join(
        f"{one.candidate.id}: {facts(one, voice)}; {voice.phrase(one.against_first)}" for one in found.answers[1:]
    )


def nothing(found: Recommendations, voice: Voice) -> str:
    """Which rules stand in each other's way, and what giving one up would buy."""
    if not found.considered:
        return voice.say("no_models")
    lines = [voice.say("none", considered=f"{found.considered:,}")]
    lines += [f"  {_conflict(rules, voice)}" for rules in found.conflicts[:MOST_SHOWN]]
    if found.ways_out:
        lines += [voice.say("help"), *(f"  {_way(way, voice)}" for way in found.ways_out[:MOST_SHOWN])]
    return "\n".join(lines)


def _conflict(rules: Sequence[str], voice: Voice) -> str:
    return voice.say("conflict" if len(rules) > 1 else "unmet", rules=voice.phrases(rules))


def _way(way: WayOut, voice: Voice) -> str:
    takes = voice.phrases(way.best_takes)
    if way.best_quality is None:
        return voice.say("way", takes=takes, model=way.best)
    return voice.say("way_expected", takes=takes, model=way.best, points=f"{way.best_quality:.1f}")
