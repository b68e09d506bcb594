"""Hard constraints as masks over a catalogue: for every rule which models meet it, and of which nobody knows.

What is not known never meets a rule of size, context, speed, licence or price. Of languages, domains and subdomains few
models say anything; a model that says nothing passes there, the answer says that it is not known, and how good it is
then follows from evidence alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recommender.columns import KINDS, UNSTATED, YES, Columns, Labels, Mask, licence_key
from recommender.constraints import Constraints
from recommender.fits import Fits, Singles
from recommender.hardware import Machine

# What a kind of model can be asked for without its maker saying so. An encoder has to be fine-tuned for it.
GENERATIVE: Final = frozenset(
    (
        "text-generation",
        "text-classification",
        "token-classification",
        "question-answering",
        "summarization",
        "translation",
    )
)
ENCODER: Final = frozenset(("text-classification", "token-classification", "question-answering"))
EMBEDDING: Final = frozenset(("feature-extraction",))

COMMERCIAL: Final = "commercial"
GENERAL: Final = "general"
MOST: Final = 1e30
MACHINE: Final = "machine"  # nobody states it: the model has to run somewhere


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule over a catalogue. `needed` is the bound with which each model would meet it, where it is a number.

    `exact` says which models were made for the very thing, where others may do it too.
    """

    slot: str
    value: Any
    met: Mask
    unknown: Mask
    needed: Singles | None = None
    exact: Mask | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules are about: the catalogue, how it would run on the machine, and what else was asked."""

    columns: Columns
    fits: Fits
    machine: Machine
    asked: Mapping[str, Any]

    @property
    def nobody(self) -> Mask:
        """None of the models."""
        return np.zeros(len(self.columns), dtype=np.bool_)


def rules_of(constraints: Constraints, columns: Columns, fits: Fits, machine: Machine) -> list[Rule]:
    """Every hard constraint as a rule; and what nobody has to say: it fits the machine, and is not rented unasked."""
    said = constraints.rules().items()
    asked = {slot: bounded(value) for slot, value in said if value is not None and value is not False}
    if not rents(constraints):
        asked["local_only"] = True
    if "memory_gb" not in asked:
        asked[MACHINE] = machine.memory_gb
    facts = Facts(columns, fits, machine, asked)
    return [RULES[slot](facts, value) for slot, value in asked.items()]


def bounded(value: Any) -> Any:
    """A value as it can be compared with float32 columns: no number is beyond `MOST`."""
    return min(value, MOST) if isinstance(value, int | float) and not isinstance(value, bool) else value


def rents(constraints: Constraints) -> bool:
    """Whether rented models are wanted too: a price was named, or that it need not run here."""
    if constraints.local_only is not None:
        return not constraints.local_only.value
    return constraints.max_usd_per_mtok is not None


def met_by_all(rules: list[Rule], count: int) -> Mask:
    """Which models meet every rule."""
    mask = np.ones(count, dtype=np.bool_)
    for rule in rules:
        mask &= rule.met
    return mask


def _task(facts: Facts, value: str) -> Rule:
    columns = facts.columns
    mask = columns.tasks.has(value)
    for kind, tasks in (("generative", GENERATIVE), ("encoder", ENCODER), ("embedding", EMBEDDING)):
        if value in tasks and (kind != "encoder" or facts.asked.get("finetune")):
            mask |= columns.kind == KINDS.index(kind)
    return Rule("task", value, mask, facts.nobody)


def _languages(facts: Facts, value: tuple[str, ...]) -> Rule:
    labels = facts.columns.languages
    mask = labels.stated.copy()
    for language in value:
        mask &= labels.has(language)
    return Rule("languages", value, mask | ~labels.stated, ~labels.stated, exact=mask)


def _topic(slot: str, labels_of: Callable[[Columns], Labels]) -> Callable[[Facts, str], Rule]:
    def rule(facts: Facts, value: str) -> Rule:
        labels = labels_of(facts.columns)
        exact = labels.has(value)
        return Rule(slot, value, exact | labels.has(GENERAL) | ~labels.stated, ~labels.stated, exact=exact)

    return rule


def _license(facts: Facts, value: str) -> Rule:
    columns = facts.columns
    if licence_key(value) == COMMERCIAL:
        return Rule("license", value, columns.commercial == YES, columns.commercial == UNSTATED)
    labels = columns.licences
    return Rule("license", value, labels.has(licence_key(value)), ~labels.stated)


def _device(facts: Facts, value: str) -> Rule:
    mask = facts.columns.local if facts.machine.device == value else facts.nobody
    return Rule("device", value, mask, facts.nobody)


def _local_only(facts: Facts, value: bool) -> Rule:
    return Rule("local_only", value, facts.columns.local, facts.nobody)


def _memory(facts: Facts, value: float) -> Rule:
    local, needed = facts.columns.local, facts.fits.memory_gb
    return Rule("memory_gb", value, local & (needed <= value), local & np.isnan(needed), _of(local, needed))


def _machine(facts: Facts, value: float) -> Rule:
    local, needed = facts.columns.local, facts.fits.memory_gb
    return Rule(MACHINE, value, ~local | (needed <= value), local & np.isnan(needed), _of(local, needed))


def _parameters(facts: Facts, value: float) -> Rule:
    billions = (facts.columns.sizes.parameters / 1e9).astype(np.float32)
    exactly = facts.columns.sizes.parameters / 1e9 <= value
    return Rule("max_parameters_b", value, exactly, np.isnan(billions), billions)


def _context(facts: Facts, value: int) -> Rule:
    context = facts.columns.context
    return Rule("min_context_tokens", value, context >= value, np.isnan(context), context.astype(np.float32))


def _speed(facts: Facts, value: float) -> Rule:
    local, speed = facts.columns.local, facts.fits.tokens_per_s
    unknown = ~local | np.isnan(speed)
    return Rule("min_tokens_per_s", value, local & (speed >= value), unknown, _of(local, speed))


def _finetune(facts: Facts, value: bool) -> Rule:
    local, needed = facts.columns.local, facts.fits.training_gb
    mask = local & ~facts.columns.quantised & (needed <= facts.machine.memory_gb)
    return Rule("finetune", value, mask, local & np.isnan(needed), _of(local & ~facts.columns.quantised, needed))


def _price(facts: Facts, value: float) -> Rule:
    local, price = facts.columns.local, facts.columns.price
    needed = np.where(local, 0.0, price)
    return Rule("max_usd_per_mtok", value, needed <= value, ~local & np.isnan(price), needed.astype(np.float32))


def _of(local: Mask, needed: Singles) -> Singles:
    return np.where(local, needed, np.float32(np.nan))


RULES: Final[dict[str, Callable[[Facts, Any], Rule]]] = {
    "task": _task,
    "languages": _languages,
    "domain": _topic("domain", lambda columns: columns.domains),
    "subdomain": _topic("subdomain", lambda columns: columns.subdomains),
    "device": _device,
    "memory_gb": _memory,
    MACHINE: _machine,
    "max_parameters_b": _parameters,
    "min_context_tokens": _context,
    "min_tokens_per_s": _speed,
    "license": _license,
    "local_only": _local_only,
    "finetune": _finetune,
    "max_usd_per_mtok": _price,
}
