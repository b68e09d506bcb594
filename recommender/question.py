"""A need over a catalogue, worked out: how the models would run, which rules and wishes each meets, and the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recommender.answers import LeftOut, Recommendation, Recommendations, WayOut
from recommender.columns import Mask, Rows
from recommender.conflicts import Relaxation, conflicts, relaxations
from recommender.constraints import Constraints
from recommender.fits import FORMS, Fits, fits_of
from recommender.hardware import Machine
from recommender.index import Index
from recommender.memory import Floats
from recommender.own_scores import difference
from recommender.rank import STEPS, Predict, Quality, by_score, in_steps, pareto
from recommender.rules import RULES, Facts, Rule, bounded, rules_of
from recommender.words import (
    rule_in_words,
    scales_in_words,
    score_in_words,
    trade_in_words,
    unknown_in_words,
    voices_in_words,
    way_in_words,
)

MOST_LOOKED_AT: Final = 500  # of the models behind one way out
UNKNOWN_IS_FAR: Final = 1e6


@dataclass(frozen=True, slots=True)
class Question:
    """A need over a catalogue, worked out: how the models would run, its rules, its wishes."""

    constraints: Constraints
    index: Index
    machine: Machine
    fits: Fits
    rules: list[Rule]
    wishes: list[Rule]
    unmet: Floats  # wishes that each model does not meet
    vague: Floats  # languages, domains and subdomains that were asked for and that each model was not made for

    @classmethod
    def of(cls, constraints: Constraints, index: Index, machine: Machine, factor: float) -> Question:
        """Every rule and wish as a mask over the catalogue."""
        columns = index.columns
        context, speed = constraints.min_context_tokens, constraints.min_tokens_per_s
        fits = fits_of(
            index.forms,
            machine,
            context_tokens=bounded(context.value) if context else None,
            least_tokens_per_s=speed.value if speed else None,
            factor=factor,
        )
        asked = {slot: found.value for slot, found in constraints.stated()}
        facts = Facts(columns, fits, machine, asked)
        soft = [(slot, found.value) for slot, found in constraints.stated() if not found.hard]
        wishes = [RULES[slot](facts, bounded(value)) for slot, value in soft if value is not False]
        unmet = np.zeros(len(columns))
        for wish in wishes:
            unmet += ~wish.met
        rules = rules_of(constraints, columns, fits, machine)
        vague = np.zeros(len(columns))
        for rule in (*rules, *wishes):
            if rule.exact is not None:
                vague += ~rule.exact
        return cls(constraints, index, machine, fits, rules, wishes, unmet, vague)

    def order(self, rows: Rows, quality: Quality) -> Rows:
        """Positions in `rows` from the best answer to the worst."""
        memory = self.fits.memory_gb[rows].astype(np.float64)
        return by_score(quality, self.unmet[rows], self.vague[rows], memory)

    def answers(self, rows: Rows, quality: Quality, survivors: int, count: int) -> Recommendations:
        """The best of the rows that were scored, with reasons."""
        order, front = self.order(rows, quality), self._front(rows, quality)
        best = [self._answer(rows, quality, place, order[0], front) for place in order[:count]]
        return Recommendations(
            answers=tuple(best),
            considered=len(self.index.columns),
            survivors=survivors,
            machine=self.machine,
            why=(*_why(best, survivors), *_about_scales(quality, order[:2].tolist(), best)),
            left_out=self._left_out(),
            conflicts=(),
            ways_out=(),
        )

    def nothing(self, predict: Predict) -> Recommendations:
        """No answer: which rules conflict, and what would help."""
        ways = relaxations(self.rules, len(self.index.columns))
        helpful = [way for way in ways if "task" not in way.slots] or ways  # nobody gives up what it is for
        said = {rule.slot: rule_in_words(rule.slot, rule.value) for rule in self.rules}
        return Recommendations(
            answers=(),
            considered=len(self.index.columns),
            survivors=0,
            machine=self.machine,
            why=(),
            left_out=self._left_out(),
            conflicts=tuple(tuple(said[slot] for slot in sorted(one)) for one in conflicts(ways)),
            ways_out=tuple(self._way_out(way, predict) for way in helpful),
        )

    def _answer(self, rows: Rows, quality: Quality, place: int, first: int, front: Mask) -> Recommendation:
        row, fits = rows[place], self.fits
        candidate = self.index.columns.candidates[row]
        here = candidate.weights == "local"
        everything = [*self.rules, *self.wishes]
        silent = [rule for rule in everything if rule.unknown[row]]
        return Recommendation(
            candidate=candidate,
            form=FORMS[fits.form[row]] if here else "rented",
            memory_gb=_number(fits.memory_gb[row]) if here else None,
            training_gb=_number(fits.training_gb[row]) if here else None,
            tokens_per_s=_number(fits.tokens_per_s[row]) if here else None,
            quality=_points(quality.mean[place]),
            low=_points(quality.low[place]),
            high=_points(quality.high[place]),
            grade=quality.grade[place],
            basis=score_in_words(quality.own[place][0]) if place in quality.own else "",
            met=tuple(rule_in_words(r.slot, r.value) for r in everything if r.met[row] and not r.unknown[row]),
            missed=tuple(rule_in_words(wish.slot, wish.value) for wish in self.wishes if not wish.met[row]),
            unknown=tuple(unknown_in_words(rule.slot) for rule in silent),
            on_front=bool(front[place]),
            against_first="" if place == first else self._against(rows, quality, place, first),
        )

    def _against(self, rows: Rows, quality: Quality, place: int, first: int) -> str:
        mine, its, fits = rows[place], rows[first], self.fits
        return trade_in_words(
            float(quality.mean[place] - quality.mean[first]),
            float(fits.memory_gb[mine] - fits.memory_gb[its]),
            float(fits.tokens_per_s[mine] - fits.tokens_per_s[its]),
        )

    def _front(self, rows: Rows, quality: Quality) -> Mask:
        columns, fits = self.index.columns, self.fits
        here = columns.local[rows]
        price = np.where(here, 0.0, columns.price[rows])
        return pareto(
            [
                in_steps(quality.mean, STEPS["quality"]),
                -in_steps(np.where(here, fits.memory_gb[rows], 0.0), STEPS["memory_gb"]),
                in_steps(fits.tokens_per_s[rows].astype(np.float64), STEPS["tokens_per_s"]),
                columns.commercial[rows].astype(np.float64),
                -in_steps(price, STEPS["price"]),
            ]
        )

    def _left_out(self) -> tuple[LeftOut, ...]:
        count = len(self.index.columns)
        failed = np.zeros(count, dtype=np.int8)
        for rule in self.rules:
            failed += ~rule.met
        found = []
        for rule in self.rules:
            lost = ~rule.met
            if models := int(lost.sum()):
                words = rule_in_words(rule.slot, rule.value)
                alone, unknown = int((lost & (failed == 1)).sum()), int((lost & rule.unknown).sum())
                found.append(LeftOut(words, models, alone, unknown))
        return tuple(sorted(found, key=lambda one: -one.alone))

    def _way_out(self, way: Relaxation, predict: Predict) -> WayOut:
        given_up = [rule for rule in self.rules if rule.slot in way.slots]
        apart = np.zeros(len(way.rows))
        for rule in given_up:
            apart += _apart(rule, way.rows)
        nearest = way.rows[np.argsort(apart, kind="stable")[:MOST_LOOKED_AT]]
        quality = predict([self.index.columns.candidates[row] for row in nearest], self.constraints)
        best = self.order(nearest, quality)[0]
        return WayOut(
            slots=tuple(rule.slot for rule in given_up),
            takes=_takes(given_up, nearest[0]),
            models=len(way.rows),
            nearest=self.index.columns.candidates[nearest[0]].id,
            best=self.index.columns.candidates[nearest[best]].id,
            best_quality=_points(quality.mean[best]),
            best_takes=_takes(given_up, nearest[best]),
        )


def _apart(rule: Rule, rows: Rows) -> Floats:
    """How far rows are from meeting a rule, as a share of its bound; the same for all where it has none."""
    if rule.needed is None:
        return np.ones(len(rows))
    needed = rule.needed[rows].astype(np.float64)
    bound = 0.0 if isinstance(rule.value, bool) else float(rule.value)
    return np.nan_to_num(np.abs(needed - bound) / max(bound, 1.0), nan=UNKNOWN_IS_FAR)


def _takes(rules: Sequence[Rule], row: int) -> tuple[str, ...]:
    return tuple(
        way_in_words(rule.slot, rule.value, _number(rule.needed[row]) if rule.needed is not None else None)
        for rule in rules
    )


def _why(best: Sequence[Recommendation], survivors: int) -> list[str]:
    """Sentences: what the first answer rests on, and why the second came second."""
    first = best[0]
    if first.quality is None:
        what = f"of {survivors:,} that meet every rule the one nearest to the need, then the smallest"
        what += "; nothing is known of their quality"
    else:
        what = f"the most quality expected of {survivors:,} that meet every rule ({first.grade})"
    lines = [f"{first.candidate.id}: {what}"]
    if len(best) > 1:
        lines.append(f"over {best[1].candidate.id}: {_reason(first, best[1])}")
    return lines


def _about_scales(quality: Quality, places: Sequence[int], best: Sequence[Recommendation]) -> list[str]:
    """Sentences: what the first answer's own score is, how the second did on the same rows, or that scales differ."""
    own = [quality.own.get(place, ()) for place in places]
    named = [(one.candidate.id, place) for one, place in zip(best, places, strict=False)]
    voices = [voices_in_words(name, quality.liked[place]) for name, place in named if quality.liked.get(place)]
    lines = [f"{one.candidate.id}: {one.basis}" for one in best[:2] if one.basis]
    if len(best) < 2 or not lines:
        return lines + voices
    both = difference(*own)
    names = [one.candidate.id for one in best[:2]]
    return [*lines, scales_in_words(names[0], names[1], both), *voices]


def _reason(first: Recommendation, second: Recommendation) -> str:
    if missed := [wish for wish in second.missed if wish not in first.missed]:
        return f"it misses: {'; '.join(missed)}"
    if first.quality is None:
        return "it is not nearer to the need, and not smaller"
    if second.quality is None:
        return "nothing is known of its quality"
    overlaps = second.high is not None and second.high >= first.quality
    return f"{second.against_first}{'; the intervals overlap, so it may be as good' if overlaps else ''}"


def _points(value: Any) -> float | None:
    """A score as it is shown: what is predicted of the smallest models may lie below the scale."""
    return None if (found := _number(value)) is None else min(100.0, max(0.0, found))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
