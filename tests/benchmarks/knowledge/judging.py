"""The checks of a parent at work on adapters in memory: what it takes of one alone, and beside a cohort.

It is what `sync.inspection` does with stored updates, stage by stage with the same functions and the thresholds of a
node's settings. What an adapter does to the model takes seconds and is kept by its digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from node.promotions import thresholds_of
from node.settings import Settings
from registry.documents import CheckResult
from registry.rows import Row
from simulations.learning.trained import digest_of
from sync.aggregate.geometry import gram
from sync.checks.agreement import check_answers, comparable
from sync.checks.behaviour import check_behaviour
from sync.checks.probes import Answers, asked_by, once, probes_of
from sync.checks.root_set import check_root, root_update
from sync.checks.siblings import check_siblings
from sync.checks.size import check_size, check_terms, norms_of
from sync.checks.spectrum import check_spectrum, spectrum_of
from sync.checks.triggers import probe_triggers
from sync.delta import Delta
from sync.inspection import base_norms
from sync.judging import CANARY_SURE
from sync.model import LoadedModel, add
from sync.parent import PromotionPlan
from sync.sampled import sampled
from sync.score import evaluate_rows, fits, reanswered
from sync.tokens import Example, encode
from tests.benchmarks.knowledge.children import base_model, delta_digest
from tests.benchmarks.knowledge.children import sampled as some
from tests.benchmarks.knowledge.cohorts import PARENT
from tests.benchmarks.knowledge.study import Study, known

KNOWN_ROWS: Final = 200  # of the 1,100 that a node has: every check is a pass over them
SHOWN: Final = 40  # of a sender's requests travel
CANARY_DRAWS: Final = 3  # of as many canaries as a node draws, so that luck can be told from loss
VERSION: Final = 3  # of what is kept: to be raised where the checks of one update measure something else
RELEASE: Final = "0" * 64  # the parent serves the bundled base itself


@dataclass(frozen=True, slots=True)
class Sent:
    """An update: the adapter, the place it speaks for, and its transfer set."""

    delta: Delta
    path: str
    rows: tuple[Row, ...]


class Judge:
    """A parent that serves the bundled base at `en/finance`."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.thresholds = thresholds_of(Settings())
        self.known = list(some(known(), KNOWN_ROWS, 5))
        self.loaded = base_model()
        self.weights = base_norms(self.loaded)
        self.measures: dict[str, tuple[dict[str, float], Any]] = {}

    @cached_property
    def before(self) -> list[bool]:
        """Which of the known rows the release answers."""
        return evaluate_rows(self.loaded, self.known, PARENT)[1]

    @cached_property
    def answers(self) -> Answers:
        """What the release says, asked once for each prompt."""
        return once(asked_by(base_model()))

    @cached_property
    def reference(self) -> Delta | None:
        """What the own rows would change."""
        return root_update(self.loaded, self.known, PARENT, RELEASE, self.study.work / "roots")

    @cached_property
    def canaries(self) -> list[list[Row]]:
        """Prompts that the release says to itself, as nodes of different keys would draw them (G9)."""
        return drawn_canaries(self.loaded, {row.task for row in self.known}, PARENT)

    def sent(self, delta: Delta, path: str, rows: Sequence[Row]) -> Sent:
        """An update whose transfer set shows some of its sender's requests, with its own model's answers (C23)."""
        shown = rows[:SHOWN]
        what = {"answers": delta_digest(delta), "sender": path, "asked": digest_of([row.input for row in shown])}
        said = self.study.cell(
            what, lambda: {"said": {row.input: row.output for row in reanswered(base_model([delta]), shown, path)}}
        )["said"]
        return Sent(delta, path, tuple(replace(row, output=said[row.input]) for row in shown if row.input in said))

    def accepts(self, sent: Sent, others: Sequence[Sent]) -> bool:
        """Whether every check passes; none is made after a stage that fails."""
        return all(one.passed for stage in self.stages(sent, others) for one in stage)

    def stages(self, sent: Sent, others: Sequence[Sent]) -> Iterator[list[CheckResult]]:
        """Stages 3 to 6 of the change, what 5 asks, and 7; what runs the model is made when it is asked for."""
        limits = self.thresholds
        yield self.beside(sent.delta, [other.delta for other in others])
        yield [check_root(sent.delta, self.reference, len(self.known), min_cosine=limits.root_min_cosine)]
        yield [self.agreement(sent, others)]
        yield self.behaviour(sent.delta, sent.rows, sent.path)

    def agreement(self, sent: Sent, others: Sequence[Sent]) -> CheckResult:
        """What stage 5 asks of siblings' requests."""
        asked = comparable(sent.rows, [other.rows for other in others], delta_digest(sent.delta))
        least = self.thresholds.siblings_min_agreement
        what = {"agreement": delta_digest(sent.delta), "sender": sent.path, "checks": VERSION, "least": least}
        what |= {"asked": digest_of([[(row.input, row.output) for row in rows] for rows in asked])}

        def ask() -> dict[str, Any]:
            model = base_model([sent.delta])
            return check_answers(model, asked, sent.path, min_agreement=least).model_dump()

        return CheckResult(**self.study.cell(what, ask))

    def behaviour(self, delta: Delta, asked: Sequence[Row], sender: str) -> list[CheckResult]:
        """Stage 7: what is left of known rows, and what triggers bring out."""
        what = {"behaviour": delta_digest(delta), "sender": sender, "checks": VERSION, "rows": KNOWN_ROWS}
        what |= {"asked": digest_of([row.input for row in asked]), "loss": self.thresholds.max_loss_points}
        record = self.study.cell(
            what,
            lambda: {"results": [one.model_dump() for one in self._behaviour(delta, asked, sender)]},
        )
        return [self._again(CheckResult(**one)) for one in record["results"]]

    def _again(self, kept: CheckResult) -> CheckResult:
        """A kept result under the thresholds of now."""
        if kept.value is None or kept.name != "behaviour.triggers":
            return kept
        most = self.thresholds.triggers_max_collapse
        return kept.model_copy(update={"threshold": most, "passed": kept.value <= most})

    def _behaviour(self, delta: Delta, asked: Sequence[Row], sender: str) -> list[CheckResult]:
        limits, loaded, before = self.thresholds, self.loaded, self.before
        probes = [*probes_of(self.known, PARENT, "probes"), *probes_of(asked, sender, "probes")]
        add(loaded, delta)
        try:
            results = check_behaviour(
                before, loaded, self.known, [], path=PARENT, sender=sender, max_loss_points=limits.max_loss_points
            )
            if not all(one.passed for one in results):
                return results
            most = limits.triggers_max_collapse
            return [*results, probe_triggers(loaded, self.answers, probes, "probes", max_collapse=most)]
        finally:
            self.loaded = base_model()  # not minus the delta: of one that is too large something would be left

    def beside(self, delta: Delta, others: Sequence[Delta]) -> list[CheckResult]:
        """Stages 3 to 5, beside the base and a cohort."""
        limits = self.thresholds
        norms, form = self.measured(delta)
        measured = [self.measured(other) for other in others]
        return [
            *check_size(norms, self.weights, [one for one, _ in measured], z_limit=limits.size_max_z),
            check_terms(delta, self.weights),
            *check_spectrum(form, [one for _, one in measured], max_z=limits.spectrum_max_z),
            *check_siblings(gram([delta, *others]), max_z=limits.siblings_max_z, max_cosine=limits.siblings_max_cosine),
        ]

    def measured(self, delta: Delta) -> tuple[dict[str, float], Any]:
        """Norms and form of an adapter, measured once."""
        digest = delta_digest(delta)
        if digest not in self.measures:
            self.measures[digest] = norms_of(delta), spectrum_of(delta)
        return self.measures[digest]

    def right(self, delta: Delta, rows: Sequence[Row], path: str = PARENT) -> float:
        """The share of rows that greedy decoding answers token for token with a delta added to the release."""
        model = base_model([delta])
        found = fits(model, [encode(model, Example(row, path), 512) for row in rows], lambda done: None)
        return sum(fit.greedy for fit in found) / len(found)


def drawn_canaries(loaded: LoadedModel, tasks: Iterable[str], path: str) -> list[list[Row]]:
    """The canaries of `sync.judging`, drawn by the keys of CANARY_DRAWS nodes."""
    named = sorted(set(tasks)) or [""]
    wanted = PromotionPlan().canaries
    return [sampled(loaded, path, wanted, seed, named, least_sure=CANARY_SURE) for seed in range(CANARY_DRAWS)]
